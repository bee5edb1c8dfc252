"""Rejection sampling keeps what is correct, each answer once, and counts the rest."""

import pytest

from rlsubnet.evaluation.policy_data import KeptCounts, correct_samples
from rlsubnet.tasks.tokenizer import Completion

TERSE, WORKED, SLIPPED = (
    Completion(";12", True),
    Completion("(1212121212", True),
    Completion("(1313131312", True),  # a slip on the way; the verifier sees the outcome
)
WRONG, CUT_OFF = Completion(";13", True), Completion(";12", False)


def problems(number: int) -> list[dict]:
    return [
        {"prompt": f"{index:02d}+5+0+0+0+0=", "solution": ";12", "level": 1}
        for index in range(number)
    ]


def test_only_correct_answers_that_ended_are_kept_and_each_once() -> None:
    samples = [[TERSE, WRONG, TERSE, WORKED], [WRONG, CUT_OFF], [SLIPPED, SLIPPED, SLIPPED, WRONG]]
    records, counts = correct_samples(problems(3), samples, per_prompt=4, seed=0)
    assert [(record["prompt"][:2], record["response"]) for record in records] == [
        ("00", ";12"),
        ("00", "(1212121212"),
        ("02", "(1313131312"),
    ]
    assert all(set(record) == {"prompt", "response", "level"} for record in records)
    assert counts == KeptCounts(samples=10, correct=6, kept=3, prompts=3, none_correct=1)
    assert str(counts) == (
        "kept of 6 correct among 10 samples of 3 prompts, none twice; "
        "1 prompts without a correct sample"
    )


def test_at_most_so_many_of_a_prompt_are_kept_drawn_uniformly_and_by_the_seed() -> None:
    samples = [[TERSE, TERSE, TERSE, WORKED, SLIPPED]] * 600
    records, counts = correct_samples(problems(100) * 6, samples, per_prompt=2, seed=4)
    assert counts.kept == len(records) == 1200
    texts = [record["response"] for record in records]
    for sample in (TERSE, WORKED, SLIPPED):
        # Two of three different answers, however often each was given: 400, SE 11.5.
        assert texts.count(sample.text) == pytest.approx(400, abs=60)
    assert correct_samples(problems(100) * 6, samples, 2, seed=4)[0] == records
    assert correct_samples(problems(100) * 6, samples, 2, seed=5)[0] != records
    everything, _ = correct_samples(problems(100) * 6, samples, per_prompt=3, seed=4)
    assert len(everything) == 1800


def test_missing_samples_are_an_error() -> None:
    with pytest.raises(ValueError):
        correct_samples(problems(2), [[TERSE]], per_prompt=1, seed=0)
