"""Table 3 and gains: paired counts, intervals, tests and errors over seeds, worked out by hand."""

import dataclasses
import math
from collections.abc import Callable

import pandas as pd
import pytest

from rlsubnet.report.export import column
from rlsubnet.report.figure_data import step_accuracies
from rlsubnet.report.paired import (
    CLUSTERED,
    MCNEMAR,
    NO_ITEM_DIFFERS,
    NOT_DISTINGUISHABLE,
    OVER_SEEDS,
    compare_counts,
    compare_items,
    compare_seeds,
    mean_of_tasks,
)
from rlsubnet.report.results import NOT_RUN, Results
from rlsubnet.report.settings import suite_facts
from rlsubnet.report.tables import MEAN_OF_SEEDS, ONE_OF_THE_SEEDS, ONE_SEED
from rlsubnet.report.tables.accuracy import SUMMARY, gains, gains_in_print, table3, table3_in_print
from rlsubnet.report.verdicts.numbers import Source, gains_of
from tests.report.small_results import answers_csv, csv_of, row_of, with_pairs, write_results

Answers = dict[str, list[int]]  # task -> right answers of each item


def write_answers(
    results: Results,
    runs: dict[str, Answers],
    level: Callable[[int], str] = lambda item: "1",
    digest: str = "ab",
) -> Results:
    """Write answers and scores of runs; sampled tasks have four answers an item."""
    files = {}
    for run, tasks in runs.items():
        rows = [
            (
                task,
                level(item) if task.startswith(("arith", "math")) else "",
                f"{task[0]}{item}",
                4 if task.endswith("sampled") else 1,
                right,
            )
            for task, counts in tasks.items()
            for item, right in enumerate(counts)
        ]
        files[f"answers/{run}.csv.gz"] = answers_csv(rows)
        files[f"scores/{run}.csv"] = csv_of(
            "scores", *(f"{task},all,8,2,0.0,1.0,wilson,native,{digest}" for task in tasks)
        )
    write_results(results.folder, files)
    return results


def asked_twice(full: list[int], sub: list[int], samples: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"samples": samples, "full": full, "sub": sub})


# One seed: six items right in sub only, one in full only, one in both: 2 and 7 of 8.
ONE_RUN: dict[str, Answers] = {
    "dpo": {
        "arith_sampled": [4, 0, 2],
        "arith_greedy": [1, 1, 0, 0, 0, 0, 0, 0],
        "choices_last_step": [1, 0],
    },
    "dpo_sub": {
        "arith_sampled": [4, 1, 4],
        "arith_greedy": [0, 1, 1, 1, 1, 1, 1, 1],
        "choices_last_step": [1, 1],
    },
}


@pytest.fixture
def answered(results) -> Results:
    return write_answers(results, ONE_RUN, lambda item: "1" if item < 4 else "2")


@pytest.fixture
def table(scale, answered, published) -> pd.DataFrame:
    return table3(scale, answered, published)


def test_greedy_counts_are_tested_exactly_and_samples_of_an_item_as_one_cluster(table):
    row = row_of(table, task="arith", decoding="greedy", level="Overall")
    assert (row["n"], row["full_correct"], row["sub_correct"]) == (8, 2, 7)
    assert (row["full_percent"], row["sub_percent"], row["delta_points"]) == (25.0, 87.5, 62.5)
    # Seven discordant items, one of them for full: p = 2 (1 + 7) / 2^7.
    assert (row["p_value"], row["test"]) == (0.125, MCNEMAR)
    assert row["verdict"] == NOT_DISTINGUISHABLE
    # Wilson's interval of 2 of 8 at z = 1.96.
    assert row["full_interval"] == "7.1 to 59.1"
    # Levels split the items, and Overall pools them.
    greedy = table[(table["task"] == "arith") & (table["decoding"] == "greedy")]
    levels = greedy[["level", "n", "sub_correct"]].values.tolist()
    assert levels == [["1", 4, 3], ["2", 4, 4], ["Overall", 8, 7]]
    row = row_of(table, task="arith", decoding="sampled, 4 an item", level="Overall")
    # Full 6 of 12, sub 9 of 12. Differences of the items' means: 0, 1/4, 1/2; their mean 1/4,
    # standard error sqrt((1/16 + 0 + 1/16) / (3 * 2)) = sqrt(1/48) = 0.1443.
    assert (row["n"], row["full_correct"], row["sub_correct"]) == (3, 6, 9)
    assert (row["full_percent"], row["sub_percent"]) == (50.0, 75.0)
    assert row["delta_se_points"] == pytest.approx(14.434, abs=1e-3)
    assert row["test"] == CLUSTERED
    # A choice task shows chance, and the task it stands for.
    row = row_of(table, task="last_step")
    assert (row["full_percent"], row["sub_percent"], row["chance_percent"]) == (50.0, 100.0, 20.0)
    assert (row["paper_task"], row["paper_full_percent"]) == ("AGIEval LSAT-LR", 53.1)
    # One seed alone has no mean and no spread.
    assert set(table["row"]) == {ONE_SEED, ""}
    assert table["delta_sd_points"].isna().all()


def test_prime_stands_beside_math500_by_level_and_dpo_does_not(scale, answered, published):
    def beside(method: str) -> tuple[str, str]:
        table = table3(with_pairs(scale, dpo_vs_sub={"method": method}), answered, published)
        row = row_of(table, task="arith", decoding="greedy", level="2")
        return row["paper_task"], table["part"].iloc[-1]

    assert beside("PRIME") == ("MATH500 level 2", "paper, Table 3(b)")
    assert beside("DPO") == ("", f"paper, Table 3(b), {NOT_RUN}")


def test_no_gain_of_the_paper_is_distinguishable_by_its_decoded_counts(table, published):
    paper = table[table["paper_verdict"] != ""]
    assert len(paper) == 12
    assert set(paper["paper_verdict"]) == {NOT_DISTINGUISHABLE}
    lsat = row_of(paper, paper_task="AGIEval LSAT-AR")
    assert (lsat["paper_n"], lsat["paper_full_correct"], lsat["paper_sub_correct"]) == (230, 49, 57)
    # They round to the printed percentages.
    for part, key in (("table3a", "task"), ("table3b", "level")):
        printed = {row[key]: row for row in published[part]["rows"]}
        for counts in published["table3_counts"][part]:
            for side in ("full", "sub"):
                share = 100 * counts[side] / counts["n"]
                assert share == pytest.approx(printed[counts[key]][side], abs=0.0501)
    # Unpaired, both errors count: 0.5 and 0.6 of 100, SE = sqrt((0.25 + 0.24) / 100) = 0.07.
    compared = compare_counts(100, 50, 60)
    assert compared.se == pytest.approx(0.07)
    assert compared.p_value == pytest.approx(0.153, abs=1e-3)


def test_runs_that_were_not_asked_the_same_or_another_suite_are_refused(scale, answered, published):
    other = {"dpo_sub": ONE_RUN["dpo_sub"] | {"choices_last_step": [1]}}
    write_answers(answered, other, lambda item: "1" if item < 4 else "2")
    with pytest.raises(ValueError, match=r"dpo\.csv\.gz: 1 items are not in .*item c1"):
        table3(scale, answered, published)
    fresh = Results(answered.folder)
    write_answers(fresh, {"dpo_sub": ONE_RUN["dpo_sub"]}, digest="other")
    with pytest.raises(ValueError, match=r"task arith_sampled: .*different data: ab and other"):
        table3(scale, fresh, published)
    scale.config["evaluation"]["suites"] = ["choices"]
    with pytest.raises(ValueError, match="task 'arith_sampled' belongs to none of the suites"):
        table3(scale, write_answers(Results(answered.folder), ONE_RUN), published)


def of_seed(sampled: list[int], last: list[int], first: list[int]) -> Answers:
    return {"arith_sampled": sampled, "choices_last_step": last, "choices_first_step": first}


TWO_SEEDS = {
    "dpo": of_seed([1, 2], [0, 1], [1, 1]),
    "dpo_sub": of_seed([2, 2], [1, 1], [1, 1]),
    "dpo_seed": of_seed([1, 1], [0, 1], [0, 1]),
    "dpo_seed_sub": of_seed([1, 4], [0, 1], [0, 1]),
}


@pytest.fixture
def of_two(results) -> Results:
    return write_answers(results, TWO_SEEDS, lambda item: str(item + 1))


@pytest.fixture
def seeds(seeded, of_two, published) -> pd.DataFrame:
    return table3(seeded, of_two, published)


def test_the_mean_over_seeds_comes_first_with_their_spread_and_both_errors(seeds):
    rows = seeds[(seeds["task"] == "arith") & (seeds["level"] == "Overall")]
    assert rows["row"].tolist() == [MEAN_OF_SEEDS, ONE_OF_THE_SEEDS, ONE_OF_THE_SEEDS]
    assert rows["seed"].tolist() == ["mean of 42, 123", "42", "123"]
    assert rows["full"].tolist() == ["dpo, dpo_seed", "dpo", "dpo_seed"]
    row = rows.iloc[0]
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


def test_the_mean_lists_each_seeds_p_and_averages_tasks_within_each_seed(seeds):
    row = row_of(seeds, task="last_step", row=MEAN_OF_SEEDS)
    # One discordant item in seed 42 (p = 1), none in 123.
    assert row["p_by_seed"] == "1.000, 1.000"
    assert row["paper_task"] == "AGIEval LSAT-LR"
    rows = seeds[seeds["task"] == "Avg"].set_index("seed")["delta_points"]
    # Seed 42 gains half of last_step and nothing of first_step, seed 123 nothing.
    assert rows["42"] == 25.0 and rows["123"] == 0.0
    assert rows["mean of 42, 123"] == 12.5
    spread = row_of(seeds, task="Avg", row=MEAN_OF_SEEDS)["delta_sd_points"]
    assert spread == pytest.approx(25 / math.sqrt(2))


def test_no_item_differs_only_where_none_does_in_any_seed(seeds):
    assert compare_items(asked_twice([1, 3], [1, 3], 4)).verdict == NO_ITEM_DIFFERS
    # 3 - 1 and 1 - 3: equal sums, other items.
    exchanged = compare_items(asked_twice([1, 3], [3, 1], 4))
    assert (exchanged.delta, exchanged.verdict) == (0.0, NOT_DISTINGUISHABLE)
    assert row_of(seeds, task="first_step", row=MEAN_OF_SEEDS)["verdict"] == NO_ITEM_DIFFERS
    # Every item and every seed has a mean difference of zero, and yet all answers differ.
    both = compare_seeds([asked_twice([0, 1], [1, 0]), asked_twice([1, 0], [0, 1])])
    assert (both.delta, both.total_se, both.verdict) == (0.0, 0.0, NOT_DISTINGUISHABLE)
    # One item has no spread.
    assert compare_items(asked_twice([0], [1])).verdict == NOT_DISTINGUISHABLE
    single = compare_seeds([asked_twice([0], [1])] * 2)
    assert math.isnan(single.total_se)
    assert single.verdict == mean_of_tasks([single, single]).verdict == NOT_DISTINGUISHABLE


def test_seeds_that_were_not_asked_the_same_are_refused(seeded, of_two, published):
    foreign = {run: TWO_SEEDS[run] for run in ("dpo_seed", "dpo_seed_sub")}
    write_answers(of_two, foreign, lambda item: str(item + 1), digest="other")
    with pytest.raises(ValueError, match="seeds dpo_vs_sub and dpo_seed_vs_sub, task arith_"):
        table3(seeded, of_two, published)
    fresh = Results(of_two.folder)
    write_answers(fresh, dict.fromkeys(foreign, of_seed([1], [0, 1], [0, 1])))
    with pytest.raises(ValueError, match="pairs dpo_vs_sub and dpo_seed_vs_sub are seeds of one"):
        table3(seeded, fresh, published)
    with pytest.raises(ValueError, match="seeds differ in their"):
        compare_seeds([asked_twice([0, 0], [1, 1], samples) for samples in (1, 4)])


def test_print_opens_with_a_summary_and_hides_what_it_repeats(seeds, seeded, of_two, published):
    printed = table3_in_print(seeds)
    summary = printed[printed["part"] == SUMMARY]
    assert summary["task"].tolist() == ["mean of the choice tasks", "arith, sampled, 4 an item"]
    assert summary["seed"].tolist() == ["mean of 2", "mean of 2"]
    # The mean's standard error is the one its verdict goes by.
    assert summary["delta_se_points"].tolist()[1] == pytest.approx(100 * math.sqrt(2) / 8)
    of_one_seed = printed[printed["seed"].isin(["42", "123"])]
    assert set(of_one_seed["task"] + of_one_seed["level"]) == {"Avg", "Overall"}
    assert len(printed[printed["part"].str.startswith("(b)")]) == 5  # levels 1, 2, Overall x 3
    ours = printed[~printed["part"].str.startswith("paper")]
    assert (ours[["full", "sub", "test", "source"]] == "").all().all()
    paper = seeds[seeds["part"].str.startswith("paper")].reset_index(drop=True)
    shown = printed[printed["part"].str.startswith("paper")].reset_index(drop=True)
    numbers = [name for name in paper.columns if column(name).digits is not None]
    assert shown[numbers].astype(float).equals(paper[numbers].astype(float))
    # Where a method stands twice, its runs are named.
    for run in ("dpo_seed", "dpo_seed_sub"):
        seeded.runs[run] = dataclasses.replace(seeded.runs[run], seed=42, set="lr=5e-4")
    printed = table3_in_print(table3(seeded, of_two, published))
    assert set(printed["full"]) == {"dpo", "dpo_seed", ""}


def against_start(sampled: list[int], greedy: list[int]) -> Answers:
    return {"arith_sampled": sampled, "arith_greedy": greedy, "choices_last_step": [1]}


GAINED = {
    "sft": against_start([0, 1, 2, 3], [0, 0, 0, 1]),
    "dpo": against_start([1, 2, 3, 4], [1, 1, 1, 1]),
    # The second seed gains on one item of four, and nothing greedily.
    "dpo_seed": against_start([0, 3, 2, 3], [0, 0, 0, 1]),
}
NAMED = {"items": ("gains",)}


def test_a_gain_is_the_mean_difference_of_the_items(scale, results, published):
    table = gains(with_pairs(scale, dpo=NAMED), write_answers(results, GAINED), published)
    row = row_of(table, decoding="sampled, 4 an item")
    # 6 and 10 of 16 answers; every item gained one answer in four, so nothing varies.
    assert (row["init_percent"], row["tuned_percent"]) == (37.5, 62.5)
    assert (row["gain_points"], row["gain_se_points"]) == (25.0, 0.0)
    assert (row["gain_interval"], row["verdict"]) == ("+25.0 to +25.0", "higher")
    row = row_of(table, decoding="greedy")
    # Three discordant items, all for the run: p = 2 / 2^3.
    assert (row["gain_points"], row["p_value"]) == (75.0, 0.25)
    assert row["verdict"] == NOT_DISTINGUISHABLE
    # 4 of 8 and 2 of 2 weights are unchanged by the authors' rule.
    assert table["sparsity_percent"].tolist() == [60.0, 60.0]
    assert table["task"].unique().tolist() == ["arith"]
    assert table["row"].unique().tolist() == [ONE_SEED]


def test_the_mean_gain_has_an_interval_of_the_items_and_one_of_the_seeds(scale, results, published):
    both = with_pairs(scale, dpo=NAMED, dpo_seed=NAMED)
    over_seeds = gains(both, write_answers(results, GAINED), published)
    sampled = over_seeds[over_seeds["decoding"] == "sampled, 4 an item"]
    assert sampled["row"].tolist() == [MEAN_OF_SEEDS, ONE_OF_THE_SEEDS, ONE_OF_THE_SEEDS]
    assert sampled["seed"].tolist() == ["mean of 42, 123", "42", "123"]
    assert sampled["tuned"].tolist() == ["dpo, dpo_seed", "dpo", "dpo_seed"]
    # 60 % in both files.
    assert sampled["sparsity_percent"].tolist() == [60.0, 60.0, 60.0]
    printed = gains_in_print(over_seeds)
    parts = ["measured, sampled, 4 an item", "measured, greedy"]
    assert printed["part"].unique().tolist() == parts
    assert printed["seed"].tolist() == ["mean of 2", "42", "123"] * 2
    row, _, single = (row for _, row in sampled.iterrows())
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
    assert single["gain_points"] == 12.5
    assert single["gain_seeds_interval"] == single["gain_seeds_excludes_zero"] == ""
    # Items' gains 0, 1/2, 0, 0: 0.125 +- 1.96 x 0.125.
    assert single["gain_interval"] == "-12.0 to +37.0"
    assert single["gain_excludes_zero"] == "no"


FULL = {
    "table3a_lsat_ar": [1, 0],
    "table3a_mmlu_pro_math": [0, 0],
    "math500": [1, 0, 1],
    "aime2024": [0, 1],
}
SUB = FULL | {"table3a_lsat_ar": [1, 1], "table3a_mmlu_pro_math": [0, 1], "math500": [1, 1, 1]}


@pytest.fixture
def olmes(scale):
    """Return a scale that olmes evaluates."""
    suites = {"suites": ["table3a", "math500", "aime2024"], "step_suites": ["math500"]}
    config = {**scale.config, "evaluation": {"backend": "olmes", **suites}}
    return dataclasses.replace(scale, config=config)


@pytest.fixture
def by_olmes(results) -> Results:
    runs = {"sft": FULL, "dpo": FULL, "dpo_sub": SUB}
    return write_answers(results, runs, lambda item: "225"[item])


def test_a_task_of_olmes_stands_beside_the_papers_with_its_chance(olmes, by_olmes, published):
    table = table3(olmes, by_olmes, published)
    row = row_of(table, task="lsat_ar")
    assert (row["part"], row["decoding"]) == ("(a) multiple choice", "greedy")
    assert (row["n"], row["full_correct"], row["sub_correct"]) == (2, 1, 2)
    assert (row["chance_percent"], row["paper_task"]) == (20.0, "AGIEval LSAT-AR")
    assert row["paper_full_percent"] == 21.3
    # Its questions have up to ten choices.
    assert pd.isna(row_of(table, task="mmlu_pro_math")["chance_percent"])
    # Unweighted: full (1/2 + 0) / 2, sub (1 + 1/2) / 2.
    mean = row_of(table, task="Avg")
    assert (mean["full_percent"], mean["sub_percent"]) == (25.0, 75.0)
    levels = table[table["task"] == "math500"]
    assert levels["level"].tolist() == ["2", "5", "Overall"]
    assert levels["n"].tolist() == [2, 1, 3]
    assert table[table["task"] == "aime2024"]["level"].tolist() == ["Overall"]
    # Only MATH500 of PRIME stands beside Table 3(b).
    prime = with_pairs(olmes, dpo_vs_sub={"method": "PRIME"})
    table = table3(prime, by_olmes, published)
    assert row_of(table, task="math500", level="5")["paper_task"] == "MATH500 level 5"
    assert row_of(table, task="aime2024")["paper_task"] == ""


def test_gains_are_of_the_problems_and_greedy_ones_count_alone(olmes, by_olmes, published):
    shown = with_pairs(olmes, dpo=NAMED)
    table = gains(shown, by_olmes, published)
    assert set(table["task"]) == {"math500", "aime2024"}
    assert set(table["decoding"]) == {"greedy"}
    found = gains_of(Source(shown, by_olmes, published), ["dpo"])
    assert [one.name for one in found] == ["dpo, math500", "dpo, aime2024"]
    assert [one.points for one in found] == table["gain_points"].tolist()
    # A sampled answer is not called greedy.
    assert suite_facts(olmes.config, "math500-r1").decoded(1) == "sampled once at 0.6"


def test_figure_7_draws_one_answer_a_problem(olmes, results):
    rows = [f"{step},math500,all,4,{n},0.1,0.9,wilson,olmes,ab" for step, n in ((0, 1), (5, 2))]
    write_results(results.folder, {"step_scores/dpo.csv": csv_of("step_scores", *rows)})
    table = step_accuracies(with_pairs(olmes, dpo={"items": ("fig7",)}), results)
    assert table["decoding"].tolist() == ["greedy", "greedy"]
    assert table["accuracy_percent"].tolist() == [25.0, 50.0]
