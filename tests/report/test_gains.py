"""Gains: a run against its start on the same problems, worked out by hand."""

import math

import pytest

from rlsubnet.report.tables import MEAN_OF_SEEDS, ONE_OF_THE_SEEDS, ONE_SEED
from rlsubnet.report.tables.accuracy import gains, gains_in_print
from tests.report.small_results import SCORES_HEADER, answers_csv, row_of, with_pairs, write_results

SCORES = SCORES_HEADER + (
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
    write_results(
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
    return gains(with_pairs(scale, dpo={"items": ("gains",)}), answered, published)


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
    assert table["row"].unique().tolist() == [ONE_SEED]


@pytest.fixture
def over_seeds(scale, answered, published):
    """Return the gains of two seeds; the second gains on one item of four, and nothing greedily."""
    write_results(
        answered.folder,
        {
            "answers/dpo_seed.csv.gz": answers([0, 3, 2, 3], [0, 0, 0, 1]),
            "scores/dpo_seed.csv": SCORES,
        },
    )
    named = {"items": ("gains",)}
    return gains(with_pairs(scale, dpo=named, dpo_seed=named), answered, published)


def test_seeds_are_led_by_their_mean(over_seeds):
    sampled = over_seeds[over_seeds["decoding"] == "sampled, 4 an item"]
    assert sampled["row"].tolist() == [MEAN_OF_SEEDS, ONE_OF_THE_SEEDS, ONE_OF_THE_SEEDS]
    assert sampled["seed"].tolist() == ["mean of 42, 123", "42", "123"]
    assert sampled["tuned"].tolist() == ["dpo, dpo_seed", "dpo", "dpo_seed"]
    # 60 % in both files.
    assert sampled["sparsity_percent"].tolist() == [60.0, 60.0, 60.0]


def test_the_mean_gain_has_an_interval_of_the_items_and_one_of_the_seeds(over_seeds):
    row = row_of(over_seeds, row=MEAN_OF_SEEDS, decoding="sampled, 4 an item")
    # Gains of the seeds: 1/4 and, half an item of four, 1/8.
    assert (row["init_percent"], row["gain_points"]) == (37.5, 18.75)
    assert row["gain_sd_points"] == pytest.approx(12.5 / math.sqrt(2))
    # Items, averaged over seeds: 1/8, 3/8, 1/8, 1/8: SE = sqrt(3/64 / 12) = 1/16.
    assert row["gain_se_points"] == pytest.approx(6.25)
    assert (row["gain_interval"], row["gain_excludes_zero"]) == ("+6.5 to +31.0", "yes")
    # 18.75 +- 12.706 x 12.5 / 2, one degree of freedom.
    assert row["gain_seeds_interval"] == "-60.7 to +98.2"
    assert row["gain_seeds_excludes_zero"] == "no"
    # sqrt(6.25^2 + 6.25^2) = 8.84, and 18.75 is more than twice as much.
    assert row["gain_total_se_points"] == pytest.approx(6.25 * math.sqrt(2))
    assert row["verdict"] == "higher"


def test_a_single_seed_has_no_interval_of_seeds(over_seeds):
    row = row_of(over_seeds, seed="123", decoding="sampled, 4 an item")
    assert row["gain_points"] == 12.5
    assert row["gain_seeds_interval"] == row["gain_seeds_excludes_zero"] == ""
    # Items' gains 0, 1/2, 0, 0: 0.125 +- 1.96 x 0.125.
    assert (row["gain_interval"], row["gain_excludes_zero"]) == ("-12.0 to +37.0", "no")


def test_print_has_a_part_for_each_way_of_answering(over_seeds):
    printed = gains_in_print(over_seeds)
    assert printed["part"].unique().tolist() == [
        "measured, sampled, 4 an item",
        "measured, greedy",
    ]
    assert printed["seed"].tolist() == ["mean of 2", "42", "123"] * 2
