"""Decoding into a cache of fixed size gives the tokens of decoding into a growing one."""

import gc
import weakref

import pytest
import torch

from rlsubnet.evaluation import static_cache
from rlsubnet.evaluation.generate import generate, noise_generator
from rlsubnet.evaluation.static_cache import StaticSampler, fits_static_cache
from tests.evaluation.tiny_models import tiny_model

EOS, PAD = 2, 0
ENDS = {"eos_token_id": EOS, "pad_token_id": PAD}
PROMPTS = [[1, 5, 6, 7], [1, 9], [1, 4, 4, 13, 8, 16], [1], [1, 20, 11]]


def ending_model(family: str = "qwen2"):
    """Return a model whose likeliest token is the end token now and then."""
    model = tiny_model(family)
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 1.6
    return model


def padded(rows: torch.Tensor, width: int) -> list[list[int]]:
    return [row + [PAD] * (width - len(row)) for row in rows.tolist()]


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("tokens", [1, 2, 20])
def test_greedy_tokens_are_those_of_a_growing_cache(family: str, tokens: int) -> None:
    model = ending_model(family)
    expected = generate(model, PROMPTS, tokens, **ENDS)
    found = StaticSampler(model)(PROMPTS, tokens, **ENDS)
    width = max(found.shape[1], expected.shape[1])
    assert padded(found, width) == padded(expected, width)


def test_rows_end_at_different_places_in_the_example_above() -> None:
    rows = generate(ending_model(), PROMPTS, 20, **ENDS).tolist()
    assert len({row.index(EOS) if EOS in row else 20 for row in rows}) >= 3


def test_decoding_stops_soon_after_every_row_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_cache, "CHECK_EVERY", 4)
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all logits are equal: greedy takes token 0
    rows = StaticSampler(model)(PROMPTS, 40, eos_token_id=0, pad_token_id=3)
    assert rows.tolist() == [[0, 3, 3, 3]] * len(PROMPTS)


def test_batch_after_batch_is_drawn_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counted(static_cache._Decoder):
        def __init__(self, *arguments: object) -> None:
            made.append(arguments[1])
            super().__init__(*arguments)

    monkeypatch.setattr(static_cache, "_Decoder", Counted)
    model = ending_model()
    sampler = StaticSampler(model)
    longer = [[1, *[4 + n % 9] * n] for n in (3, 14, 9, 1, 6)]
    for prompts in (PROMPTS, PROMPTS[::-1], longer, PROMPTS[:3], [[2, 3]], [[1] * 17], [[2, 3]]):
        expected = generate(model, prompts, 20, **ENDS)
        assert padded(sampler(prompts, 20, **ENDS), 20) == padded(expected, 20)
    # The first three have five rows and up to 16 tokens; the last finds room for 32.
    assert [tuple(shape) for shape in made] == [(5, 16, 19), (3, 16, 19), (1, 16, 19), (1, 32, 19)]


def test_the_cache_is_as_long_as_a_quick_kernel_takes_it() -> None:
    model = ending_model()
    sampler = StaticSampler(model)
    sampler(PROMPTS, 20, **ENDS)
    # 6 tokens, padded to 16, and 19 that are written: 35, padded to 48.
    assert sampler._decoder is not None
    assert sampler._decoder._seen.shape == (5, 1, 1, 48)
    assert sampler._decoder._layers()[0].keys.shape[2] == 48


def test_a_cache_that_is_replaced_is_freed_at_once() -> None:
    sampler = StaticSampler(ending_model())
    sampler(PROMPTS, 20, **ENDS)
    first = weakref.ref(sampler._decoder)
    gc.disable()
    try:
        sampler(PROMPTS[:3], 20, **ENDS)
    finally:
        gc.enable()
    assert first() is None


def test_a_step_that_is_kept_follows_the_weights() -> None:
    model = ending_model()
    sampler = StaticSampler(model)
    first = sampler(PROMPTS, 20, **ENDS).tolist()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    second = sampler(PROMPTS, 20, **ENDS)
    assert padded(second, 20) == padded(generate(model, PROMPTS, 20, **ENDS), 20) != first
    kept = sampler._decoder
    sampler(PROMPTS, 20, **ENDS)
    assert sampler._decoder is kept
    for weight in model.parameters():
        weight.data = weight.data.clone()  # elsewhere in memory
    assert sampler(PROMPTS, 20, **ENDS).tolist() == second.tolist()
    assert sampler._decoder is not kept


def test_samples_of_one_prompt_stand_side_by_side_and_come_from_the_softmax() -> None:
    model = tiny_model(spread=0.2)
    prompts, draws = [[1, 5, 13, 6, 16], [1, 9]], 20_000
    rows = StaticSampler(model)(
        prompts, 1, 0.7, noise_generator(model.device, 1), samples=draws, **ENDS
    )
    for number, prompt in enumerate(prompts):
        with torch.no_grad():
            chances = (model(torch.tensor([prompt])).logits[0, -1] / 0.7).softmax(-1)
        drawn = rows[number * draws : (number + 1) * draws, 0]
        shares = torch.bincount(drawn, minlength=24) / draws
        # Five standard errors of the likeliest token.
        assert (shares - chances).abs().max() < 5 * 0.5 / draws**0.5


def test_a_seed_gives_the_same_samples_again() -> None:
    model = tiny_model()
    first, again, other = (
        StaticSampler(model)(
            PROMPTS, 9, 1.0, noise_generator(model.device, seed), samples=3, **ENDS
        )
        for seed in (1, 1, 2)
    )
    assert first.tolist() == again.tolist() != other.tolist()


def test_rotary_embeddings_that_follow_the_length_need_a_growing_cache() -> None:
    model = tiny_model()
    assert fits_static_cache(model)
    model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert not fits_static_cache(model)


def test_what_cannot_be_drawn_is_refused() -> None:
    sampler = StaticSampler(tiny_model())
    with pytest.raises(ValueError, match="temperature 1.0 needs .* a generator"):
        sampler(PROMPTS, 9, 1.0, **ENDS)
    with pytest.raises(ValueError, match="greedy samples"):
        sampler(PROMPTS, 9, samples=2, **ENDS)


def test_logits_that_are_not_finite_are_refused() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(ValueError, match="logits are not finite"):
        StaticSampler(model)(PROMPTS, 9, **ENDS)


def test_layers_that_look_at_a_window_keep_the_growing_cache() -> None:
    model = tiny_model()
    assert fits_static_cache(model)
    model.config.layer_types = ["full_attention", "sliding_attention"]
    assert not fits_static_cache(model)


def test_the_way_kernels_are_chosen_is_left_as_it_was() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        StaticSampler(tiny_model())(PROMPTS, 3, **ENDS)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
