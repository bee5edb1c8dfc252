"""The micro scale runs from end to end; then a change repeats what hangs on it and nothing else."""

import os
import shutil

import pytest

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import find_steps, open_steps
from rlsubnet.config import load_config, load_scale
from rlsubnet.config.layout import results_files
from rlsubnet.items import ITEMS
from tests.workflow.projects import SAVING, rows_of

pytestmark = pytest.mark.slow

RUNS = ["base", "sft", "dpo", "dpo_sub", "dpo_seed123"]


def test_every_item_and_results_file_is_made(finished):
    config = load_config([finished.root / "config/micro/config.yaml"])
    for file in results_files(load_scale(config, finished.root)):
        assert (finished.root / file).stat().st_size > 0
    for item in ITEMS:
        folder, kinds = ("figures", "png pdf") if item.startswith("fig") else ("tables", "csv md")
        for kind in kinds.split():
            assert (finished.root / f"results/micro/{folder}/{item}.{kind}").stat().st_size > 0

    # Every job leaves a log and a benchmark.
    for run in RUNS:
        assert (finished.root / f"logs/micro/train/{run}.log").is_file()
        assert (finished.root / f"work/micro/benchmarks/train/{run}.tsv").is_file()


def test_a_changed_row_plans_its_run_and_what_hangs_on_it(changed):
    changed.sheets.set_cell("runs.tsv", "dpo_seed123", "set", "lr=1e-4 checkpoint_every=1")
    assert changed.plan() == {
        "train_with_steps": {"dpo_seed123"},
        "trajectory": {"dpo_seed123"},
        "evaluate_steps": {"dpo_seed123"},
        **{item: {""} for item in ("fig2", "fig5", "fig6", "fig7")},
        "evaluate": {"dpo_seed123"},
        "updates": {"dpo_seed123"},
        "mask": {"dpo_seed123__official"},
        "overlap": {"seed"},
        **{item: {""} for item in ("table4", "verdicts", "machines", "all")},
    }


def test_a_changed_key_of_a_recipe_repeats_the_runs_of_that_recipe_alone(changed):
    changed.sheets.replace("config.yaml", "rl: {steps: 3,", "rl: {beta: 0.2, steps: 3,")
    plan = changed.plan()
    assert (plan["train"], plan["train_with_steps"]) == ({"dpo", "dpo_sub"}, {"dpo_seed123"})
    assert plan["evaluate"] == {"dpo", "dpo_sub", "dpo_seed123"}
    assert plan["updates"] == {"dpo", "dpo_seed123", "dpo_vs_sub"}
    assert "data" not in plan


def test_a_changed_full_run_repeats_its_masked_run_too(changed):
    changed.sheets.set_cell("runs.tsv", "dpo", "seed", "43")
    plan = changed.plan()
    assert plan["train"] == {"dpo", "dpo_sub"}
    assert plan["mask"] == {"dpo", "dpo__official"}
    assert "base_sft" not in plan["updates"]
    assert "data" not in plan


def test_a_new_row_plans_its_own_jobs_and_the_items_that_its_pair_names(changed):
    changed.sheets.add_row("runs.tsv", "dpo_seed7", "dpo", "sft", "pairs", "rl", "7")
    new = {"dpo_seed7"}
    assert changed.plan() == {"train": new, "evaluate": new, "machines": {""}, "all": {""}}
    changed.sheets.add_row("pairs.tsv", "new", "sft", "dpo_seed7", "DPO", "table1,table2,fig3")
    assert changed.plan() == {
        **{"train": new, "evaluate": new},
        "updates": {"new"},
        "rank": {"new"},
        **{item: {""} for item in ("table1", "table2", "fig3", "verdicts", "machines", "all")},
    }


def test_a_changed_label_draws_again_and_trains_nothing(changed):
    changed.sheets.set_cell("pairs.tsv", "base_sft", "label", "from base to SFT")
    assert set(changed.plan()) == {"table1", "table6", "fig1", "all"}


def test_a_second_call_and_where_to_log_what_to_ask_for_and_how_often_to_save_repeat_nothing(
    changed,
):
    edits = "wandb: {mode: offline}\nresources: {train: {mem_mb: 999}}\n"
    changed.sheets.edit("config.yaml", lambda text: text + edits)
    changed.sheets.replace("config.yaml", "rl: {steps: 3,", "rl: {save_every: 1, steps: 3,")
    assert changed.plan() == {}


def test_a_clone_with_results_alone_trains_everything_or_draws_from_them(finished, tmp_path):
    clone = finished.copy_to(tmp_path, "results")
    plan = clone.plan()
    assert finished.trained(plan) == plan["evaluate"] == set(RUNS)
    assert plan["updates"] == {"base_sft", "dpo", "dpo_seed123", "dpo_vs_sub"}
    used = {"table1", "table2", "table3", "table4", "table6", "section4", "gains", "fig1", "fig3"}
    assert {*used, "fig4"} <= set(plan)
    plan = clone.plan("tables", "figures", "--forceall", "--config", "cached=True")
    assert set(plan) == {*ITEMS, "tables", "figures"}

    # A result that is missing is named.
    shutil.rmtree(clone.root / "results/micro/tables")
    (clone.root / "results/micro/ranks/dpo.csv").unlink()
    result = clone.snakemake("--dry-run", "table2", "--config", "cached=True")
    assert result.returncode == 1
    assert "results/micro/ranks/dpo.csv" in result.stdout + result.stderr


def test_after_training_in_a_fresh_clone_was_cut_short_the_old_results_do_not_count(
    finished, tmp_path
):
    clone = finished.copy_to(tmp_path, "results", "work", ".snakemake")
    # Git leaves results older than models trained since; metrics are made with the models.
    for path in (clone.root / "results/micro").rglob("*"):
        if path.is_file() and path.parent.name != "metrics":
            os.utime(path, (1_000_000_000, 1_000_000_000))
    plan = clone.plan()
    assert finished.trained(plan) == set()
    assert plan["updates"] == {"base_sft", "dpo", "dpo_seed123", "dpo_vs_sub"}


def test_drawing_from_cache_leaves_nothing_to_do_for_the_whole(changed):
    result = changed.snakemake("table5", "--forceall", "--config", "cached=True")
    assert result.returncode == 0, result.stdout + result.stderr
    assert changed.plan() == {}


def test_the_steps_of_a_run_end_with_its_final_model(finished):
    runs = finished.root / "work/micro/runs"
    steps = find_steps([runs / SAVING / "steps"])
    assert list(steps) == [1, 2, 3]
    last = list(open_steps(Checkpoint(runs / "sft/final"), steps).values())[-1]
    assert last.digest() == Checkpoint(runs / SAVING / "final").digest()
    assert not (runs / SAVING / "resume").exists()


def test_measures_say_that_frozen_weights_stayed_and_have_a_row_for_each_null_and_step(finished):
    results = finished.root / "results/micro"
    rows = rows_of(results / "frozen/dpo_sub.csv")
    assert sum(int(row["frozen"]) for row in rows) > 0
    assert [row["tensor"] for row in rows if int(row["frozen_changed"])] == []
    rows = rows_of(results / "overlap/seed.csv")
    assert [row["null"] for row in rows] == ["uniform", "per_tensor", "per_magnitude"]
    rows = rows_of(results / f"trajectory/{SAVING}.csv")
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    scores = rows_of(results / f"step_scores/{SAVING}.csv")
    assert {row["step"] for row in scores} == {"0", "1", "2", "3"}
    assert {row["task"] for row in scores} == {"arith_sampled", "arith_greedy"}


MODEL = "work/micro/runs/dpo/final/model.safetensors"
UPDATES = "results/micro/updates/dpo.csv"


def test_a_model_cut_short_behind_the_workflows_back_is_named_and_can_be_made_again(
    finished, changed
):
    project = changed
    model, updates = project.root / MODEL, project.root / UPDATES
    before = model.stat()
    os.truncate(model, before.st_size - 100)
    # As a damaged disk would leave it: nothing tells Snakemake.
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    updates.unlink()

    failed = project.snakemake(UPDATES)
    output = failed.stdout + failed.stderr
    assert failed.returncode == 1
    sizes = f"the header describes {before.st_size} bytes, the file has {before.st_size - 100}"
    assert f"{MODEL}: {sizes} (cut short)" in output
    assert not updates.exists()

    # What docs/CLUSTER.md says: the run alone is repeated, then what hangs on it.
    final = "work/micro/runs/dpo/final"
    assert project.plan("-f", final) == {"train": {"dpo"}}
    for words in (("-f", final), (UPDATES,)):
        done = project.snakemake(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    plan = project.plan()
    assert plan["train"] == {"dpo_sub"}
    assert plan["evaluate"] == {"dpo", "dpo_sub"}
    assert plan["updates"] == {"dpo_vs_sub"}
    assert model.read_bytes() == (finished.root / MODEL).read_bytes()
    assert updates.read_bytes() == (finished.root / UPDATES).read_bytes()
