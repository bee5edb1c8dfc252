"""Log-likelihoods: batches, padding and shared prompts change nothing."""

import math

import pytest
import torch

from rlsubnet.evaluation import score
from rlsubnet.evaluation.score import response_logprobs
from tests.evaluation.tiny_models import tiny_model

PROMPTS = [[1, 5, 6], [1, 5, 6], [1, 9, 9, 9, 13, 4], [1], [1, 5, 6]]
RESPONSES = [[4, 4], [7, 8, 9, 10, 2], [18], [19, 4, 2], [3]]


def alone(model, prompt: list[int], response: list[int]) -> float:
    """Return the log-likelihood from one plain forward pass."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0].double()
    logprobs = logits.log_softmax(-1)
    return sum(logprobs[len(prompt) + t - 1, token].item() for t, token in enumerate(response))


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_equals_one_plain_forward_pass_each(family: str, batch_size: int) -> None:
    model = tiny_model(family)
    found = response_logprobs(model, PROMPTS, RESPONSES, batch_size=batch_size)
    expected = [alone(model, *pair) for pair in zip(PROMPTS, RESPONSES, strict=True)]
    assert found == pytest.approx(expected, abs=2e-5)


def test_a_large_vocabulary_is_scored_fewer_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    expected = response_logprobs(model, PROMPTS, RESPONSES)
    sizes: list[int] = []
    read = score.read_prompts

    def counted(model, prompts):
        sizes.append(len(prompts))
        return read(model, prompts)

    monkeypatch.setattr(score, "read_prompts", counted)
    # Two rows of five tokens and 24 logits each.
    monkeypatch.setattr(score, "LOGITS", 2 * 5 * 24 + 23)
    assert response_logprobs(model, PROMPTS, RESPONSES) == pytest.approx(expected, abs=2e-5)
    assert sizes == [1, 2, 1]  # prompts, of which the first two responses share one


def test_uniform_model_gives_log_of_the_vocabulary_per_token() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = response_logprobs(model, [[1], [1, 3]], [[4, 5, 6], [7]])
    assert found == pytest.approx([-3 * math.log(24), -math.log(24)])


def test_probabilities_of_all_two_token_responses_add_up_to_one() -> None:
    model = tiny_model()
    pairs = [[a, b] for a in range(24) for b in range(24)]
    total = sum(map(math.exp, response_logprobs(model, [[1, 8]] * len(pairs), pairs)))
    assert total == pytest.approx(1, abs=1e-5)


def test_bad_input_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="each of at least one token"):
        response_logprobs(model, [[1]], [[]])
    with pytest.raises(ValueError, match="as many prompts as responses"):
        response_logprobs(model, [[1]], [[1], [2]])
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        response_logprobs(model, [[1]], [[2]])
