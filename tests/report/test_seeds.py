"""Table 3 over seeds: means, spread and errors, worked out by hand from two seeds and two items."""

import dataclasses
import math

import pandas as pd
import pytest

from rlsubnet.report.export import column
from rlsubnet.report.paired import (
    NO_ITEM_DIFFERS,
    NOT_DISTINGUISHABLE,
    OVER_SEEDS,
    compare_seeds,
    mean_of_tasks,
)
from rlsubnet.report.tables import MEAN_OF_SEEDS, ONE_OF_THE_SEEDS, ONE_SEED
from rlsubnet.report.tables.accuracy import SUMMARY, table3, table3_in_print
from tests.report.small_results import SCORES_HEADER, answers_csv, row_of, write_results

SCORES = SCORES_HEADER + (
    "arith_sampled,all,8,4,0.0,1.0,clustered,native,{arith}\n"
    "choices_last_step,all,2,1,0.0,1.0,wilson,native,cd\n"
    "choices_first_step,all,2,1,0.0,1.0,wilson,native,cd\n"
)


def answers(sampled: list[int], last: list[int], first: list[int]) -> str:
    rows = [("arith_sampled", str(i + 1), f"p{i}", 4, count) for i, count in enumerate(sampled)]
    rows += [("choices_last_step", "", f"l{i}", 1, right) for i, right in enumerate(last)]
    rows += [("choices_first_step", "", f"f{i}", 1, right) for i, right in enumerate(first)]
    return answers_csv(rows)


@pytest.fixture
def answered(results):
    files = {
        "answers/dpo.csv.gz": answers([1, 2], [0, 1], [1, 1]),
        "answers/dpo_sub.csv.gz": answers([2, 2], [1, 1], [1, 1]),
        "answers/dpo_seed.csv.gz": answers([1, 1], [0, 1], [0, 1]),
        "answers/dpo_seed_sub.csv.gz": answers([1, 4], [0, 1], [0, 1]),
    }
    files |= {
        f"scores/{run}.csv": SCORES.format(arith="ab")
        for run in ("dpo", "dpo_sub", "dpo_seed", "dpo_seed_sub")
    }
    write_results(results.folder, files)
    return results


@pytest.fixture
def table(seeded, answered, published):
    return table3(seeded, answered, published)


def test_the_mean_over_seeds_comes_first_and_names_its_seeds(table):
    rows = table[(table["task"] == "arith") & (table["level"] == "Overall")]
    assert rows["row"].tolist() == [MEAN_OF_SEEDS, ONE_OF_THE_SEEDS, ONE_OF_THE_SEEDS]
    assert rows["seed"].tolist() == ["mean of 42, 123", "42", "123"]
    assert rows["full"].tolist() == ["dpo, dpo_seed", "dpo", "dpo_seed"]


def test_means_spread_and_both_errors(table):
    row = row_of(table, task="arith", level="Overall", row=MEAN_OF_SEEDS)
    # Of 2 items x 4 samples x 2 seeds: full 3 + 2, sub 4 + 5.
    assert (row["n"], row["full_correct"], row["sub_correct"]) == (2, 5, 9)
    assert (row["full_percent"], row["sub_percent"], row["delta_points"]) == (31.25, 56.25, 25.0)
    # Deltas of the seeds: (1 + 0) / 8 and (0 + 3) / 8, so SD = 0.25 / sqrt(2).
    assert row["delta_sd_points"] == pytest.approx(100 * 0.25 / math.sqrt(2))
    # Full: 3/8 and 2/8; sub: 4/8 and 5/8.
    assert row["full_sd_points"] == row["sub_sd_points"]
    assert row["full_sd_points"] == pytest.approx(100 * 0.125 / math.sqrt(2))
    # Items, averaged over seeds: 1/8 and 3/8, whose mean has SE = 0.25 / 2.
    assert row["delta_se_points"] == pytest.approx(12.5)
    # SD^2 / 2 = 1/64 as well: sqrt(2 / 64).
    assert row["delta_total_se_points"] == pytest.approx(100 * math.sqrt(2) / 8)
    # z = 0.25 / 0.1768 = 1.414.
    assert row["p_value"] == pytest.approx(0.157, abs=1e-3)
    assert (row["test"], row["verdict"]) == (OVER_SEEDS, NOT_DISTINGUISHABLE)


def test_the_mean_lists_the_exact_p_of_each_seed(table):
    row = row_of(table, task="last_step", row=MEAN_OF_SEEDS)
    # One discordant item in seed 42 (p = 1), none in 123.
    assert row["p_by_seed"] == "1.000, 1.000"
    assert row["paper_task"] == "AGIEval LSAT-LR"


def test_an_average_of_tasks_is_averaged_within_each_seed_first(table):
    rows = table[table["task"] == "Avg"].set_index("seed")["delta_points"]
    # Seed 42 gains half of last_step and nothing of first_step, seed 123 nothing.
    assert rows["42"] == 25.0 and rows["123"] == 0.0
    assert rows["mean of 42, 123"] == 12.5
    spread = row_of(table, task="Avg", row=MEAN_OF_SEEDS)["delta_sd_points"]
    assert spread == pytest.approx(25 / math.sqrt(2))


def test_no_item_differs_only_where_none_does_in_any_seed(table):
    assert row_of(table, task="first_step", row=MEAN_OF_SEEDS)["verdict"] == NO_ITEM_DIFFERS
    gained = pd.DataFrame({"samples": [1, 1], "full": [0, 1], "sub": [1, 0]})
    lost = gained.assign(full=[1, 0], sub=[0, 1])
    # Every item and every seed has a mean difference of zero, and yet all answers differ.
    both = compare_seeds([gained, lost])
    assert (both.delta, both.total_se, both.verdict) == (0.0, 0.0, NOT_DISTINGUISHABLE)


def test_a_method_with_one_seed_has_no_mean(scale, answered, published):
    table = table3(scale, answered, published)
    assert set(table["row"]) == {ONE_SEED, ""}
    assert table["delta_sd_points"].isna().all()


def test_seeds_of_other_items_are_an_error(seeded, answered, published):
    for run in ("dpo_seed", "dpo_seed_sub"):
        write_results(answered.folder, {f"answers/{run}.csv.gz": answers([1], [0, 1], [0, 1])})
    with pytest.raises(ValueError, match="pairs dpo_vs_sub and dpo_seed_vs_sub are seeds of one"):
        table3(seeded, answered, published)


def test_seeds_of_other_data_are_an_error(seeded, answered, published):
    for run in ("dpo_seed", "dpo_seed_sub"):
        write_results(answered.folder, {f"scores/{run}.csv": SCORES.format(arith="other")})
    with pytest.raises(
        ValueError, match="seeds dpo_vs_sub and dpo_seed_vs_sub, task arith_sampled"
    ):
        table3(seeded, answered, published)


def test_seeds_asked_a_different_number_of_times_are_an_error():
    one = pd.DataFrame({"samples": [1, 1], "full": [0, 0], "sub": [1, 1]})
    with pytest.raises(ValueError, match="seeds differ in their"):
        compare_seeds([one, one.assign(samples=4)])


def test_one_item_over_seeds_says_nothing():
    one = pd.DataFrame({"samples": [1], "full": [0], "sub": [1]})
    both = compare_seeds([one, one])
    assert math.isnan(both.total_se)
    assert both.verdict == NOT_DISTINGUISHABLE
    assert mean_of_tasks([both, both]).verdict == NOT_DISTINGUISHABLE


def test_print_opens_with_all_tasks_and_levels_together(table):
    printed = table3_in_print(table)
    summary = printed[printed["part"] == SUMMARY]
    assert summary["task"].tolist() == ["mean of the choice tasks", "arith, sampled, 4 an item"]
    assert summary["seed"].tolist() == ["mean of 2", "mean of 2"]
    # The mean's standard error is the one its verdict goes by.
    assert summary["delta_se_points"].tolist()[1] == pytest.approx(100 * math.sqrt(2) / 8)


def test_print_leaves_single_seeds_of_single_tasks_to_the_csv(table):
    printed = table3_in_print(table)
    of_one_seed = printed[printed["seed"].isin(["42", "123"])]
    assert set(of_one_seed["task"] + of_one_seed["level"]) == {"Avg", "Overall"}
    assert len(printed[printed["part"].str.startswith("(b)")]) == 5  # levels 1, 2, Overall x 3


def test_print_hides_what_it_repeats_and_keeps_every_paper_row(table):
    printed = table3_in_print(table)
    ours = printed[~printed["part"].str.startswith("paper")]
    assert (ours[["full", "sub", "test", "source"]] == "").all().all()
    paper = table[table["part"].str.startswith("paper")].reset_index(drop=True)
    shown = printed[printed["part"].str.startswith("paper")].reset_index(drop=True)
    numbers = [name for name in paper.columns if column(name).digits is not None]
    assert shown[numbers].astype(float).equals(paper[numbers].astype(float))


def test_print_names_the_runs_where_a_method_stands_twice(seeded, answered, published):
    runs = dict(seeded.runs)
    runs["dpo_seed"] = dataclasses.replace(runs["dpo_seed"], seed=42, set="lr=5e-4")
    runs["dpo_seed_sub"] = dataclasses.replace(runs["dpo_seed_sub"], seed=42, set="lr=5e-4")
    table = table3(dataclasses.replace(seeded, runs=runs), answered, published)
    printed = table3_in_print(table)
    assert set(printed["full"]) == {"dpo", "dpo_seed", ""}
