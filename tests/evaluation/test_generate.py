"""Decoding: the tokens of the transformers library, by a cache that grows and one of fixed size."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import pytest
import torch

from rlsubnet.config.model import Sampling
from rlsubnet.evaluation import sampler as sampling
from rlsubnet.evaluation.generate import SampleRequest, completion, generate, noise_generator
from rlsubnet.evaluation.sampler import (
    Policy,
    Sampler,
    StaticSampler,
    fits_static_cache,
    make_sampler,
    sample_texts,
)
from rlsubnet.tasks.tokenizer import Completion, build_tokenizer
from tests.evaluation.tiny_models import tiny_model

EOS, PAD = 2, 0
MIXED = [[1, 5, 6, 7], [1, 9], [1, 4, 4, 13, 8, 16], [1], [1, 5, 6, 7], [1, 20, 11]]

Way = Callable[[torch.nn.Module], Sampler]


@pytest.fixture(params=["growing", "static"])
def way(request: pytest.FixtureRequest) -> Way:
    """Return what makes a sampler of a model: the way of a CPU, or that of a GPU."""
    return StaticSampler if request.param == "static" else lambda model: partial(generate, model)


def ask(prompts: list[list[int]], tokens: int, *how: object, eos: int = EOS, pad: int = PAD):
    return SampleRequest(prompts, tokens, *how, eos=eos, pad=pad)


def noise(seed: int) -> torch.Generator:
    return noise_generator(torch.device("cpu"), seed)


def ending_model(family: str = "qwen2") -> torch.nn.Module:
    """Return a model whose likeliest token is the end token now and then."""
    model = tiny_model(family)
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 1.6
    return model


def reference(model: torch.nn.Module, prompt: list[int], tokens: int) -> list[int]:
    """Return what ``model.generate`` appends to one prompt, without batch and padding."""
    ids, how = torch.tensor([prompt]), {"eos_token_id": EOS, "pad_token_id": PAD}
    mask = torch.ones_like(ids)
    output = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, **how)
    return output[0, len(prompt) :].tolist()


def padded(rows: list[list[int]], width: int) -> list[list[int]]:
    return [row + [PAD] * (width - len(row)) for row in rows]


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("tokens", [1, 2, 20])
def test_greedy_equals_transformers_token_for_token(way, family, tokens):
    model = ending_model(family)
    prompts = [*MIXED, *([1, *torch.randint(3, 21, (n,)).tolist()] for n in (5, 2, 7, 3, 6))]
    found = way(model)(ask(prompts, tokens))
    expected = [reference(model, prompt, tokens) for prompt in prompts]
    if tokens == 20:
        lengths = {len(row) for row in expected}
        assert len(lengths) >= 3, f"the example needs rows of several lengths, found {lengths}"
    assert padded(found.tolist(), tokens) == padded(expected, tokens)


def test_generation_stops_when_every_row_has_ended():
    model = ending_model()
    lengths = {n: len(reference(model, [1, n], 20)) for n in range(3, 21)}
    ending = {n: length for n, length in lengths.items() if length < 20}
    assert len(ending) >= 2, lengths
    rows = generate(model, ask([[1, n] for n in ending], 20))
    assert rows.shape == (len(ending), max(ending.values()))


def test_into_a_fixed_cache_it_stops_soon_after(monkeypatch):
    monkeypatch.setattr(sampling, "CHECK_EVERY", 4)
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all logits are equal: greedy takes token 0
    rows = StaticSampler(model)(ask(MIXED, 40, eos=0, pad=3))
    assert rows.tolist() == [[0, 3, 3, 3]] * len(MIXED)
    # A pad token that was written does not end a response.
    assert generate(model, ask([[1, 5]], 4)).tolist() == [[0, 0, 0, 0]]


def test_samples_stand_side_by_side_and_their_frequencies_are_the_softmax(way):
    model, prompts = tiny_model(spread=0.2), [[1, 5, 13, 6, 16], [1, 9]]
    draws, temperature = 9999, 0.7
    rows = way(model)(ask(prompts, 1, temperature, noise(0), draws))
    for number, prompt in enumerate(prompts):
        with torch.no_grad():
            expected = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
        drawn = rows[number * draws : (number + 1) * draws, 0]
        counts = torch.bincount(drawn, minlength=24).double()
        # Pearson's statistic has 23 degrees of freedom; 49.7 is its 99.9 % point.
        assert ((counts - draws * expected) ** 2 / (draws * expected)).sum() < 49.7
        uniform = ((counts - draws / 24) ** 2 / (draws / 24)).sum()
        assert uniform > 49.7, "the distribution is too flat for this test to mean anything"


def test_second_token_is_sampled_given_the_first():
    model, prompt = tiny_model(spread=0.3), [1, 7, 7]
    rows = generate(model, ask([prompt], 2, 1.0, noise(1), 30_000))
    first = int(torch.mode(rows[rows[:, 0] != EOS][:, 0]).values)
    after = rows[rows[:, 0] == first][:, 1]
    with torch.no_grad():
        expected = model(torch.tensor([[*prompt, first]])).logits[0, -1].softmax(-1)
    frequency = torch.bincount(after, minlength=24) / len(after)
    error = (expected * (1 - expected) / len(after)).sqrt()
    assert ((frequency - expected).abs() < 4.5 * error + 1e-9).all()


def test_a_seed_alone_decides_the_samples(way):
    model, before = tiny_model(), torch.get_rng_state()
    first, again, other = (
        way(model)(ask(MIXED, 8, 1.0, noise(seed), 3)).tolist() for seed in (5, 5, 6)
    )
    assert first == again != other
    torch.manual_seed(2)
    assert way(model)(ask(MIXED, 8, 1.0, noise(5), 3)).tolist() == first
    torch.set_rng_state(before)
    way(model)(ask(MIXED, 4, 1.0, noise(1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_logits_that_are_not_finite_are_refused(way):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(ValueError, match="logits are not finite: are there NaN weights"):
        way(model)(ask([[1]], 4))


def test_bad_requests_are_refused():
    for prompts in ([[1], []], []):
        with pytest.raises(ValueError, match="at least one token"):
            ask(prompts, 4)
    with pytest.raises(ValueError, match="temperature 1.0: .* with a generator"):
        ask([[1]], 4, 1.0)


def test_texts_are_grouped_by_prompt_in_order():
    model, prompts = tiny_model(), ["1+2=", "07*3=", "9=", "12-5+3="]
    how = Sampling(samples=5, max_new_tokens=6, batch_size=10)
    policy = Policy(model, build_tokenizer(), how, make_sampler("own", model))
    grouped = sample_texts(policy, prompts, greedy=True)
    assert grouped == [sample_texts(policy, [prompt], greedy=True)[0] for prompt in prompts]
    assert len({group[0].text for group in grouped}) > 1
    assert [len(group) for group in sample_texts(policy, prompts)] == [5, 5, 5, 5]


def test_completion_ends_at_the_first_end_token():
    tokenizer = build_tokenizer()
    assert completion(tokenizer, [18, 4, 5, 2, 0, 0], EOS) == Completion(";12", True)
    assert completion(tokenizer, [18, 4, 0, 5], EOS) == Completion(";1<pad>2", False)
    assert completion(tokenizer, [2, 2], EOS) == Completion("", True)


def test_batch_after_batch_is_drawn_as_if_alone_from_as_few_caches_as_serve(monkeypatch):
    made = []

    class Counted(sampling._Decoder):
        def __init__(self, *arguments: object) -> None:
            made.append(arguments[1])
            super().__init__(*arguments)

    monkeypatch.setattr(sampling, "_Decoder", Counted)
    model = ending_model()
    sampler, five = StaticSampler(model), MIXED[:5]
    longer = [[1, *[4 + n % 9] * n] for n in (3, 14, 9, 1, 6)]
    for prompts in (five, five[::-1], longer, five[:3], [[2, 3]], [[1] * 17], [[2, 3]]):
        expected = generate(model, ask(prompts, 20)).tolist()
        assert padded(sampler(ask(prompts, 20)).tolist(), 20) == padded(expected, 20)
    # The first three have five rows and up to 16 tokens; the last finds room for 32.
    assert [tuple(shape) for shape in made] == [(5, 16, 19), (3, 16, 19), (1, 16, 19), (1, 32, 19)]
    # The cache is as long as a quick kernel takes it: 32 and 19 that are written, padded to 64.
    assert sampler._decoder._seen.shape == (1, 1, 1, 64)


def test_a_step_that_is_kept_follows_the_weights_and_is_freed_when_it_is_replaced():
    model, wanted = ending_model(), ask(MIXED, 20)
    sampler = StaticSampler(model)
    first = sampler(wanted).tolist()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    second = padded(sampler(wanted).tolist(), 20)
    assert second == padded(generate(model, wanted).tolist(), 20) != first
    kept = weakref.ref(sampler._decoder)
    sampler(wanted)
    assert sampler._decoder is kept()
    for weight in model.parameters():
        weight.data = weight.data.clone()  # elsewhere in memory
    gc.disable()
    try:
        assert padded(sampler(wanted).tolist(), 20) == second
    finally:
        gc.enable()
    assert kept() is None


def test_what_a_fixed_cache_cannot_serve_keeps_the_growing_one():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    layers = ["full_attention", "sliding_attention"]
    for key, value in (("rope_parameters", rope), ("layer_types", layers)):
        model = tiny_model()
        assert fits_static_cache(model)
        setattr(model.config, key, value)
        assert not fits_static_cache(model)


def test_the_way_kernels_are_chosen_is_left_as_it_was():
    torch.use_deterministic_algorithms(True)
    try:
        StaticSampler(tiny_model())(ask(MIXED, 3))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_name_is_refused_with_a_place_to_get_it():
    with pytest.raises(ValueError, match=r"vLLM is not installed .* envs/vllm\.txt"):
        make_sampler("vllm", tiny_model())
