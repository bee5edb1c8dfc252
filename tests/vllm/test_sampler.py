"""vLLM in the place of a model: the real one, on a CPU (make test-vllm)."""

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel

from rlsubnet.evaluation.generate import SampleRequest, generate
from rlsubnet.evaluation.vllm import TOKENS, VllmSampler
from tests.vllm.models import NEEDS_VLLM, small_model

pytestmark = NEEDS_VLLM

EOS, PAD = 2, 0
PROMPTS = [[1, 4, 5, 6], [1, 7, 8], [1, 9, 9, 9, 9, 9, 9, 3], [1]]


def ask(prompts: list[list[int]], tokens: int, *how: object) -> SampleRequest:
    return SampleRequest(prompts, tokens, *how, eos=EOS, pad=PAD)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    model = small_model(spread=0.2)
    with torch.no_grad():  # so that the end token is the first choice now and then
        model.lm_head.weight[EOS] *= 1.6
    # Another end token than the one that is asked for: it must end nothing.
    model.config.eos_token_id = model.generation_config.eos_token_id = 5
    return model


@pytest.fixture(scope="module")
def sampler(model: PreTrainedModel) -> Iterator[VllmSampler]:
    sampler = VllmSampler(model)
    yield sampler
    sampler.close()


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_greedy_tokens_are_the_models_own(model, sampler):
    expected = generate(model, ask(PROMPTS, 24))
    assert sampler(ask(PROMPTS, 24)).tolist() == expected.tolist()
    ended = [row.index(EOS) for row in expected.tolist() if EOS in row]
    assert 0 < len(ended) < len(PROMPTS), "the example needs rows that end and rows that do not"
    assert any(5 in row for row in expected.tolist())


def test_tokens_follow_the_weights(model, sampler):
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    first = sampler(ask(PROMPTS, 24)).tolist()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    changed = sampler(ask(PROMPTS, 24)).tolist()
    assert changed == generate(model, ask(PROMPTS, 24)).tolist() != first
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(before[name])
    assert sampler(ask(PROMPTS, 24)).tolist() == first


def test_a_seed_gives_the_same_samples_again(sampler):
    first, again, other = (
        sampler(ask(PROMPTS, 9, 1.0, noise(seed), 3)).tolist() for seed in (1, 1, 2)
    )
    assert len(first) == 3 * len(PROMPTS)
    assert first == again != other
    # Two prompts that are alike draw for themselves, and so do the samples of one.
    twice = sampler(ask([[1, 7]] * 2, 9, 1.0, noise(1), 2)).tolist()
    assert len({tuple(row) for row in twice}) == 4


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_of_one_prompt_stand_side_by_side_and_come_from_the_softmax(
    model, sampler, temperature
):
    draws, prompts = 3000, PROMPTS[:2]
    rows = sampler(ask(prompts, 1, temperature, noise(3), draws))
    shares = []
    for number, prompt in enumerate(prompts):
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits[0, -1]
        chances = (logits / temperature).softmax(-1)
        drawn = rows[number * draws : (number + 1) * draws, 0]
        shares.append(torch.bincount(drawn, minlength=24) / draws)
        error = (chances * (1 - chances) / draws).sqrt()
        assert ((shares[-1] - chances).abs() <= 5 * error + 1 / draws).all()
    assert (shares[0] - shares[1]).abs().max() > 0.05, "the example needs two distributions"


def test_more_prompts_than_are_read_at_a_time(sampler):
    prompts = [[1, *([4 + number % 9] * 97)] for number in range(300)]
    assert sum(map(len, prompts)) > 2 * TOKENS
    rows = sampler(ask(prompts, 3, 1.0, noise(1))).tolist()
    alone = sampler(ask(prompts[:5], 3, 1.0, noise(1))).tolist()
    assert len(rows) == 300 and rows[:5] == alone


def test_what_cannot_be_drawn_is_refused(sampler):
    assert sampler.longest == 128
    with pytest.raises(ValueError, match="prompt of 100 tokens and a response of 29, .* 128"):
        sampler(ask([[1] * 100], 29))
    assert sampler(ask([[1] * 100], 28)).shape[0] == 1
    with pytest.raises(ValueError, match="at least one token"):
        sampler(ask([[1], []], 3))
    with pytest.raises(ValueError, match="with a generator"):
        sampler(ask([[1]], 3, 1.0))


def test_other_weights_than_the_models_are_refused(model, monkeypatch):
    sampler = VllmSampler(model)
    monkeypatch.setattr(sampler, "_bring_weights", lambda: None)
    with pytest.raises(ValueError, match="vLLM's probabilities are not the model's: .* token"):
        sampler(ask(PROMPTS, 2))
    sampler.close()
