"""Problems with more digits and more steps than the demo's; the demo's stay as they are."""

import random
import re

import pytest

from rlsubnet.evaluation.policy_data import build
from rlsubnet.tasks.arithmetic import (
    DEMO,
    IDLE,
    LEVELS,
    Problem,
    Shape,
    Step,
    draw_problem,
    is_correct,
    possible_slips,
    solution_of,
)
from rlsubnet.tasks.tokenizer import CHARACTERS

LARGE = {"digits": 3, "slots": 10}


def test_a_larger_problem_is_worked_by_hand() -> None:
    # 098 + 5 = 103, * 9 = 927, * 2 = 1854 = 854
    problem = Problem(98, (Step("+", 5), Step("*", 9), Step("*", 2), IDLE, IDLE), digits=3)
    assert problem.prompt == "098+5*9*2+0+0="
    assert problem.totals == (103, 927, 854, 854, 854)
    assert solution_of(problem) == "(103927854854854;854"


def test_levels_of_longer_problems_are_fifths_of_the_steps() -> None:
    shape = Shape(digits=3, slots=10)
    for level in LEVELS:
        problem = draw_problem(random.Random(level), shape.real_steps(level), shape)
        assert sum(step != IDLE for step in problem.steps) == 2 * level
        assert problem.level == level


@pytest.mark.parametrize(
    ("response", "accepted"),
    [
        (";854", True),
        ("(103927854854854", True),
        ("(000000000000854", True),  # graded by its outcome
        (";54", False),  # well-formed in the demo's shape only
        ("(1039278548", False),
        ("(103927854854855", False),
        ("(103927854854854;854", False),  # the solution's own form is no answer
    ],
)
def test_the_verifier_asks_for_the_shape_of_the_solution(response: str, accepted: bool) -> None:
    assert is_correct(response, "(103927854854854;854") is accepted


@pytest.mark.parametrize(
    "solution", ["(103927854854854;855", "(10392785;854", "(103927854854854", ";854", "", "854"]
)
def test_a_solution_that_tells_no_shape_is_refused(solution: str) -> None:
    with pytest.raises(ValueError, match="expected a worked answer"):
        is_correct(";854", solution)


def test_slips_of_larger_problems_are_wrong_and_keep_their_digits() -> None:
    rng = random.Random(0)
    for _ in range(50):
        problem = draw_problem(rng, 4, Shape(digits=3, slots=10))
        for totals in possible_slips(problem):
            assert totals != problem.totals
            assert max(totals) < 1000


def test_every_kind_of_data_takes_a_shape() -> None:
    problems = build(
        "p", {"kind": "problems", "per_level": [1] * 5, "split": "test", "seed": 1, **LARGE}
    )[0]
    for record in problems:
        assert re.fullmatch(r"\d{3}([-+*]\d){10}=", record["prompt"])
        assert is_correct(record["solution"].split(";")[0], record["solution"])
    texts = build("t", {"kind": "base_text", "documents": 40, "characters": 96, "wrong_facts": 0.0,
                        "seed": 1, **LARGE})[0]  # fmt: skip
    joined = ";".join(record["text"] for record in texts)
    assert set(joined) <= set(CHARACTERS)
    chains = re.findall(r"\(\d{3}((?:[-+*]\d)+)\)", joined)
    slots = {len(chain) // 2 for chain in chains}
    assert slots == {2, 3, 4, 5, 6}
    shown = build("d", {"kind": "demonstrations", "style": "mixed", "terse_share": 0.5,
                        "problems": 20, "split": "train", "seed": 1, **LARGE})[0]  # fmt: skip
    assert {len(record["response"]) for record in shown} == {4, 31}
    pairs = build("q", {"kind": "demonstration_pairs", "style": "worked", "problems": 5,
                        "split": "train", "seed": 1, **LARGE})[0]  # fmt: skip
    assert {len(pair["rejected"]) for pair in pairs} == {31}
    items = build("c", {"kind": "choices", "per_task": 3, "split": "test", "seed": 1, **LARGE})[0]
    assert {len(set(item["choices"])) == len(item["choices"]) for item in items} == {True}


def test_the_demo_is_the_shape_that_no_key_names() -> None:
    spec = {"kind": "problems", "per_level": [2] * 5, "split": "test", "seed": 1}
    named = {**spec, "digits": DEMO.digits, "slots": DEMO.slots}
    assert build("p", spec)[0] == build("p", named)[0]


@pytest.mark.parametrize(
    ("shape", "message"),
    [({"digits": 1}, "digits: expected 2 to 4, found 1"), ({"slots": 7}, "slots: expected a mul")],
)
def test_an_impossible_shape_is_refused(shape: dict, message: str) -> None:
    spec = {"kind": "problems", "per_level": [1] * 5, "split": "test", "seed": 1}
    with pytest.raises(ValueError, match=message):
        build("p", spec | shape)
