"""Table 3, gains and Figure 7 of a scale that olmes evaluates."""

import dataclasses

import pandas as pd
import pytest

from rlsubnet.report.figure_data import step_accuracies
from rlsubnet.report.settings import suite_facts
from rlsubnet.report.tables.accuracy import gains, table3
from rlsubnet.report.verdicts.numbers import Source, gains_of
from tests.report.small_results import SCORES_HEADER, answers_csv, row_of, with_pairs, write_results

TASKS = ("table3a_lsat_ar", "table3a_mmlu_pro_math", "math500", "aime2024")
FULL = {"table3a_lsat_ar": [1, 0], "table3a_mmlu_pro_math": [0, 0], "math500": [1, 0, 1]}
SUB = {"table3a_lsat_ar": [1, 1], "table3a_mmlu_pro_math": [0, 1], "math500": [1, 1, 1]}
SCORES = SCORES_HEADER + "".join(f"{task},all,3,1,0.0,1.0,wilson,olmes,ab\n" for task in TASKS)


def answers(right: dict[str, list[int]]) -> str:
    rows = []
    for task, values in {**right, "aime2024": [0, 1]}.items():
        levels = ["2", "2", "5"] if task == "math500" else [""] * 3
        rows += [(task, levels[i], f"q{i}", 1, value) for i, value in enumerate(values)]
    return answers_csv(rows)


@pytest.fixture
def olmes(scale):
    evaluation = {
        "backend": "olmes",
        "suites": ["table3a", "math500", "aime2024"],
        "step_suites": ["math500"],
    }
    return dataclasses.replace(scale, config={**scale.config, "evaluation": evaluation})


@pytest.fixture
def answered(results):
    files = {f"scores/{run}.csv": SCORES for run in ("sft", "dpo", "dpo_sub")}
    files |= {f"answers/{run}.csv.gz": answers(FULL) for run in ("sft", "dpo")}
    files["answers/dpo_sub.csv.gz"] = answers(SUB)
    write_results(results.folder, files)
    return results


def test_a_task_stands_beside_the_paper_s_with_its_chance(olmes, answered, published):
    table = table3(olmes, answered, published)
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


def test_math500_has_levels_and_aime_has_none(olmes, answered, published):
    table = table3(olmes, answered, published)
    levels = table[table["task"] == "math500"]
    assert levels["level"].tolist() == ["2", "5", "Overall"]
    assert levels["n"].tolist() == [2, 1, 3]
    assert table[table["task"] == "aime2024"]["level"].tolist() == ["Overall"]


def test_only_math500_of_prime_stands_beside_table_3b(olmes, answered, published):
    prime = with_pairs(olmes, dpo_vs_sub={"method": "PRIME"})
    table = table3(prime, answered, published)
    assert row_of(table, task="math500", level="5")["paper_task"] == "MATH500 level 5"
    assert row_of(table, task="aime2024")["paper_task"] == ""


def test_gains_are_of_the_problems(olmes, answered, published):
    table = gains(with_pairs(olmes, dpo={"items": ("gains",)}), answered, published)
    assert set(table["task"]) == {"math500", "aime2024"}
    assert set(table["decoding"]) == {"greedy"}


def test_a_greedy_gain_counts_where_nothing_was_sampled(olmes, answered, published):
    shown = with_pairs(olmes, dpo={"items": ("gains",)})
    found = gains_of(Source(shown, answered, published), ["dpo"])
    assert [one.name for one in found] == ["dpo, math500", "dpo, aime2024"]
    table = gains(shown, answered, published)
    assert [one.points for one in found] == table["gain_points"].tolist()


def test_figure_7_draws_one_answer_a_problem(olmes, results):
    rows = "".join(
        f"{step},math500,all,4,{right},0.1,0.9,wilson,olmes,ab\n"
        for step, right in ((0, 1), (5, 2))
    )
    write_results(results.folder, {"step_scores/dpo.csv": "step," + SCORES_HEADER + rows})
    table = step_accuracies(with_pairs(olmes, dpo={"items": ("fig7",)}), results)
    assert table["decoding"].tolist() == ["greedy", "greedy"]
    assert table["accuracy_percent"].tolist() == [25.0, 50.0]


def test_a_sampled_answer_is_not_called_greedy(olmes):
    assert suite_facts(olmes.config, "math500-r1").decoded(1) == "sampled once at 0.6"
    assert suite_facts(olmes.config, "math500").decoded(1) == "greedy"
