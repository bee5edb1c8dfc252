"""``rlsubnet evaluate`` and ``evaluate_steps``: suites and steps in one process, clear errors."""

import csv
import gzip
from pathlib import Path

import pytest
import torch

from rlsubnet.checkpoints.delta import step_file
from rlsubnet.checkpoints.delta_pack import pack
from rlsubnet.checkpoints.sources import FileSource
from rlsubnet.cli import main
from rlsubnet.columns import ScoreRow, StepScoreRow, names
from rlsubnet.files import sha256, write_jsonl
from rlsubnet.tasks.arithmetic import problems
from rlsubnet.tasks.made_up import CHOICE_TASKS, choices, demonstration_pairs
from tests.evaluation.tiny_models import save_folder, tiny_model
from tests.sheets_of_row import write_config

SETTINGS = {
    **{"samples": 2, "step_samples": 2, "temperature": 1.0, "seed": 777},
    **{"batch_size": 64, "max_new_tokens": 12},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``init``, the full models and deltas of steps 5 and 10, and suites."""
    folder = tmp_path_factory.mktemp("evaluate")
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
    write_jsonl(folder / "arith.jsonl", problems([3, 3, 3, 3, 3], "test", 1))
    write_jsonl(folder / "mc5.jsonl", choices(12, "test", 1))
    write_jsonl(folder / "prefacc.jsonl", demonstration_pairs("worked", 20, "test", 1))
    return folder


def options(run: Path, *suites: str, **changes: object) -> list[str]:
    files = [f"--suite={name}={run / name}.jsonl" for name in suites or ("arith", "mc5", "prefacc")]
    config = write_config(run / "sheets", evaluation=SETTINGS | changes)
    return [*files, "--config", config, "--device", "cpu"]


def evaluate(run: Path, out: Path, *more: str, model: str = "init", **changes: object) -> int:
    files = ["--scores", str(out / "scores.csv"), "--answers", str(out / "answers.csv.gz")]
    return main(["evaluate", str(run / model), *options(run, **changes), *files, *more])


def read_scores(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        found = list(reader)
    assert tuple(reader.fieldnames or ()) == columns
    return found


def test_all_suites_of_a_model_in_one_run_give_the_same_bytes_twice(run, tmp_path, capsys):
    assert evaluate(run, tmp_path) == 0
    printed = capsys.readouterr().out
    rows = read_scores(tmp_path / "scores.csv", names(ScoreRow))
    totals = {row["task"]: int(row["n"]) for row in rows if row["level"] == "all"}
    assert totals == {
        **{"arith_sampled": 30, "arith_greedy": 15, "prefacc": 20},
        **{f"mc5_{name}": 12 for name in CHOICE_TASKS},
    }
    levels = [row["level"] for row in rows if row["task"] == "arith_greedy"]
    assert levels == ["1", "2", "3", "4", "5", "all"]
    digests = {row["task"]: row["data_sha256"] for row in rows}
    assert digests["prefacc"] == sha256(run / "prefacc.jsonl")
    assert digests["arith_greedy"] == digests["arith_sampled"] == sha256(run / "arith.jsonl")
    with gzip.open(tmp_path / "answers.csv.gz", "rt", newline="") as stream:
        answers = list(csv.DictReader(stream))
    for task in totals:
        assert sum(int(a["samples"]) for a in answers if a["task"] == task) == totals[task]
        assert f"{task}: " in printed
    assert "chance 25.0" in printed
    assert "chance 20.0" in printed
    assert evaluate(run, tmp_path / "again") == 0
    for name in ("scores.csv", "answers.csv.gz"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_bad_setting_or_suite_leaves_no_output(run, tmp_path, capsys):
    write_jsonl(tmp_path / "text.jsonl", [{"text": "1+1"}])
    for more, changes, expected in (
        ([], {"top_p": 1}, "top_p"),
        ([f"--suite=arith={run / 'arith.jsonl'}"], {}, "each name once"),
        ([f"--suite=text={tmp_path / 'text.jsonl'}"], {}, "suite text: expected records"),
    ):
        assert evaluate(run, tmp_path / "out", *more, **changes) == 1
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_step_has_the_scores_of_its_full_model(run, tmp_path, capsys):
    how = options(run, "arith", "mc5")
    for name, saved in (("deltas", ["steps"]), ("full", ["full-5", "full-10"])):
        models = [str(run / folder) for folder in ("init", *saved)]
        assert main(["evaluate_steps", *models, *how, "--out", str(tmp_path / name)]) == 0
        progress = capsys.readouterr().err.splitlines()
        assert progress[-3].startswith("step 0 (1/3): arith_sampled: ")
        assert progress[-1].startswith("step 10 (3/3): ")
        assert progress[-1].endswith("; 0:00:00 left")
    assert (tmp_path / "deltas").read_bytes() == (tmp_path / "full").read_bytes()
    found, scores = read_scores(tmp_path / "deltas", names(StepScoreRow)), {}
    for step, name in ((0, "init"), (5, "full-5"), (10, "full-10")):
        assert evaluate(run, tmp_path / name, model=name) == 0
        rows = read_scores(tmp_path / name / "scores.csv", names(ScoreRow))
        scores[step] = [row for row in rows if row["task"] != "prefacc"]
    assert found == [{"step": str(step), **row} for step in scores for row in scores[step]]
    assert scores[0] != scores[5] != scores[10]
    assert {row["task"] for row in found} >= {"arith_sampled", "arith_greedy"}


def test_steps_of_another_model_are_refused(run, tmp_path, capsys):
    save_folder(tiny_model("llama"), tmp_path / "other-5")
    for init, saved, expected in (
        ("full-5", run / "steps", "step-000005.delta: a delta of another init"),
        (
            "init",
            tmp_path / "other-5",
            "other-5: tensor model.layers.0.self_attn.k_proj.bias: expected shape (8,) as in",
        ),
    ):
        words = ["evaluate_steps", str(run / init), str(saved), *options(run, "arith")]
        assert main([*words, "--out", str(tmp_path / "out.csv")]) == 1
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
