"""Decoding: the same tokens as the transformers library, and samples from the softmax."""

import pytest
import torch

from rlsubnet.evaluation.generate import completion, generate
from rlsubnet.evaluation.sampler import make_sampler, sample_texts
from rlsubnet.tasks.tokenizer import Completion, build_tokenizer
from tests.evaluation.tiny_models import tiny_model

EOS, PAD = 2, 0
ENDS = {"eos_token_id": EOS, "pad_token_id": PAD}
MIXED = [[1, 5, 6, 7], [1, 9], [1, 4, 4, 13, 8, 16], [1], [1, 5, 6, 7], [1, 20, 11]]


def reference(model, prompt: list[int], max_new_tokens: int) -> list[int]:
    """Return what ``model.generate`` appends to one prompt, without batch and padding."""
    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return output[0, len(prompt) :].tolist()


def padded(row: list[int], width: int) -> list[int]:
    return row + [PAD] * (width - len(row))


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_greedy_equals_transformers_token_for_token(family: str) -> None:
    model = tiny_model(family)
    rows = generate(model, MIXED, 14, **ENDS).tolist()
    expected = [reference(model, prompt, 14) for prompt in MIXED]
    assert rows == [padded(row, len(rows[0])) for row in expected]


def test_rows_that_end_early_do_not_disturb_the_others() -> None:
    model = tiny_model()
    prompts = [[1, *torch.randint(3, 21, (n,)).tolist()] for n in (3, 5, 4, 6, 2, 7, 3, 5, 4, 6)]
    with torch.no_grad():  # so that the end token is the first choice now and then
        model.lm_head.weight[EOS] *= 1.6
    rows = generate(model, prompts, 20, **ENDS).tolist()
    expected = [reference(model, prompt, 20) for prompt in prompts]
    lengths = {len(row) for row in expected}
    assert len(lengths) >= 3, f"the example needs rows of several lengths, found {lengths}"
    assert rows == [padded(row, len(rows[0])) for row in expected]


def test_generation_stops_when_every_row_has_ended() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 1.6
    lengths = {n: len(reference(model, [1, n], 20)) for n in range(3, 21)}
    ending = {n: length for n, length in lengths.items() if length < 20}
    assert len(ending) >= 2, lengths
    rows = generate(model, [[1, n] for n in ending], 20, **ENDS)
    assert rows.shape == (len(ending), max(ending.values()))


def test_a_written_pad_token_does_not_end_a_response() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all logits are equal, the first token (pad) is chosen
    assert generate(model, [[1, 5]], 4, **ENDS).tolist() == [[0, 0, 0, 0]]


def test_sampling_frequencies_match_the_softmax() -> None:
    model = tiny_model(spread=0.2)
    prompt = [1, 5, 13, 6, 16]
    temperature = 0.7
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    expected = (logits / temperature).softmax(-1)
    draws = 40_000
    rows = generate(
        model, [prompt], 1, temperature, torch.Generator().manual_seed(0), samples=draws, **ENDS
    )
    counts = torch.bincount(rows[:, 0], minlength=24).double()
    # Pearson's statistic has 23 degrees of freedom; 49.7 is its 99.9 % point.
    statistic = ((counts - draws * expected) ** 2 / (draws * expected)).sum().item()
    assert statistic < 49.7
    uniform = ((counts - draws / 24) ** 2 / (draws / 24)).sum().item()
    assert uniform > 49.7, "the toy distribution is too flat for this test to mean anything"


def test_second_token_is_sampled_given_the_first() -> None:
    model = tiny_model(spread=0.3)
    prompt = [1, 7, 7]
    draws = 30_000
    rows = generate(
        model, [prompt], 2, 1.0, torch.Generator().manual_seed(1), samples=draws, **ENDS
    )
    first = int(torch.mode(rows[rows[:, 0] != EOS][:, 0]).values)
    after = rows[rows[:, 0] == first][:, 1]
    with torch.no_grad():
        expected = model(torch.tensor([[*prompt, first]])).logits[0, -1].softmax(-1)
    frequency = torch.bincount(after, minlength=24) / len(after)
    error = (expected * (1 - expected) / len(after)).sqrt()
    assert ((frequency - expected).abs() < 4.5 * error + 1e-9).all()


def test_same_seed_same_tokens_and_another_seed_other_tokens() -> None:
    model = tiny_model()

    def draw(seed: int) -> torch.Tensor:
        return generate(
            model, MIXED, 8, 1.0, torch.Generator().manual_seed(seed), samples=3, **ENDS
        )

    assert torch.equal(draw(5), draw(5))
    assert not torch.equal(draw(5), draw(6))


def test_global_random_state_is_neither_used_nor_moved() -> None:
    model = tiny_model()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    generate(model, MIXED, 4, 1.0, torch.Generator().manual_seed(1), **ENDS)
    assert torch.equal(torch.get_rng_state(), before)


def test_texts_are_grouped_by_prompt_in_order() -> None:
    draw, tokenizer = make_sampler("own", tiny_model()), build_tokenizer()
    prompts = ["1+2=", "07*3=", "9=", "12-5+3="]
    grouped = sample_texts(draw, tokenizer, prompts, 1, max_new_tokens=6, batch_size=3)
    alone = [sample_texts(draw, tokenizer, [prompt], 1, max_new_tokens=6)[0] for prompt in prompts]
    assert grouped == alone
    assert len({group[0].text for group in grouped}) > 1
    sampled = sample_texts(
        draw,
        tokenizer,
        prompts,
        5,
        max_new_tokens=6,
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
        batch_size=10,
    )
    assert [len(group) for group in sampled] == [5, 5, 5, 5]


def test_completion_ends_at_the_first_end_token() -> None:
    tokenizer = build_tokenizer()
    assert completion(tokenizer, [18, 4, 5, 2, 0, 0], EOS) == Completion(";12", True)
    assert completion(tokenizer, [18, 4, 0, 5], EOS) == Completion(";1<pad>2", False)
    assert completion(tokenizer, [2, 2], EOS) == Completion("", True)


def test_bad_requests_are_refused() -> None:
    model = tiny_model()
    generator = torch.Generator()
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, [[1], []], 4, **ENDS)
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, [], 4, **ENDS)
    with pytest.raises(ValueError, match="with a generator"):
        generate(model, [[1]], 4, 1.0, **ENDS)
    with pytest.raises(ValueError, match="temperature -1"):
        generate(model, [[1]], 4, -1.0, generator, **ENDS)
    with pytest.raises(ValueError, match="greedy samples"):
        generate(model, [[1]], 4, samples=2, **ENDS)
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        generate(model, [[1]], 4, **ENDS)
