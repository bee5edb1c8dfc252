"""The rules of the verdicts: hand-worked boundaries are in their doctests; here, what they miss."""

import inspect
import math

import pytest

from rlsubnet.report.verdicts import rules
from rlsubnet.report.verdicts.rules import AGREES, DIFFERS, NOT_COMPARABLE, NOT_RUN

RULES = {
    name: rule
    for name, rule in vars(rules).items()
    if hasattr(rule, "__wrapped__") and rule.__module__ == rules.__name__
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_not_run_without_numbers_and_shows_both_sides_of_its_boundary(name):
    assert RULES[name]([]).verdict == NOT_RUN
    if name in ("sparser", "caused_by"):  # a comparison with nothing
        assert RULES[name]([60.0], []).verdict == NOT_RUN
    # The doctests are run with all others; this asks that each shows both words.
    shown = inspect.getdoc(RULES[name]) or ""
    assert AGREES in shown and DIFFERS in shown


@pytest.mark.parametrize(
    ("rule", "numbers", "verdict"),
    [
        # 81.9 - 81.4 = 0.5 in decimals, 0.50000000000000 something in binary.
        ("same_numbers", [(80.9, 81.4)], AGREES),
        ("same_numbers", [(80.89, 81.4), (81.4, 81.4)], DIFFERS),
        ("same_numbers", [(81.91, 81.4), (81.4, 81.4)], DIFFERS),
        # One number outside is enough to differ.
        ("sparse", [90, 90, 49], DIFFERS),
        ("identical", [(100, 80), (99.9, 80)], DIFFERS),
        ("above_null", [(2.0, 1.9), (1.05, 0.99)], DIFFERS),
        # An overlap without an interval is judged by its ratio.
        ("above_null", [(1.01, math.nan)], AGREES),
        ("above_null", [(0.99, math.nan)], DIFFERS),
        ("above_null", [(math.nan, math.nan)], NOT_COMPARABLE),
        # The last quarter takes 1 of 40 points; at a steady pace it takes a quarter of the fall.
        ("levels_off", [(1.0, 40.0, True)], AGREES),
        ("levels_off", [(1.0, 40.0, True), (1.0, 40.0, False)], NOT_COMPARABLE),
        ("decays", [100 - 1.5 * step for step in range(21)], AGREES),
        # Only where something acted its absence counts.
        ("limited_impact", [(20.0, 0.7), (0.1, 60.0)], AGREES),
        ("limited_impact", [(0.1, 0.7), (20.0, 60.0)], DIFFERS),
        # A peak at the first step never rose.
        ("rises_then_declines", [3, 2, 1, 0], DIFFERS),
    ],
)
def test_a_rule_decides_what_its_doctest_does_not_show(rule, numbers, verdict):
    assert RULES[rule](numbers).verdict == verdict


def test_one_lower_p_among_more_comparisons_counts_for_less():
    # p = 0.02 counts alone and among two (0.05 / 2 = 0.025), not among three (0.0167).
    for others, verdict in ((0, DIFFERS), (1, DIFFERS), (2, AGREES)):
        deltas = [(-1.0, 0.02), *[(0.0, 1.0)] * others]
        assert rules.nowhere_worse(deltas).verdict == verdict
        assert rules.as_accurate(deltas, []).verdict == verdict
    # A sub that is higher is not the same but is not worse.
    assert rules.as_accurate([(3.0, 0.001)], []).verdict == DIFFERS
    assert rules.nowhere_worse([(3.0, 0.001)]).verdict == AGREES


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
        (row[f"i{n}"][f"o{n}"] / row[f"i{n}"][f"random_o{n}"], math.nan)
        for row in published["table4"]["rows"]
        for n in (1, 2)
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
