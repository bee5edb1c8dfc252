"""Scorers: an oracle gets everything right, and its planned errors are found."""

import math

import pytest
import torch

from rlsubnet.columns import Answer
from rlsubnet.config.model import Sampling
from rlsubnet.evaluation import score
from rlsubnet.evaluation.sampler import Policy, make_sampler
from rlsubnet.evaluation.score import (
    Suite,
    answer_suites,
    chance_levels,
    response_logprobs,
    suite_answers,
)
from rlsubnet.suites import MADE_UP_CHOICES
from rlsubnet.tasks.arithmetic import problems
from rlsubnet.tasks.made_up import choices, demonstration_pairs
from rlsubnet.tasks.tokenizer import build_tokenizer
from tests.evaluation.oracle import Oracle
from tests.evaluation.tiny_models import tiny_model
from tests.tasks.independent_arithmetic import totals_of

SETTINGS = Sampling(samples=3, temperature=1.0, batch_size=16, max_new_tokens=12, seed=1)
TOKENIZER = build_tokenizer()
PROBLEMS = problems([2, 3, 2, 2, 2], "test", 5)


def answers_of(model, suite: str, records: list[dict], how: Sampling = SETTINGS) -> list[Answer]:
    policy = Policy(model, TOKENIZER, how, make_sampler("own", model))
    return suite_answers(policy, suite, records)


def uniform_model() -> torch.nn.Module:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    return model


def worked_answer(prompt: str) -> str:
    return "(" + "".join(totals_of(prompt))


def terse_answer(prompt: str) -> str:
    return ";" + worked_answer(prompt)[-2:]


@pytest.mark.parametrize("answer", [worked_answer, terse_answer])
def test_an_oracle_solves_every_problem_sampled_and_greedily(answer):
    assert answers_of(Oracle(answer), "arith", PROBLEMS) == [
        Answer(task, str(problem["level"]), problem["id"], samples, samples)
        for task, samples in (("arith_sampled", 3), ("arith_greedy", 1))
        for problem in PROBLEMS
    ]


def test_wrong_unfinished_and_padded_answers_score_nothing():
    def answer(prompt: str) -> str:
        if prompt == PROBLEMS[0]["prompt"]:
            return ";" + terse_answer(prompt)[:0:-1] + "0"  # malformed
        if prompt == PROBLEMS[1]["prompt"]:
            return worked_answer(prompt) + "00"  # cut off before its end token
        return terse_answer(prompt)

    answers = answers_of(Oracle(answer), "arith", PROBLEMS)
    assert [a.correct for a in answers if a.task == "arith_greedy"] == [0, 0] + [1] * 9
    # Eleven tokens and no end token: an answer that reaches the limit did not end by itself.
    tight = SETTINGS.but(max_new_tokens=11)
    answers = answers_of(Oracle(worked_answer), "arith", PROBLEMS, tight)
    assert sum(answer.correct for answer in answers) == 0


def test_samples_do_not_depend_on_other_suites():
    model = tiny_model(spread=0.1)
    one = answers_of(model, "a", PROBLEMS)
    answers_of(model, "b", PROBLEMS[:3])
    assert answers_of(model, "a", PROBLEMS) == one


def test_an_oracle_picks_every_right_choice():
    items = choices(10, "test", 3)
    for answer, total in ((worked_answer, False), (terse_answer, True)):
        of_style = [item for item in items if item["task"].endswith("total") is total]
        assert answers_of(Oracle(answer), "mc5", of_style) == [
            Answer(f"mc5_{item['task']}", "", item["id"], 1, 1) for item in of_style
        ]


def test_log_likelihood_is_divided_by_the_number_of_tokens_and_a_tie_is_wrong():
    item = {"task": "t", "id": "t-0", "prompt": "1", "choices": ["7", "7777"], "label": 0}
    # Uniform: sums differ (-log 24 against -4 log 24), means are equal.
    assert answers_of(uniform_model(), "s", [item])[0].correct == 0
    pairs = demonstration_pairs("worked", 5, "test", 5)
    answers = answers_of(uniform_model(), "p", pairs)
    assert sum(answer.correct for answer in answers) == 0


def test_scores_do_not_depend_on_the_order_of_the_choices():
    model = tiny_model()
    items = choices(20, "dev", 3)
    turned = [
        item | {"choices": item["choices"][::-1], "label": len(item["choices"]) - 1 - item["label"]}
        for item in items
    ]
    first = answers_of(model, "mc5", items)
    assert answers_of(model, "mc5", turned) == first
    assert 0 < sum(answer.correct for answer in first) < len(first)


def test_chance_is_that_of_the_tasks():
    chances = chance_levels("mc5", choices(4, "dev", 3))
    assert chances == {f"mc5_{name}": task.chance for name, task in MADE_UP_CHOICES.items()}
    assert chance_levels("arith", PROBLEMS) == {}


def test_preference_accuracy_counts_pairs_whose_chosen_response_is_likelier():
    pairs = demonstration_pairs("worked", 20, "test", 5)
    answers = answers_of(Oracle(worked_answer), "prefacc", pairs)
    assert [answer.correct for answer in answers] == [1] * 20
    assert answers[3] == Answer("prefacc", "4", "pair-00003", 1, 1)
    swapped = [p | {"chosen": p["rejected"], "rejected": p["chosen"]} for p in pairs]
    answers = answers_of(Oracle(worked_answer), "p", swapped)
    assert sum(answer.correct for answer in answers) == 0


@pytest.mark.parametrize(
    "records", [[{"text": "1"}], [], [PROBLEMS[0], choices(1, "dev", 1)[0]]], ids=len
)
def test_unknown_or_mixed_records_are_refused(records):
    found = sorted(sorted(record) for record in records)
    with pytest.raises(ValueError) as caught:
        answers_of(tiny_model(), "s", records)
    assert "suite s: expected records with" in str(caught.value)
    assert str(caught.value).endswith(f"found {found}")


def test_suites_are_answered_by_kernels_that_give_the_same_bits_each_time():
    class Watching(Oracle):
        def __call__(self, *given, **named):
            repeats.append(torch.are_deterministic_algorithms_enabled())
            return super().__call__(*given, **named)

    repeats: list[bool] = []
    model = Watching(worked_answer)
    policy = Policy(model, TOKENIZER, SETTINGS, make_sampler("own", model))
    answer_suites(policy, [Suite("arith", PROBLEMS[:2], data_sha256="")])
    assert set(repeats) == {True}
    assert not torch.are_deterministic_algorithms_enabled()


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
def test_equals_one_plain_forward_pass_each(family, batch_size):
    model = tiny_model(family)
    found = response_logprobs(model, PROMPTS, RESPONSES, batch_size=batch_size)
    expected = [alone(model, *pair) for pair in zip(PROMPTS, RESPONSES, strict=True)]
    assert found == pytest.approx(expected, abs=2e-5)


def test_a_large_vocabulary_is_scored_fewer_rows_at_a_time(monkeypatch):
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


def test_uniform_model_gives_log_of_the_vocabulary_per_token():
    found = response_logprobs(uniform_model(), [[1], [1, 3]], [[4, 5, 6], [7]])
    assert found == pytest.approx([-3 * math.log(24), -math.log(24)])


def test_bad_input_is_refused():
    model = tiny_model()
    for prompts, responses in (([[1]], [[]]), ([[]], [[1]]), ([[1]], [[1], [2]])):
        with pytest.raises(ValueError, match="as many prompts as responses, each of at least one"):
            response_logprobs(model, prompts, responses)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        response_logprobs(model, [[1]], [[2]])
