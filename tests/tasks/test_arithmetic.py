"""Problems are labeled rightly, and the verifier is strict."""

import random

import pytest

from rlsubnet.tasks.arithmetic import (
    IDLE,
    LEVELS,
    Problem,
    Step,
    digits,
    draw_problem,
    is_correct,
    possible_slips,
    reversed_digits,
    slips,
    terse,
    worked,
)
from tests.tasks.independent_arithmetic import level_of, totals_of

# 07 + 5 = 12, + 0 = 12, * 9 = 108 = 08, - 9 = -1 = 99, + 0 = 99
EXAMPLE = Problem(7, (Step("+", 5), IDLE, Step("*", 9), Step("-", 9), IDLE))


def test_example_is_worked_by_hand() -> None:
    assert EXAMPLE.prompt == "07+5+0*9-9+0="
    assert EXAMPLE.totals == (12, 12, 8, 99, 99)
    assert EXAMPLE.level == 3
    assert terse(EXAMPLE.totals) == ";99"
    assert worked(EXAMPLE.totals) == "(1212089999"
    assert reversed_digits(EXAMPLE.totals) == ",2121809999"


@pytest.mark.parametrize("level", LEVELS)
def test_totals_and_level_agree_with_an_independent_evaluation(level: int) -> None:
    rng = random.Random(level)
    for _ in range(500):
        problem = draw_problem(rng, level)
        assert len(problem.prompt) == 13
        assert worked(problem.totals) == "(" + "".join(totals_of(problem.prompt))
        assert problem.level == level_of(problem.prompt) == level


def test_same_seed_same_problems_and_no_global_random_state() -> None:
    random.seed(0)
    state = random.getstate()
    first = [draw_problem(random.Random(7), 3) for _ in range(2)]
    assert first[0] == first[1]
    assert random.getstate() == state


def test_level_outside_the_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="6 real steps: expected 1 to 5"):
        draw_problem(random.Random(0), 6)


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
def test_verifier_table(response: str, accepted: bool) -> None:
    assert is_correct(response, worked(EXAMPLE.totals)) is accepted
    assert is_correct(response, terse(EXAMPLE.totals)) is accepted


def test_verifier_refuses_a_malformed_solution() -> None:
    with pytest.raises(ValueError, match="solution '99'"):
        is_correct(";99", "99")


def test_slips_are_wrong_distinct_and_at_least_four() -> None:
    for total in range(100):
        for operation in "+-*":
            for operand in range(10):
                right = eval(f"{total}{operation}{operand}") % 100
                wrong = slips(total, Step(operation, operand))
                assert right not in wrong
                assert len(set(wrong)) == len(wrong) >= 4
                assert all(0 <= value < 100 for value in wrong)


def test_a_chain_with_one_slip_is_right_before_and_consistent_after_it() -> None:
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
                assert digits(chain[slot + 1 :]) == "".join(totals_of(f"{chain[slot]:02d}{rest}="))
