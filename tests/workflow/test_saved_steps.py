"""Runs that save steps: which sheets are refused, what is planned, and what they leave."""

import csv
import shlex

import pytest

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import find_steps, open_steps
from rlsubnet.cli import main
from rlsubnet.config import SheetError, item_files, results_files

RUN = "dpo_seed123"
ITEMS = ("fig2", "fig5", "fig6", "fig7")


def refusal(micro) -> str:
    with pytest.raises(SheetError) as caught:
        micro.load()
    return str(caught.value)


@pytest.mark.parametrize(
    ("sheet", "row", "column", "value", "expected"),
    [
        ("runs", RUN, "set", "checkpoint_every=2", "row 6 (dpo_seed123), column set: "
         "checkpoint_every: expected a divisor of steps 3 (the last saved step is"),
        ("runs", RUN, "set", "updates=2 steps=9 checkpoint_every=3", "expected a multiple of "
         "updates 2, found 3"),
        ("runs", "base", "set", "checkpoint_every=2", "row 2 (base), column set: checkpoint_every: "
         "expected 0 in pretraining"),
        ("runs", RUN, "set", "", "pairs.tsv, row 4 (dpo_seed123), column items: fig2 shows the "
         "saved steps of a run, 'dpo_seed123' saves none: give its recipe"),
        ("pairs", RUN, "init", "base", "pairs.tsv, row 4 (dpo_seed123), column init: fig2 shows "
         "saved steps against what the run 'dpo_seed123' starts from: expected 'sft', found"),
        ("pairs", "base_sft", "items", "fig6", "row 2 (base_sft), column items: fig6 shows the "
         "saved steps of a run, 'sft' saves none"),
    ],
)  # fmt: skip
def test_a_cell_that_does_not_go_with_saved_steps_is_refused(
    micro, sheet, row, column, value, expected
):
    if column == "set" and "updates" in value:
        micro.set_cell("runs.tsv", RUN, "algorithm", "grpo")
        micro.set_cell("runs.tsv", RUN, "data", "arith")
        micro.replace("config.yaml", "split: test, seed: 3", "split: train, seed: 3")
    micro.set_cell(f"{sheet}.tsv", row, column, value)
    assert expected in refusal(micro)


def test_saved_steps_of_a_released_model_are_refused(micro):
    micro.replace("config.yaml", "models:", 'models:\n  released: {source: "hf:owner/name"}')
    micro.set_cell("pairs.tsv", RUN, "tuned", "released")
    assert "column items: fig2 shows the saved steps of a run, 'released' is a model" in (
        refusal(micro)
    )


@pytest.mark.parametrize(
    ("suites", "expected"),
    [
        ("[mc]", "key evaluation.step_suites: 'mc' is of kind choices, expected problems"),
        ("[arth]", "key evaluation.step_suites: unknown data set 'arth' (did you mean 'arith'?)"),
    ],
)
def test_steps_are_evaluated_on_problems_alone(micro, suites, expected):
    micro.replace("config.yaml", "step_suites: [arith]", f"step_suites: {suites}")
    assert expected in refusal(micro)


def test_figures_of_saved_steps_read_files_that_target_all_makes(micro):
    scale = micro.load()
    trajectory = f"results/micro/trajectory/{RUN}.csv"
    scores = f"results/micro/step_scores/{RUN}.csv"
    for item in ("fig2", "fig5", "fig6"):
        assert item_files(scale, item) == [trajectory]
    assert item_files(scale, "fig7") == [trajectory, scores]
    assert {trajectory, scores} <= set(results_files(scale))
    # Without suites for steps nothing is evaluated, and the figure does not ask for it.
    micro.replace("config.yaml", "step_suites: [arith], ", "")
    assert item_files(micro.load(), "fig7") == [trajectory]
    assert scores not in results_files(micro.load())


def test_a_run_without_saved_steps_has_no_trajectory(micro):
    scale = micro.load()
    assert not any("/trajectory/" in file and RUN not in file for file in results_files(scale))


def test_check_says_which_run_saves_steps_and_what_they_are_evaluated_on(
    micro, monkeypatch, capsys
):
    monkeypatch.chdir(micro.root)
    assert main(["check", "--config", "config/micro/config.yaml"]) == 0
    printed = capsys.readouterr().out
    assert f"  {RUN}: dpo of sft on pairs, saving steps" in printed.splitlines()
    assert printed.count("saving steps") == 1
    assert "saved steps are evaluated on arith" in printed


def test_a_figure_of_saved_steps_plans_only_what_it_reads(project):
    plan = project.plan("fig5")
    assert plan["train_with_steps"] == {RUN}
    assert plan["train"] == {"base", "sft"}
    assert set(plan) == {"data", "train", "train_with_steps", "trajectory", "fig5"}
    assert "evaluate_steps" in project.plan("fig7")


def options(project, *targets: str) -> list[str]:
    output = project.snakemake("--dry-run", *targets).stdout
    lines = [line for line in output.splitlines() if line.startswith("Shell command: rlsubnet ")]
    return shlex.split(lines[-1].removeprefix("Shell command: "))


def test_steps_are_evaluated_with_samples_of_their_own(project):
    words = options(project, f"results/micro/step_scores/{RUN}.csv")
    assert words[1] == "evaluate_steps"
    assert words[words.index("--config") + 1] == "config/micro/config.yaml"
    assert words[words.index("--suite") + 1] == "arith=work/micro/data/arith.jsonl"


@pytest.mark.slow
def test_the_steps_of_a_run_end_with_its_final_model(finished):
    runs = finished.root / "work/micro/runs"
    steps = find_steps([runs / RUN / "steps"])
    assert list(steps) == [1, 2, 3]
    last = list(open_steps(Checkpoint(runs / "sft/final"), steps).values())[-1]
    assert last.digest() == Checkpoint(runs / RUN / "final").digest()
    assert not (runs / RUN / "resume").exists()


@pytest.mark.slow
def test_each_saved_step_has_a_row_and_the_start_a_score(finished):
    def column(kind: str, name: str) -> list[str]:
        path = finished.root / f"results/micro/{kind}/{RUN}.csv"
        with path.open(newline="") as stream:
            return [row[name] for row in csv.DictReader(stream)]

    assert column("trajectory", "step") == ["1", "2", "3"]
    assert set(column("step_scores", "step")) == {"0", "1", "2", "3"}
    assert set(column("step_scores", "task")) == {"arith_sampled", "arith_greedy"}
