"""No calculation stands in two splits, at any level."""

import random
from collections import Counter
from itertools import combinations

import pytest

from rlsubnet.tasks.arithmetic import (
    LEVELS,
    SHARES,
    Problem,
    calculation,
    draw_problem,
    draw_problems,
    every_level,
    problems,
    split_of,
)
from rlsubnet.tasks.choices import choices
from rlsubnet.tasks.texts import base_text, demonstration_pairs, demonstrations
from tests.tasks.independent_arithmetic import level_of


def test_shares_add_up_to_one() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    assert set(SHARES) == {"train", "preference", "dev", "test"}


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_split_in_the_stated_shares(level: int) -> None:
    rng = random.Random(level)
    calculations = {calculation(draw_problem(rng, level).prompt) for _ in range(6000)}
    counts = Counter(map(split_of, calculations))
    for split, share in SHARES.items():
        error = (share * (1 - share) / len(calculations)) ** 0.5
        assert counts[split] / len(calculations) == pytest.approx(share, abs=4 * error)


def test_a_calculation_is_in_one_split_wherever_its_idle_steps_are() -> None:
    # Level 1: one real step at five places.
    prompts = [f"42{'+0' * before}*7{'+0' * (4 - before)}=" for before in range(5)]
    assert len({split_of(prompt) for prompt in prompts}) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_drawn_splits_are_disjoint_at_every_level(level: int) -> None:
    drawn = {
        split: {
            calculation(problem.prompt)
            for problem in draw_problems(random.Random(1), [level] * 1000, split)
        }
        for split in SHARES
    }
    # 1000 level-1 prompts of split dev are written from its 217 calculations.
    assert all(len(calculations) > 200 for calculations in drawn.values())
    for one, other in combinations(drawn, 2):
        assert not drawn[one] & drawn[other]


def test_the_data_sets_of_a_study_are_disjoint() -> None:
    train = demonstrations("mixed", 5000, "train", 11, terse_share=0.5)
    preference = demonstration_pairs("reversed", 2500, "preference", 12)
    dev = problems([200] * 5, "dev", 13)
    test = problems([43, 90, 105, 128, 134], "test", 14)
    chosen = choices(100, "test", 15)
    sets = [{record["prompt"] for record in records} for records in (train, preference, dev, test)]
    # A choice item's prompt is a problem's prompt and perhaps a part of an answer.
    sets[3] |= {record["prompt"].partition("=")[0] + "=" for record in chosen}
    for one, other in combinations(sets, 2):
        assert not set(map(calculation, one)) & set(map(calculation, other))
    for prompts in sets:
        assert {level_of(prompt) for prompt in prompts} == set(LEVELS)
    text = "".join(record["text"] for record in base_text(2000, 48, 0.1, 0))
    assert not any(prompt in text for prompts in sets for prompt in prompts)


def test_evaluation_prompts_come_once_and_training_prompts_may_repeat() -> None:
    # Level 1 has 12,000 prompts, of which 1,725 are in the test split.
    once = problems([1500, 0, 0, 0, 0], "test", 3)
    assert len({record["prompt"] for record in once}) == len(once) == 1500
    often = demonstrations("worked", 10_000, "test", 3)
    ones = [record["prompt"] for record in often if record["level"] == 1]
    assert len(ones) == 2000 > len(set(ones))


def test_asking_for_more_prompts_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="split dev: no new level-1 prompt found"):
        draw_problems(random.Random(0), [1] * 1400, "dev")


def test_unsuitable_problems_are_not_drawn() -> None:
    def suits(problem: Problem) -> bool:
        return problem.steps[0].operation == "*"

    drawn = draw_problems(random.Random(0), every_level(50), "dev", suits=suits)
    assert all(problem.prompt[2] == "*" for problem in drawn)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split: expected one of test, dev, preference, train"):
        draw_problems(random.Random(0), [1], "validation")
