"""``rlsubnet evaluate_steps``: each saved step is scored as the full model would be."""

import csv
from pathlib import Path

import pytest
import torch

from rlsubnet.checkpoints.delta import step_file
from rlsubnet.checkpoints.delta_pack import pack
from rlsubnet.checkpoints.sources import FileSource
from rlsubnet.cli import main
from rlsubnet.columns import ScoreRow, StepScoreRow, names
from rlsubnet.files import write_jsonl
from rlsubnet.tasks.arithmetic import problems
from rlsubnet.tasks.made_up import choices
from tests.evaluation.tiny_models import save_folder, tiny_model
from tests.sheets_of_row import write_config

SETTINGS = {
    "samples": 3,
    "temperature": 1.0,
    "batch_size": 64,
    "max_new_tokens": 12,
    "seed": 777,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``init``, the full models of steps 5 and 10, and their deltas."""
    folder = tmp_path_factory.mktemp("steps")
    model = tiny_model(spread=0.3)
    save_folder(model, folder / "init")
    generator = torch.Generator().manual_seed(4)
    for step in (5, 10):
        for weight in model.parameters():
            moved = torch.rand(weight.shape, generator=generator) < 0.2
            weight.data[moved] *= -1
        save_folder(model, folder / f"full-{step}")
        tuned = FileSource(folder / f"full-{step}")
        pack(FileSource(folder / "init"), tuned, folder / "steps" / step_file(step))
    # What a model of random weights answers is never right; whatever it picks is a choice.
    write_jsonl(folder / "mc.jsonl", choices(12, "test", 1))
    write_jsonl(folder / "arith.jsonl", problems([1, 1, 1, 1, 1], "test", 1))
    return folder


def options(run: Path) -> list[str]:
    suites = [f"--suite={name}={run / name}.jsonl" for name in ("arith", "mc")]
    block = {**SETTINGS, "step_samples": SETTINGS["samples"]}
    return [*suites, "--config", write_config(run, evaluation=block), "--device", "cpu"]


def rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        found = list(reader)
    assert tuple(reader.fieldnames or ()) == columns
    return found


def test_every_step_has_the_scores_of_its_full_model(run, tmp_path, capsys):
    out = tmp_path / "steps.csv"
    init, saved = str(run / "init"), str(run / "steps")
    assert main(["evaluate_steps", init, saved, *options(run), "--out", str(out)]) == 0
    progress = capsys.readouterr().err.splitlines()
    assert progress[-3].startswith("step 0 (1/3): arith_sampled: ")
    assert progress[-1].startswith("step 10 (3/3): ")
    assert progress[-1].endswith("; 0:00:00 left")
    found = rows(out, names(StepScoreRow))
    scores = {}
    for step, name in ((0, "init"), (5, "full-5"), (10, "full-10")):
        files = [f"--scores={tmp_path / name}", f"--answers={tmp_path / name}.gz"]
        assert main(["evaluate", str(run / name), *options(run), *files]) == 0
        scores[step] = rows(tmp_path / name, names(ScoreRow))
    assert found == [{"step": str(step), **row} for step in scores for row in scores[step]]
    assert scores[0] != scores[5] != scores[10]
    assert {row["task"] for row in found} >= {"arith_sampled", "arith_greedy"}


def test_full_checkpoints_may_stand_in_for_deltas(run, tmp_path):
    for name, saved in (("deltas", [run / "steps"]), ("full", [run / "full-5", run / "full-10"])):
        arguments = [str(run / "init"), *map(str, saved), *options(run)]
        assert main(["evaluate_steps", *arguments, "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "deltas").read_bytes() == (tmp_path / "full").read_bytes()


def test_steps_of_another_model_are_refused(run, tmp_path, capsys):
    out = str(tmp_path / "out.csv")
    arguments = ["evaluate_steps", str(run / "full-5"), str(run / "steps"), *options(run)]
    assert main([*arguments, "--out", out]) == 1
    assert "step-000005.delta: a delta of another init" in capsys.readouterr().err
    save_folder(tiny_model("llama"), tmp_path / "other-5")
    arguments = ["evaluate_steps", str(run / "init"), str(tmp_path / "other-5"), *options(run)]
    assert main([*arguments, "--out", out]) == 1
    assert "other-5: tensor model.layers.0.self_attn.k_proj.bias: expected shape (8,) as in" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out.csv").exists()
