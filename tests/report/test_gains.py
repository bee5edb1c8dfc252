"""Gains: a run against its start on the same problems, worked out by hand."""

import dataclasses

import pytest

from rlsubnet.report.tables import gains
from tests.report.small_results import answers_csv, row_of, write_waist

SCORES = (
    "task,level,n,correct,ci_low,ci_high,interval,backend,data_sha256\n"
    "arith_sampled,all,16,8,0.0,1.0,clustered,native,ab\n"
    "arith_greedy,all,4,1,0.0,1.0,wilson,native,ab\n"
    "choices_last_step,all,1,1,0.0,1.0,wilson,native,cd\n"
)


def answers(sampled: list[int], greedy: list[int]) -> str:
    rows = [("arith_sampled", "1", f"p{i}", 4, count) for i, count in enumerate(sampled)]
    rows += [("arith_greedy", "1", f"p{i}", 1, right) for i, right in enumerate(greedy)]
    return answers_csv([*rows, ("choices_last_step", "", "c0", 1, 1)])


@pytest.fixture
def answered(results):
    write_waist(
        results.folder,
        {
            "answers/sft.csv.gz": answers([0, 1, 2, 3], [0, 0, 0, 1]),
            "answers/dpo.csv.gz": answers([1, 2, 3, 4], [1, 1, 1, 1]),
            "scores/sft.csv": SCORES,
            "scores/dpo.csv": SCORES,
        },
    )
    return results


@pytest.fixture
def table(scale, answered, published):
    pairs = dict(scale.pairs)
    pairs["dpo"] = dataclasses.replace(pairs["dpo"], items=("gains",))
    return gains(dataclasses.replace(scale, pairs=pairs), answered, published)


def test_the_sampled_gain_is_the_mean_difference_of_the_items(table):
    row = row_of(table, decoding="sampled, 4 an item")
    # 6 and 10 of 16 answers; every item gained one answer in four, so nothing varies.
    assert (row["init_percent"], row["tuned_percent"]) == (37.5, 62.5)
    assert (row["gain_points"], row["gain_se_points"]) == (25.0, 0.0)
    assert (row["gain_interval"], row["verdict"]) == ("+25.0 to +25.0", "higher")


def test_three_greedy_answers_more_of_four_are_not_distinguishable(table):
    row = row_of(table, decoding="greedy")
    # Three discordant items, all for the run: p = 2 / 2^3.
    assert (row["gain_points"], row["p_value"]) == (75.0, 0.25)
    assert row["verdict"] == "not distinguishable"


def test_the_sparsity_of_the_update_stands_beside_every_gain(table):
    # 4 of 8 and 2 of 2 weights are unchanged by the authors' rule.
    assert table["sparsity_percent"].tolist() == [60.0, 60.0]
    assert table["task"].unique().tolist() == ["arith"]
