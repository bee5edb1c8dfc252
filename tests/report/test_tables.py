"""Cells of the tables, worked out by hand from ten weights; see `small_results`."""

import dataclasses
import math

import pandas as pd
import pytest

from rlsubnet.config.layout import item_files
from rlsubnet.measure.overlap import NULLS
from rlsubnet.report.results import NOT_RUN, Results
from rlsubnet.report.tables import CONTROL, MEAN_OF_SEEDS, MEASURED, ONE_OF_THE_SEEDS
from rlsubnet.report.tables.weights import (
    COURSE,
    FULL_AGAINST_SUB,
    NULL,
    REGULARIZATION,
    section4,
    section6,
    section6_in_print,
    table1,
    table2,
    table4,
    table5,
    table6,
)
from rlsubnet.report.write import make_item
from tests.report.small_results import (
    DPO_UPDATES,
    METRICS,
    OVERLAP,
    SFT_UPDATES,
    TABLES,
    csv_of,
    make_pair,
    make_recipe,
    make_run,
    row_of,
    with_pairs,
    with_rows,
    write_results,
)


def test_table1_holds_ours_beside_the_papers_and_each_published_row_once(scale, results, published):
    table = table1(scale, results, published)
    row = row_of(table, tuned="dpo")
    # official: (4 + 2) of (8 + 2), not the mean of 4/8 and 2/2; exact: 3 + 2; bits: 10 - 6.
    assert row["sparsity_percent"] == 60.0
    assert row["sparsity_exact_percent"] == 50.0
    assert row["sparsity_bitwise_percent"] == 40.0
    assert row["numel"] == 10
    assert (row["paper_model"], row["paper_sparsity_percent"]) == ("Llama-3.1-Tulu-3-8B-DPO", 81.4)
    assert (row["paper_on_policy"], row["paper_kl"], row["paper_online"]) == ("no", "yes", "no")
    assert row["source"] == "Table 1"
    # Ten steps at a constant 1e-3.
    assert (row["lr"], row["steps"]) == ("1e-3", 10)
    assert row["lr_sum"] == pytest.approx(0.01)
    printed = [row["rl"] for row in published["table1"]["rows"]]
    assert sorted(table["paper_model"][table["paper_model"] != ""]) == sorted(printed)
    assert (table["part"] == NOT_RUN).sum() == len(printed) - 1
    assert table["part"].drop_duplicates().tolist() == [MEASURED, CONTROL, NOT_RUN]
    row = row_of(table, part=CONTROL)
    assert (row["algorithm"], row["sparsity_percent"]) == ("SFT", 20.0)
    assert row["source"] == "Paper's SFT stages: 6 to 15 % (Sec 3)"


def test_the_papers_sft_range_stands_beside_sft_stages_alone(scale, results, published):
    leads_nowhere = [make_run(name, init="base") for name in ("dpo", "dpo_sub", "dpo_seed")]
    # The pair base_sft, if its start were itself the result of SFT.
    second_stage = [make_run("base", algorithm="sft")]
    for runs in (leads_nowhere, second_stage):
        changed = with_rows(scale, *runs)
        assert row_of(table1(changed, results, published), part=CONTROL)["source"] == ""


def test_table2_weighs_matrices_equally_and_table6_gives_every_rule(scale, results, published):
    row = row_of(table2(scale, results, published), tuned="dpo")
    # 2 of 2 and 3 of 4: (100 + 75) / 2; control 2 of 2 and 4 of 4; stable (1.5 + 2.5) / 2.
    assert row["update_rank_percent"] == 87.5
    assert row["control_rank_percent"] == 100.0
    assert (row["stable_rank"], row["effective_rank"], row["matrices"]) == (2.0, 2.0, 2)
    assert (row["paper_model"], row["paper_update_rank_percent"]) == ("Tulu 8B", 99.8)
    table = table6(scale, results, published)
    official = row_of(table, tuned="dpo", rule="official")
    exact = row_of(table, tuned="dpo", rule="exact")
    assert [official[f"sparsity_{atol}_percent"] for atol in ("1e-5", "1e-4")] == [60.0, 80.0]
    assert [exact[f"sparsity_{atol}_percent"] for atol in ("1e-5", "1e-4")] == [50.0, 80.0]
    assert official["paper_sparsity_1e-5_percent"] == 81.38
    assert pd.isna(exact["paper_sparsity_1e-5_percent"])


def test_the_papers_overlap_stands_beside_its_own_null_alone(scale, results, published):
    table = table4(scale, results, published)
    rows = table[table["part"] == MEASURED]
    assert rows["null"].tolist() == list(NULLS.values())
    for name, share in (("o1", 75.0), ("o2", 60.0), ("sparsity1", 60.0), ("sparsity2", 60.0)):
        assert set(rows[f"{name}_percent"]) == {share}
    assert rows["o1_null_percent"].tolist() == [30.0, 50.0, 62.5]
    assert rows["o2_null_percent"].tolist() == [24.0, 40.0, 50.0]
    # The lift is a ratio, and the last one has no interval.
    assert rows["lift"].tolist() == [2.5, 1.5, 1.2]
    assert rows["lift_ci_low"].tolist()[:2] == [2.0, 1.25]
    assert rows["lift_ci_low"].isna().tolist() == [False, False, True]
    assert rows.iloc[0][["paper_o1_percent", "paper_o1_random_percent"]].tolist() == [60.5, 36.7]
    assert rows["source"].tolist() == ["Table 4, Sec 5", "", ""]
    assert rows["paper_o1_percent"].isna().tolist() == [False, True, True]
    assert table[table["part"] == NOT_RUN]["axis"].tolist() == ["Data", "Seed + Data + Algo."]
    unknown = {"overlap/seed.csv": OVERLAP.replace("per_tensor", "per_row")}
    results = Results(write_results(results.folder, unknown))
    with pytest.raises(ValueError, match=r"seed\.csv, column null: unknown \['per_row'\]"):
        table4(scale, results, published)


def test_an_axis_may_have_several_comparisons_and_need_not_be_the_paper_s(
    scale, results, published
):
    seed = scale.comparisons["seed"]
    added = {
        name: dataclasses.replace(seed, comparison=name, axis=axis, label=name)
        for name, axis in (("seed7", "seed"), ("algo", "Seed + data + algo"), ("sft", "RL / SFT"))
    }
    write_results(results.folder, {f"overlap/{name}.csv": OVERLAP for name in added})
    more = dataclasses.replace(scale, comparisons={**scale.comparisons, **added})
    table = table4(more, results, published)
    uniform = table[table["null"] == "uniform (the paper's)"]
    assert uniform["label"].tolist() == ["", "seed7", "algo", "sft"]
    assert uniform["paper_setting1"].tolist() == ["42", "42", "DPO", ""]
    assert (table["part"] == MEASURED).sum() == 4 * 3
    assert table[table["part"] == NOT_RUN]["axis"].tolist() == ["Data"]


def test_table5_matches_method_and_model_by_its_short_name_too(scale, results, published):
    named = {"items": ("table5",), "paper_model": "Llama-3.1-8B-SFT"}
    table = table5(with_pairs(scale, dpo=named), results, published)
    row = row_of(table, tuned="dpo")
    # The paper has this model with SFT and with DPO, both 6.8; ours is DPO.
    assert (row["paper_stage"], row["paper_sparsity_percent"]) == ("RL", 6.8)
    assert row_of(table, part=NOT_RUN, paper_model="Llama-3.1-8B-SFT")["method"] == "SFT"
    named = with_pairs(scale, dpo={"items": ("table5",)})
    row = row_of(table5(named, results, published), tuned="dpo")
    assert (row["paper_model"], row["paper_sparsity_percent"]) == ("Llama-3.1-8B-DPO", 81.4)


def test_table5_marks_data_in_distribution_and_prints_them_first(scale, results, published):
    pairs = [make_pair("cold", "base", "cold", "DPO", "table5")]
    pairs += [dataclasses.replace(scale.pairs[p], items=("table5",)) for p in ("base_sft", "dpo")]
    write_results(results.folder, {"updates/cold.csv": SFT_UPDATES})
    cold = with_rows(scale, *pairs, make_run("cold", init="base"))
    table = table5(cold, results, published)
    ours = table[table["part"] == MEASURED]
    # Answers of sft teach dpo, which starts from it, in distribution, and `cold` out of it.
    assert ours["tuned"].tolist() == ["dpo", "cold", "sft"]
    assert ours["in_distribution"].tolist() == ["yes", "no", "no"]
    assert ours["data_origin"].tolist() == ["answers of the start", "other data", "other data"]
    assert ours["steps"].tolist() == [10, 10, 10]


def test_section4_prints_the_null_below_full_against_sub(scale, results, published):
    table = section4(scale, results, published)
    ours = table[table["part"] == MEASURED]
    assert ours["compared"].tolist() == [FULL_AGAINST_SUB, NULL]
    assert ours["same_1e-5_percent"].tolist() == [90.0, 60.0]
    assert ours["same_1e-5_exact_percent"].tolist() == [90.0, 50.0]
    assert ours["same_1e-4_percent"].tolist() == [100.0, 80.0]
    assert ours["same_bitwise_percent"].tolist() == [80.0, 40.0]
    first = ours.iloc[0]
    assert (first["frozen_weights"], first["frozen_changed"]) == (6, 0)
    assert (first["subnetwork_weights"], first["subnetwork_changed"]) == (4, 3)
    assert (first["paper_same_1e-5_percent"], first["paper_same_1e-4_percent"]) == (94.0, 100.0)
    assert row_of(table, part=NOT_RUN)["paper_same_1e-5_percent"] == 90.5
    # A sub whose mask comes from another run is refused.
    other = with_pairs(scale, dpo_vs_sub={"init": "dpo_seed"})
    with pytest.raises(ValueError, match="init is 'dpo_seed', expected 'dpo'"):
        section4(other, results, published)


# Table `gains` has no counterpart in the paper.
@pytest.mark.parametrize("item", [item for item in TABLES if item != "gains"])
def test_a_scale_without_rows_prints_the_paper_and_says_not_run(item, nothing, results, published):
    table = make_item(item, nothing, results, published)
    assert table["part"].str.endswith(NOT_RUN).all()
    assert (table["source"] != "").all()
    # What is measured here has no paper_ prefix and must be empty.
    measured = [name for name in table.columns if name.endswith("_percent") and name[:5] != "paper"]
    assert table[measured].isna().all().all()


def test_values_that_are_missing_are_refused_by_name(scale, results, published):
    path = results.folder / "updates" / "dpo.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "layernorm" not in line or "0.0001" in line))
    with pytest.raises(ValueError, match=r"dpo\.csv: no row with atol 1e-05, rule official for"):
        table1(scale, results, published)
    scale.config["measure"]["table_tolerance"] = 1e-7
    with pytest.raises(ValueError, match=r"no rows with atol 1e-07.*\['1e-05', '0.0001'\]"):
        table1(scale, results, published)


# Norms 0.5, 2.0 and 1.0: one of three is longer than 1.
ONLINE = csv_of(
    "metrics",
    *[
        "1,0.0,0.4,0.0,0.5,,0.001,64",
        "2,0.1,0.5,0.01,2.0,,0.001,64",
        "3,0.0,0.6,0.02,1.0,,0.001,64",
    ],
)


@pytest.fixture
def online(scale, results):
    """Return GRPO in two seeds, with KL and without clipping, and a PRIME run that was saved."""
    names = {"algorithm": "grpo", "data": "arith"}
    runs = [
        make_run("grpo", **names),
        make_run("grpo_seed", seed=123, **names),
        make_run("grpo_kl", set="kl_coef=0.05", **names),
        make_run("grpo_noclip", set="clip=null", **names),
        make_run("prime", algorithm="prime", data="arith", recipe="saved"),
    ]
    pairs = [
        make_pair(run.run, "sft", run.run, run.algorithm.upper(), "section6,table1") for run in runs
    ]
    files = {f"metrics/{run.run}.csv": ONLINE for run in runs}
    files |= {f"updates/{run.run}.csv": DPO_UPDATES for run in runs}
    files["updates/grpo_seed.csv"] = SFT_UPDATES
    steps = ["5,0.9,0.9,0.05,18,0,2", "10,0.7,0.8,0.1,14,0,6", "15,0.65,0.95,0.05,13,0,7"]
    files["trajectory/prime.csv"] = csv_of("trajectory", *steps, "20,0.6,0.85,0.0,11,1,8")
    write_results(results.folder, files)
    config = {**scale.config, "results": "results"}
    config["recipes"] = {**config["recipes"], "saved": {**make_recipe(), "checkpoint_every": 5}}
    empty = dataclasses.replace(scale, config=config, pairs={})
    return with_rows(empty, *runs, *pairs)


@pytest.fixture
def table(online, results, published):
    return section6(online, results, published)


def test_what_the_recipe_says_stands_beside_how_far_it_acted_and_the_paper_beside_means(table):
    row = row_of(table, part=REGULARIZATION, tuned="grpo_kl")
    assert (row["kl_coef"], row["clip"], row["sparsity_percent"]) == ("0.05", "1", 60.0)
    assert row["kl_mean"] == pytest.approx(0.01)
    assert row["grad_norm_mean"] == pytest.approx(3.5 / 3)
    assert row["clipped_percent"] == pytest.approx(100 / 3)
    assert (row["lr"], row["steps"]) == ("1e-3", 10)
    noclip = row_of(table, part=REGULARIZATION, tuned="grpo_noclip")
    assert (noclip["kl_coef"], noclip["clip"], noclip["clipped_percent"]) == ("0", "none", 0.0)
    seeds = table[table["tuned"].str.startswith("grpo") & ~table["tuned"].str.contains("_[kn]")]
    assert seeds["row"].tolist() == [MEAN_OF_SEEDS, ONE_OF_THE_SEEDS, ONE_OF_THE_SEEDS]
    mean = seeds.iloc[0]
    # 60 and 20 %: mean 40, SD = 40 / sqrt(2).
    assert mean["sparsity_percent"] == 40.0
    assert mean["sparsity_sd_points"] == pytest.approx(40 / math.sqrt(2))
    assert seeds["paper_kl"].tolist() == ["no", "", ""]
    assert mean["paper_sparsity_percent"] == 68.8
    beside = table[table["paper_kl"] != ""].set_index("tuned")["paper_sparsity_percent"]
    assert beside.to_dict() == {"grpo, grpo_seed": 68.8, "grpo_kl": 69.8}
    printed = section6_in_print(table)
    assert "mean of 2" in set(printed["seed"])
    assert set(printed["tuned"]) == {""}


def test_the_course_of_a_saved_run(table):
    row = row_of(table, part=COURSE)
    assert (row["tuned"], row["saved_steps"], row["schedule"]) == ("prime", 4, "constant")
    # 11, 1 and 8 of 20 weights at the last step.
    shares = [row[f"{part}_percent"] for part in ("never", "cancelled", "subnetwork")]
    assert shares == [55, 5, 40]
    assert (row["last_sparsity_percent"], row["outside_most_percent"]) == (60.0, 10.0)
    assert row["outside_most_step"] == 10
    # Updated between saved steps: 10, 20, 5 and 15 %.
    assert row["step_updated_percent"] == pytest.approx(12.5)
    # From step 15 to 20 by 5 points, over the whole run by 40.
    assert row["late_fall_points"] == pytest.approx(5.0)
    assert row["still_falling"] == "yes"
    assert (row["paper_never_percent"], row["paper_cancelled_percent"]) == (72, 8)
    assert (row["paper_outside_percent"], row["paper_step_updated_percent"]) == (8.5, 7)


def test_clipping_after_the_mask_sees_the_masked_gradient(online, results, published):
    masked = METRICS.replace("1.0,,", "1.0,3.0,")
    write_results(results.folder, {"metrics/grpo_noclip.csv": masked})
    names = {"algorithm": "grpo", "mask": "grpo", "set": "mask_at=pre_clip"}
    masked = with_rows(online, make_run("grpo_noclip", **names))
    table = section6(masked, results, published)
    row = row_of(table, part=REGULARIZATION, tuned="grpo_noclip")
    assert (row["grad_norm_mean"], row["clipped_percent"]) == (3.0, 100.0)


def test_a_released_model_has_a_sparsity_and_no_recipe(online, results, published):
    pair = dataclasses.replace(online.pairs["grpo"], tuned="released")
    table = section6(dataclasses.replace(online, pairs={"grpo": pair}), results, published)
    row = row_of(table, part=REGULARIZATION)
    assert (row["sparsity_percent"], row["kl_coef"], row["clip"]) == (60.0, "", "")


def test_it_reads_the_metrics_and_saved_steps_of_tuned_runs(online):
    files = item_files(online, "section6")
    assert "results/metrics/grpo_kl.csv" in files and "results/updates/grpo_kl.csv" in files
    assert [file for file in files if "trajectory" in file] == ["results/trajectory/prime.csv"]
    # The start of the pairs is not asked for.
    assert "results/metrics/sft.csv" not in files
