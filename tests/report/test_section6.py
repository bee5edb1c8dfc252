"""Section 6: what the recipes say, how far it acted, and what became of the weights."""

import dataclasses
import math

import pytest

from rlsubnet.config import item_files
from rlsubnet.report.measures import late_fall
from rlsubnet.report.published import NOT_RUN
from rlsubnet.report.tables import section6
from rlsubnet.report.tables.common import MEAN_OF_SEEDS, ONE_OF_THE_SEEDS
from rlsubnet.report.tables.in_print import section6_in_print
from rlsubnet.report.tables.section6 import COURSE, REGULARIZATION
from tests.report.small_results import (
    METRICS,
    SFT_UPDATES,
    make_pair,
    make_recipe,
    make_run,
    row_of,
    write_waist,
)

# Norms 0.5, 2.0 and 1.0: one of three is longer than 1.
ONLINE = (
    "step,loss,reward,kl,grad_norm,grad_norm_masked,lr,tokens\n"
    "1,0.0,0.4,0.0,0.5,,0.001,64\n2,0.1,0.5,0.01,2.0,,0.001,64\n3,0.0,0.6,0.02,1.0,,0.001,64\n"
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
    files |= {
        f"updates/{run.run}.csv": (results.folder / "updates/dpo.csv").read_text() for run in runs
    }
    files["updates/grpo_seed.csv"] = SFT_UPDATES
    files["trajectory/prime.csv"] = (
        "step,sparsity,step_sparsity,updated_outside_final,never,cancelled,subnetwork\n"
        "5,0.9,0.9,0.05,18,0,2\n10,0.7,0.8,0.1,14,0,6\n15,0.65,0.95,0.05,13,0,7\n"
        "20,0.6,0.85,0.0,11,1,8\n"
    )
    write_waist(results.folder, files)
    config = {**scale.config, "results": "results"}
    config["recipes"] = {**config["recipes"], "saved": {**make_recipe(), "checkpoint_every": 5}}
    return dataclasses.replace(
        scale,
        config=config,
        runs={**scale.runs, **{run.run: run for run in runs}},
        pairs={pair.pair: pair for pair in pairs},
    )


@pytest.fixture
def table(online, results, published):
    return section6(online, results, published)


def test_what_the_recipe_says_stands_beside_how_far_it_acted(table):
    row = row_of(table, part=REGULARIZATION, tuned="grpo_kl")
    assert (row["kl_coef"], row["clip"], row["sparsity_percent"]) == ("0.05", "1", 60.0)
    assert row["kl_mean"] == pytest.approx(0.01)
    assert row["grad_norm_mean"] == pytest.approx(3.5 / 3)
    assert row["clipped_percent"] == pytest.approx(100 / 3)
    assert (row["lr"], row["steps"]) == ("1e-3", 10)
    noclip = row_of(table, part=REGULARIZATION, tuned="grpo_noclip")
    assert (noclip["kl_coef"], noclip["clip"], noclip["clipped_percent"]) == ("0", "none", 0.0)


def test_seeds_are_led_by_their_mean_and_the_paper_stands_beside_it(table):
    seeds = table[table["tuned"].str.startswith("grpo") & ~table["tuned"].str.contains("_[kn]")]
    assert seeds["row"].tolist() == [MEAN_OF_SEEDS, ONE_OF_THE_SEEDS, ONE_OF_THE_SEEDS]
    mean = seeds.iloc[0]
    # 60 and 20 %: mean 40, SD = 40 / sqrt(2).
    assert mean["sparsity_percent"] == 40.0
    assert mean["sparsity_sd_points"] == pytest.approx(40 / math.sqrt(2))
    assert seeds["paper_kl"].tolist() == ["no", "", ""]
    assert mean["paper_sparsity_percent"] == 68.8


def test_the_papers_values_stand_beside_grpo_with_and_without_kl_alone(table):
    beside = table[table["paper_kl"] != ""].set_index("tuned")["paper_sparsity_percent"]
    assert beside.to_dict() == {"grpo, grpo_seed": 68.8, "grpo_kl": 69.8}


def test_the_course_of_a_saved_run(table):
    row = row_of(table, part=COURSE)
    assert (row["tuned"], row["saved_steps"], row["schedule"]) == ("prime", 4, "constant")
    # 11, 1 and 8 of 20 weights at the last step.
    assert (row["never_percent"], row["cancelled_percent"], row["subnetwork_percent"]) == (
        55,
        5,
        40,
    )
    assert (row["last_sparsity_percent"], row["outside_most_percent"]) == (60.0, 10.0)
    assert row["outside_most_step"] == 10
    # Updated between saved steps: 10, 20, 5 and 15 %.
    assert row["step_updated_percent"] == pytest.approx(12.5)
    # From step 15 to 20 by 5 points, over the whole run by 40.
    assert row["late_fall_points"] == pytest.approx(5.0)
    assert row["still_falling"] == "yes"
    assert (row["paper_never_percent"], row["paper_cancelled_percent"]) == (72, 8)
    assert (row["paper_outside_percent"], row["paper_step_updated_percent"]) == (8.5, 7)


def test_parts_that_were_not_run_print_the_paper(scale, results, published):
    table = section6(scale, results, published)
    assert table["part"].unique().tolist() == [
        f"{REGULARIZATION}, paper, {NOT_RUN}",
        f"{COURSE}, paper, {NOT_RUN}",
    ]
    assert table["paper_sparsity_percent"].tolist() == [69.8, 68.8, 80.0]


def test_clipping_after_the_mask_sees_the_masked_gradient(online, results, published):
    masked = METRICS.replace("1.0,,", "1.0,3.0,")
    write_waist(results.folder, {"metrics/grpo_noclip.csv": masked})
    runs = dict(online.runs)
    change = {"mask": "grpo", "set": "mask_at=pre_clip"}
    runs["grpo_noclip"] = dataclasses.replace(runs["grpo_noclip"], **change)
    table = section6(dataclasses.replace(online, runs=runs), results, published)
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


def test_print_counts_the_seeds_and_leaves_names_to_the_label(table):
    printed = section6_in_print(table)
    assert "mean of 2" in set(printed["seed"])
    assert set(printed["tuned"]) == {""}


def test_a_run_that_levels_off_does_not_fall_in_its_last_quarter():
    import pandas as pd

    steps = pd.Series([10, 20, 30, 40])
    assert late_fall(steps, pd.Series([0.75, 0.5, 0.5, 0.5])) == (0.0, 0.5)
    # Nothing was saved before the last quarter: the whole fall lies in it.
    assert late_fall(pd.Series([40]), pd.Series([0.5])) == (0.5, 0.5)
