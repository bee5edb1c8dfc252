"""Table 3: paired counts, intervals and tests, worked out by hand."""

import dataclasses

import pandas as pd
import pytest

from rlsubnet.report.paired import CLUSTERED, MCNEMAR, compare_counts, compare_items
from rlsubnet.report.results import NOT_RUN
from rlsubnet.report.tables.accuracy import table3
from tests.report.small_results import SCORES_HEADER, answers_csv, row_of, write_results

# Six items right in sub only, one in full only, one in both: 2 and 7 of 8.
FULL = [1, 1, 0, 0, 0, 0, 0, 0]
SUB = [0, 1, 1, 1, 1, 1, 1, 1]
SCORES = SCORES_HEADER + (
    "arith_greedy,all,8,2,0.0,1.0,wilson,native,{arith}\n"
    "choices_last_step,all,2,1,0.0,1.0,wilson,native,cd\n"
)


def answers(greedy: list[int], choices: list[int], sampled: list[int]) -> str:
    rows = [("arith_sampled", "1", f"p{i}", 4, count) for i, count in enumerate(sampled)]
    rows += [
        ("arith_greedy", "1" if i < 4 else "2", f"p{i}", 1, right) for i, right in enumerate(greedy)
    ]
    rows += [("choices_last_step", "", f"c{i}", 1, right) for i, right in enumerate(choices)]
    return answers_csv(rows)


@pytest.fixture
def answered(results):
    write_results(
        results.folder,
        {
            "answers/dpo.csv.gz": answers(FULL, [1, 0], [4, 0, 2]),
            "answers/dpo_sub.csv.gz": answers(SUB, [1, 1], [4, 1, 4]),
            "scores/dpo.csv": SCORES.format(arith="ab"),
            "scores/dpo_sub.csv": SCORES.format(arith="ab"),
        },
    )
    return results


def test_greedy_counts_are_paired_and_tested_exactly(scale, answered, published):
    row = row_of(
        table3(scale, answered, published), task="arith", decoding="greedy", level="Overall"
    )
    assert (row["n"], row["full_correct"], row["sub_correct"]) == (8, 2, 7)
    assert (row["full_percent"], row["sub_percent"], row["delta_points"]) == (25.0, 87.5, 62.5)
    # Seven discordant items, one of them for full: p = 2 (1 + 7) / 2^7.
    assert (row["p_value"], row["test"]) == (0.125, MCNEMAR)
    assert row["verdict"] == "not distinguishable"
    # Wilson's interval of 2 of 8 at z = 1.96.
    assert row["full_interval"] == "7.1 to 59.1"


def test_levels_split_the_items_and_overall_pools_them(scale, answered, published):
    table = table3(scale, answered, published)
    greedy = table[(table["task"] == "arith") & (table["decoding"] == "greedy")]
    assert greedy["level"].tolist() == ["1", "2", "Overall"]
    assert greedy["n"].tolist() == [4, 4, 8]
    assert greedy["sub_correct"].tolist() == [3, 4, 7]


def test_samples_of_an_item_count_as_one_cluster(scale, answered, published):
    row = row_of(
        table3(scale, answered, published),
        task="arith",
        decoding="sampled, 4 an item",
        level="Overall",
    )
    # Full 6 of 12, sub 9 of 12. Differences of the items' means: 0, 1/4, 1/2; their mean 1/4,
    # standard error sqrt((1/16 + 0 + 1/16) / (3 * 2)) = sqrt(1/48) = 0.1443.
    assert (row["n"], row["full_correct"], row["sub_correct"]) == (3, 6, 9)
    assert (row["full_percent"], row["sub_percent"]) == (50.0, 75.0)
    assert row["delta_se_points"] == pytest.approx(14.434, abs=1e-3)
    assert row["test"] == CLUSTERED


def test_choice_task_shows_chance_and_the_task_it_stands_for(scale, answered, published):
    row = row_of(table3(scale, answered, published), task="last_step")
    assert (row["full_percent"], row["sub_percent"], row["chance_percent"]) == (50.0, 100.0, 20.0)
    assert (row["paper_task"], row["paper_full_percent"]) == ("AGIEval LSAT-LR", 53.1)


def test_prime_stands_beside_math500_by_level_and_dpo_does_not(scale, answered, published):
    def beside(method: str) -> tuple[str, str]:
        pair = dataclasses.replace(scale.pairs["dpo_vs_sub"], method=method)
        changed = dataclasses.replace(scale, pairs={**scale.pairs, pair.pair: pair})
        table = table3(changed, answered, published)
        row = row_of(table, task="arith", decoding="greedy", level="2")
        last = table["part"].iloc[-1]
        return row["paper_task"], last

    assert beside("PRIME") == ("MATH500 level 2", "paper, Table 3(b)")
    assert beside("DPO") == ("", f"paper, Table 3(b), {NOT_RUN}")


def test_the_same_answers_are_called_so():
    same = pd.DataFrame({"samples": [4, 4], "full": [1, 3], "sub": [1, 3]})
    assert compare_items(same).verdict == "no item differs"
    # 3 - 1 and 1 - 3: equal sums, other items.
    exchanged = pd.DataFrame({"samples": [4, 4], "full": [1, 3], "sub": [3, 1]})
    assert (compare_items(exchanged).delta, compare_items(exchanged).verdict) == (
        0.0,
        "not distinguishable",
    )


def test_no_gain_of_the_paper_is_distinguishable(scale, answered, published):
    table = table3(scale, answered, published)
    paper = table[table["paper_verdict"] != ""]
    assert len(paper) == 12
    assert set(paper["paper_verdict"]) == {"not distinguishable"}
    lsat = row_of(paper, paper_task="AGIEval LSAT-AR")
    assert (lsat["paper_n"], lsat["paper_full_correct"], lsat["paper_sub_correct"]) == (230, 49, 57)


def test_decoded_counts_round_to_the_printed_percentages(published):
    for part, key in (("table3a", "task"), ("table3b", "level")):
        printed = {row[key]: row for row in published[part]["rows"]}
        for counts in published["table3_counts"][part]:
            for side in ("full", "sub"):
                share = 100 * counts[side] / counts["n"]
                assert share == pytest.approx(printed[counts[key]][side], abs=0.0501)


def test_items_missing_in_one_run_are_an_error(scale, answered, published):
    write_results(answered.folder, {"answers/dpo_sub.csv.gz": answers(SUB, [1], [4, 1, 4])})
    with pytest.raises(ValueError, match=r"dpo\.csv\.gz: 1 items are not in .*item c1"):
        table3(scale, answered, published)


def test_runs_evaluated_on_different_data_are_an_error(scale, answered, published):
    write_results(answered.folder, {"scores/dpo_sub.csv": SCORES.format(arith="other")})
    with pytest.raises(ValueError, match=r"task arith_greedy: .*different data: ab and other"):
        table3(scale, answered, published)


def test_a_task_of_no_suite_is_an_error(scale, answered, published):
    scale.config["evaluation"]["suites"] = ["choices"]
    with pytest.raises(ValueError, match="task 'arith_sampled' belongs to none of the suites"):
        table3(scale, answered, published)


def test_unpaired_counts_use_both_binomial_errors():
    # 0.5 and 0.6 of 100: SE = sqrt((0.25 + 0.24) / 100) = 0.07.
    compared = compare_counts(100, 50, 60)
    assert compared.se == pytest.approx(0.07)
    assert compared.p_value == pytest.approx(0.153, abs=1e-3)


def test_one_item_says_nothing():
    import pandas as pd

    one = compare_items(pd.DataFrame({"samples": [1], "full": [0], "sub": [1]}))
    assert (one.delta, one.verdict) == (1.0, "not distinguishable")
