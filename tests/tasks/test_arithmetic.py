"""Problems are labeled rightly, the verifier is strict, and no calculation stands in two splits."""

import random
import re
from collections import Counter
from itertools import combinations

import pytest

from rlsubnet.evaluation.policy_data import build
from rlsubnet.tasks.arithmetic import (
    IDLE,
    LEVELS,
    SHARES,
    Problem,
    ProblemShape,
    Step,
    calculation,
    draw_problem,
    draw_problems,
    is_correct_total,
    numerals,
    possible_slips,
    problems,
    reversed_digits,
    slips,
    solution_of,
    split_of,
    terse,
    worked,
)
from rlsubnet.tasks.made_up import base_text, choices, demonstration_pairs, demonstrations
from rlsubnet.tasks.tokenizer import CHARACTERS
from tests.tasks.independent_arithmetic import level_of, totals_of

# 07 + 5 = 12, + 0 = 12, * 9 = 108 = 08, - 9 = -1 = 99, + 0 = 99
EXAMPLE = Problem(7, (Step("+", 5), IDLE, Step("*", 9), Step("-", 9), IDLE))


def test_example_is_worked_by_hand():
    assert EXAMPLE.prompt == "07+5+0*9-9+0="
    assert EXAMPLE.totals == (12, 12, 8, 99, 99)
    assert EXAMPLE.level == 3
    assert terse(EXAMPLE.totals) == ";99"
    assert worked(EXAMPLE.totals) == "(1212089999"
    assert reversed_digits(EXAMPLE.totals) == ",2121809999"


@pytest.mark.parametrize("level", LEVELS)
def test_totals_and_level_agree_with_an_independent_evaluation(level):
    rng = random.Random(level)
    for _ in range(500):
        problem = draw_problem(rng, level)
        assert len(problem.prompt) == 13
        assert worked(problem.totals) == "(" + "".join(totals_of(problem.prompt))
        assert problem.level == level_of(problem.prompt) == level


@pytest.mark.parametrize(
    ("response", "accepted"),
    [
        (";99", True),
        ("(1212089999", True),
        ("(0000000099", True),  # the outcome decides, not the way
        (";98", False),
        ("(1212089998", False),
        ("99", False),
        (";99;", False),
        (";99\n", False),
        (" ;99", False),
        (";099", False),
        (";9", False),
        ("", False),
        ("(99", False),
        ("(12120899", False),
        ("(121208999999", False),
        ("(12120899;9", False),
        ("(12+2089999", False),
        (",2121809999", False),
        ("(1212089999)", False),
        ("<pad>;99", False),
        (";٩٩", False),  # digits of another script
    ],
)
def test_verifier_table(response, accepted):
    assert is_correct_total(response, worked(EXAMPLE.totals)) is accepted
    assert is_correct_total(response, terse(EXAMPLE.totals)) is accepted


def test_verifier_refuses_a_malformed_solution():
    with pytest.raises(ValueError, match="solution '99'"):
        is_correct_total(";99", "99")


def test_slips_are_wrong_distinct_and_at_least_four():
    for total in range(100):
        for operation in "+-*":
            for operand in range(10):
                right = eval(f"{total}{operation}{operand}") % 100
                wrong = slips(total, Step(operation, operand))
                assert right not in wrong
                assert len(set(wrong)) == len(wrong) >= 4
                assert all(0 <= value < 100 for value in wrong)


def test_a_chain_with_one_slip_is_right_before_and_consistent_after_it():
    rng = random.Random(5)
    for _ in range(200):
        problem = draw_problem(rng, rng.choice(LEVELS))
        chains = possible_slips(problem)
        assert len(set(chains)) == len(chains)
        for chain in chains:
            differing = [a != b for a, b in zip(chain, problem.totals, strict=True)]
            slot = differing.index(True)
            assert problem.steps[slot] != IDLE
            rest = "".join(f"{op}{b}" for op, b in problem.steps[slot + 1 :])
            if rest:
                assert numerals(chain[slot + 1 :]) == "".join(
                    totals_of(f"{chain[slot]:02d}{rest}=")
                )


LARGE = {"digits": 3, "slots": 10}


def test_a_larger_problem_is_worked_by_hand():
    # 098 + 5 = 103, * 9 = 927, * 2 = 1854 = 854
    problem = Problem(98, (Step("+", 5), Step("*", 9), Step("*", 2), IDLE, IDLE), digits=3)
    assert problem.prompt == "098+5*9*2+0+0="
    assert problem.totals == (103, 927, 854, 854, 854)
    assert solution_of(problem) == "(103927854854854;854"


def test_levels_of_longer_problems_are_fifths_of_the_steps():
    shape = ProblemShape(digits=3, slots=10)
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
def test_the_verifier_asks_for_the_shape_of_the_solution(response, accepted):
    assert is_correct_total(response, "(103927854854854;854") is accepted


@pytest.mark.parametrize(
    "solution", ["(103927854854854;855", "(10392785;854", "(103927854854854", ";854", "", "854"]
)
def test_a_solution_that_tells_no_shape_is_refused(solution):
    with pytest.raises(ValueError, match="expected a worked answer"):
        is_correct_total(";854", solution)


def test_slips_of_larger_problems_are_wrong_and_keep_their_digits():
    rng = random.Random(0)
    for _ in range(50):
        problem = draw_problem(rng, 4, ProblemShape(digits=3, slots=10))
        for totals in possible_slips(problem):
            assert totals != problem.totals
            assert max(totals) < 1000


def test_every_kind_of_data_takes_a_shape():
    problems = build(
        "p", {"kind": "problems", "per_level": [1] * 5, "split": "test", "seed": 1, **LARGE}
    )[0]
    for record in problems:
        assert re.fullmatch(r"\d{3}([-+*]\d){10}=", record["prompt"])
        assert is_correct_total(record["solution"].split(";")[0], record["solution"])
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


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_split_in_the_stated_shares(level):
    rng = random.Random(level)
    calculations = {calculation(draw_problem(rng, level).prompt) for _ in range(6000)}
    counts = Counter(map(split_of, calculations))
    for split, share in SHARES.items():
        error = (share * (1 - share) / len(calculations)) ** 0.5
        assert counts[split] / len(calculations) == pytest.approx(share, abs=4 * error)


def test_a_calculation_is_in_one_split_wherever_its_idle_steps_are():
    # Level 1: one real step at five places.
    prompts = [f"42{'+0' * before}*7{'+0' * (4 - before)}=" for before in range(5)]
    assert len({split_of(prompt) for prompt in prompts}) == 1


def test_the_data_sets_of_a_study_are_disjoint():
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


def test_evaluation_prompts_come_once_and_training_prompts_may_repeat():
    # Level 1 has 12,000 prompts, of which 1,725 are in the test split.
    once = problems([1500, 0, 0, 0, 0], "test", 3)
    assert len({record["prompt"] for record in once}) == len(once) == 1500
    often = demonstrations("worked", 10_000, "test", 3)
    ones = [record["prompt"] for record in often if record["level"] == 1]
    assert len(ones) == 2000 > len(set(ones))


def test_asking_for_more_prompts_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="split dev: no new level-1 prompt found"):
        draw_problems(random.Random(0), [1] * 1400, "dev")
