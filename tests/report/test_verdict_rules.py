"""The rules of the verdicts: hand-worked boundaries are in their doctests; here, what they miss."""

import inspect
import math

import pytest

from rlsubnet.report.verdicts import rules
from rlsubnet.report.verdicts.rules import AGREES, DIFFERS, NOT_COMPARABLE, NOT_RUN, WORDS

RULES = {
    name: rule
    for name, rule in vars(rules).items()
    if hasattr(rule, "__wrapped__") and rule.__module__ == rules.__name__
}
# What a rule takes beside its first argument, anything that is not empty.
MORE = {
    "sparse_with_all": (["DPO"],),
    "sparser": ([1.0],),
    "caused_by": ([1.0],),
    "often_above": (70,),
    "within": (5, 30),
    "beyond_control": ([1.0],),
    "as_accurate": ([(1.0, 0.1)],),
    "all_lower": ([(1.0, 0.1)],),
    "closer": ("start and full",),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_without_numbers_says_not_run(name):
    assert RULES[name]([], *MORE.get(name, ())).verdict == NOT_RUN


@pytest.mark.parametrize("name", ["sparser", "caused_by"])
def test_a_comparison_with_nothing_says_not_run(name):
    assert RULES[name]([60.0], []).verdict == NOT_RUN


@pytest.mark.parametrize("name", RULES)
def test_every_rule_shows_both_sides_of_its_boundary(name):
    # The doctests are run with all others; this asks that each shows both words.
    shown = inspect.getdoc(RULES[name]) or ""
    assert AGREES in shown and DIFFERS in shown


def test_a_difference_of_exactly_the_tolerance_agrees():
    # 81.9 - 81.4 = 0.5 in decimals, 0.50000000000000 something in binary.
    for ours in (80.9, 81.9):
        assert rules.same_numbers([(ours, 81.4)]).verdict == AGREES
    for ours in (80.89, 81.91):
        assert rules.same_numbers([(ours, 81.4), (81.4, 81.4)]).verdict == DIFFERS


def test_one_number_outside_is_enough_to_differ():
    assert rules.sparse([90, 90, 49]).verdict == DIFFERS
    assert rules.identical([(100, 80), (99.9, 80)]).verdict == DIFFERS
    assert rules.above_null([(2.0, 1.9), (1.05, 0.99)]).verdict == DIFFERS


def test_one_lower_p_among_more_comparisons_counts_for_less():
    # p = 0.02 counts alone and among two (0.05 / 2 = 0.025), not among three (0.0167).
    for others, verdict in ((0, DIFFERS), (1, DIFFERS), (2, AGREES)):
        deltas = [(-1.0, 0.02), *[(0.0, 1.0)] * others]
        assert rules.nowhere_worse(deltas).verdict == verdict
        assert rules.as_accurate(deltas, []).verdict == verdict


def test_a_sub_that_is_higher_is_not_the_same_but_is_not_worse():
    assert rules.as_accurate([(3.0, 0.001)], []).verdict == DIFFERS
    assert rules.nowhere_worse([(3.0, 0.001)]).verdict == AGREES


def test_without_scores_of_the_start_accuracy_is_judged_without_the_null():
    assert rules.as_accurate([(0.0, 1.0)], []).verdict == AGREES


def test_an_overlap_without_interval_is_judged_by_its_ratio():
    assert rules.above_null([(1.01, math.nan)]).verdict == AGREES
    assert rules.above_null([(0.99, math.nan)]).verdict == DIFFERS
    assert rules.above_null([(math.nan, math.nan)]).verdict == NOT_COMPARABLE


def test_levelling_off_needs_a_constant_learning_rate():
    # The last quarter takes 1 of 40 points.
    assert rules.levels_off([(1.0, 40.0, True)]).verdict == AGREES
    assert rules.levels_off([(1.0, 40.0, True), (1.0, 40.0, False)]).verdict == NOT_COMPARABLE


def test_a_steady_fall_does_not_level_off():
    # A steady pace takes a quarter of the fall in a quarter of the steps.
    assert rules.levels_off([(10.0, 40.0, True)]).verdict == DIFFERS
    assert rules.decays([100 - 1.5 * step for step in range(21)]).verdict == AGREES


def test_only_where_something_acted_its_absence_counts():
    assert rules.limited_impact([(20.0, 0.7), (0.1, 60.0)]).verdict == AGREES
    assert rules.limited_impact([(0.1, 0.7), (20.0, 60.0)]).verdict == DIFFERS


def test_a_peak_at_the_first_step_never_rose():
    assert rules.rises_then_declines([3, 2, 1, 0]).verdict == DIFFERS


def test_the_papers_own_numbers_pass_the_rules_that_stand_for_its_claims(published):
    """A rule that the paper's numbers failed would not be about the paper's claim."""
    rl = {row["rl"]: row["sparsity"] for row in published["table1"]["rows"]}
    sft = list(published["figures"]["fig1"]["sft_sparsity_range"])
    by_method = {row["algo"]: row["sparsity"] for row in published["table1"]["rows"]}
    ranks = [row["update_rank"] for row in published["table2"]["rows"]]
    table5 = published["table5"]["rows"]
    inside, outside = (
        [row["sparsity"] for row in table5 if row["in_distribution"] is kind]
        for kind in (True, False)
    )
    section6, fig2 = published["section6"], published["figures"]["fig2"]
    kl = [section6[f"grpo_{kind}_kl"]["sparsity"] for kind in ("with", "without")]
    lifts = [
        (row[side][observed] / row[side][random], math.nan)
        for row in published["table4"]["rows"]
        for side, observed, random in (("i1", "o1", "random_o1"), ("i2", "o2", "random_o2"))
    ]
    same = published["conjecture1"]
    counts = published["table3_counts"]
    found = [
        rules.sparse(list(rl.values())),
        rules.sparse_with_all(by_method, published["headline"]["n_algorithms"]["names"]),
        rules.often_above(list(rl.values()), published["headline"]["rl_often_above"]["value"]),
        rules.dense(sft),
        rules.sparser(list(rl.values()), sft),
        rules.sparser([rl["Llama-3.1-Tulu-3-70B-DPO"]], [rl["Llama-3.1-Tulu-3-8B-DPO"]]),
        rules.nearly_complete(ranks),
        # Start against full: Table 1's models, DPO and PRIME.
        rules.closer(
            [
                (100 - same["dpo_same_weights_at_1e-5"], 100 - rl["Llama-3.1-Tulu-3-8B-DPO"]),
                (100 - same["prime_same_weights_at_1e-5"], 100 - rl["Eurus-2-7B-PRIME"]),
            ],
            "start and full",
        ),
        rules.nowhere_worse(
            [(row["sub"] - row["full"], 0.2) for part in ("table3a", "table3b")
             for row in counts[part]]
        ),
        rules.above_null(lifts),
        rules.sparse(inside),
        rules.dense(outside),
        rules.sparser(inside, outside),
        rules.limited_impact([(kl[0] - kl[1], 100)]),
        rules.ordered([(fig2["never_updated"], fig2["subnetwork"], fig2["cancelled"])]),
    ]  # fmt: skip
    assert [ruling.verdict for ruling in found] == [AGREES] * len(found)
    # The paper's "5 to 30 %" does not hold in its own Table 1: deepseek-math-7b-rl, 31.5 %.
    densities = [100 - sparsity for sparsity in rl.values()]
    assert rules.within(densities, 5, 30).verdict == DIFFERS


def test_the_four_words_are_those_of_the_rules():
    assert list(WORDS) == [AGREES, DIFFERS, NOT_COMPARABLE, NOT_RUN]
