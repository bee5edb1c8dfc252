"""Problems are labeled rightly, the verifier is strict, and no calculation stands in two splits."""

import random
import re
from collections import Counter

import pytest

from rlsubnet.evaluation.policy_data import build
from rlsubnet.tasks import arithmetic
from rlsubnet.tasks.arithmetic import (
    IDLE,
    LEVELS,
    SHARES,
    STYLES,
    Problem,
    ProblemShape,
    Step,
    calculation,
    draw_problem,
    is_correct_total,
    numerals,
    possible_slips,
    problems,
    slips,
    solution_of,
    split_of,
    worked,
)
from rlsubnet.tasks.made_up import demonstrations
from rlsubnet.tasks.tokenizer import CHARACTERS
from tests.tasks.independent_arithmetic import level_of, totals_of


@pytest.mark.parametrize("level", LEVELS)
def test_totals_and_level_agree_with_an_independent_evaluation(level):
    rng = random.Random(level)
    for _ in range(500):
        problem = draw_problem(rng, level)
        assert len(problem.prompt) == 13
        assert worked(problem.totals) == "(" + "".join(totals_of(problem.prompt))
        assert problem.level == level_of(problem.prompt) == level


# Graded by the outcome, not the way; well-formed in the shape of the solution only.
LARGE = "(103927854854854;854"
OF_LARGE = {True: (";854", "(103927854854854", "(000000000000854")}
OF_LARGE[False] = (";54", "(1039278548", "(103927854854855", LARGE)
OF_EXAMPLE = {
    True: (";99", "(1212089999", "(0000000099"),
    False: (
        *(";98", "(1212089998", "99", ";99;", ";99\n", " ;99", ";099", ";9", "", "(99"),
        *("(12120899", "(121208999999", "(12120899;9", "(12+2089999", ",2121809999"),
        *("(1212089999)", "<pad>;99", ";٩٩"),  # the last has digits of another script
    ),
}


@pytest.mark.parametrize("solution", [";99", "(1212089999", LARGE])
def test_the_verifier_accepts_right_totals_in_the_shape_of_the_solution(solution):
    for right, responses in (OF_LARGE if solution == LARGE else OF_EXAMPLE).items():
        for response in responses:
            assert is_correct_total(response, solution) is right, response


@pytest.mark.parametrize(
    "solution",
    ["(103927854854854;855", "(10392785;854", "(103927854854854", ";854", "", "854", "99"],
)
def test_a_solution_that_tells_no_shape_is_refused(solution):
    with pytest.raises(ValueError, match=f"solution '{re.escape(solution)}': expected a worked"):
        is_correct_total(";854", solution)


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


def test_problems_are_worked_by_hand():
    # 07 + 5 = 12, + 0 = 12, * 9 = 108 = 08, - 9 = -1 = 99, + 0 = 99
    problem = Problem(7, (Step("+", 5), IDLE, Step("*", 9), Step("-", 9), IDLE))
    assert (problem.prompt, problem.level) == ("07+5+0*9-9+0=", 3)
    answers = [style(problem.totals, problem.digits) for style in STYLES.values()]
    assert answers == [";99", "(1212089999", ",2121809999"]
    assert solution_of(problem) == "(1212089999"
    # 098 + 5 = 103, * 9 = 927, * 2 = 1854 = 854
    problem = Problem(98, (Step("+", 5), Step("*", 9), Step("*", 2), IDLE, IDLE), digits=3)
    assert problem.prompt == "098+5*9*2+0+0="
    assert solution_of(problem) == "(103927854854854;854"


def test_levels_of_longer_problems_are_fifths_of_the_steps():
    shape = ProblemShape(digits=3, slots=10)
    for level in LEVELS:
        problem = draw_problem(random.Random(level), shape.real_steps(level), shape)
        assert sum(step != IDLE for step in problem.steps) == 2 * level
        assert problem.level == level


def test_slips_of_larger_problems_are_wrong_and_keep_their_digits():
    rng = random.Random(0)
    for _ in range(50):
        problem = draw_problem(rng, 4, ProblemShape(digits=3, slots=10))
        for totals in possible_slips(problem):
            assert totals != problem.totals
            assert max(totals) < 1000


def test_every_kind_of_data_takes_a_shape():
    def made(kind: str, **keys: object) -> list[dict]:
        return build("d", {"kind": kind, "seed": 1, "digits": 3, "slots": 10, **keys})[0]

    for record in made("problems", per_level=[1] * 5, split="test"):
        assert re.fullmatch(r"\d{3}([-+*]\d){10}=", record["prompt"])
        assert is_correct_total(record["solution"].split(";")[0], record["solution"])
    texts = made("base_text", documents=40, characters=96, wrong_facts=0.0)
    joined = ";".join(record["text"] for record in texts)
    assert set(joined) <= set(CHARACTERS)
    chains = re.findall(r"\(\d{3}((?:[-+*]\d)+)\)", joined)
    assert {len(chain) // 2 for chain in chains} == {2, 3, 4, 5, 6}
    of_train = {"problems": 20, "split": "train"}
    shown = made("demonstrations", style="mixed", terse_share=0.5, **of_train)
    assert {len(record["response"]) for record in shown} == {4, 31}
    pairs = made("demonstration_pairs", style="worked", **of_train)
    assert {len(pair["rejected"]) for pair in pairs} == {31}
    for item in made("choices", per_task=3, split="test"):
        assert len(set(item["choices"])) == len(item["choices"])


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


def test_evaluation_prompts_come_once_while_there_are_any_and_training_prompts_may_repeat(
    monkeypatch,
):
    # Level 1 has 12,000 prompts, of which 1,725 are in the test split.
    once = problems([1000, 0, 0, 0, 0], "test", 3)
    assert len({record["prompt"] for record in once}) == len(once) == 1000
    often = demonstrations("worked", 5_000, "test", 3)
    ones = [record["prompt"] for record in often if record["level"] == 1]
    assert len(ones) == 1000 > len(set(ones))
    monkeypatch.setattr(arithmetic, "_PATIENCE", 1000)
    with pytest.raises(ValueError, match="split dev: no new level-1 prompt found"):
        problems([1400, 0, 0, 0, 0], "dev", 0)
