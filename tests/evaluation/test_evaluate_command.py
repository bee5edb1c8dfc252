"""``rlsubnet evaluate``: three suites in one process, the same bytes each time, clear errors."""

import csv
import gzip
from pathlib import Path

import pytest

from rlsubnet.cli import main
from rlsubnet.files import sha256, write_jsonl
from rlsubnet.tasks.arithmetic import problems
from rlsubnet.tasks.made_up import CHOICE_TASKS, choices, demonstration_pairs
from tests.evaluation.tiny_models import save_folder, tiny_model
from tests.sheets_of_row import write_config

SETTINGS = {
    "suites": ["arith", "mc5", "prefacc"],
    "samples": 2,
    "temperature": 1.0,
    "batch_size": 64,
    "max_new_tokens": 12,
    "seed": 777,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    save_folder(tiny_model(spread=0.3), folder / "model")
    write_jsonl(folder / "arith.jsonl", problems([3, 3, 3, 3, 3], "test", 1))
    write_jsonl(folder / "mc5.jsonl", choices(6, "test", 1))
    write_jsonl(folder / "prefacc.jsonl", demonstration_pairs("worked", 20, "test", 1))
    return folder


def evaluate(folder: Path, out: Path, *extra: str, settings: dict = SETTINGS) -> int:
    suites = [f"--suite={name}={folder / name}.jsonl" for name in ("arith", "mc5", "prefacc")]
    return main(
        [
            "evaluate",
            str(folder / "model"),
            *suites,
            "--config",
            write_config(out.parent / f"{out.name}-sheets", evaluation=settings),
            "--scores",
            str(out / "scores.csv"),
            "--answers",
            str(out / "answers.csv.gz"),
            "--device",
            "cpu",
            *extra,
        ]
    )


def test_all_suites_of_a_model_in_one_run(inputs, tmp_path, capsys):
    assert evaluate(inputs, tmp_path) == 0
    printed = capsys.readouterr().out
    with (tmp_path / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    totals = {row["task"]: int(row["n"]) for row in rows if row["level"] == "all"}
    assert totals == {
        "arith_sampled": 30,
        "arith_greedy": 15,
        **{f"mc5_{name}": 6 for name in CHOICE_TASKS},
        "prefacc": 20,
    }
    levels = [row["level"] for row in rows if row["task"] == "arith_greedy"]
    assert levels == ["1", "2", "3", "4", "5", "all"]
    digests = {row["task"]: row["data_sha256"] for row in rows}
    assert digests["prefacc"] == sha256(inputs / "prefacc.jsonl")
    assert digests["arith_greedy"] == digests["arith_sampled"] == sha256(inputs / "arith.jsonl")
    with gzip.open(tmp_path / "answers.csv.gz", "rt", newline="") as stream:
        answers = list(csv.DictReader(stream))
    for task in totals:
        assert sum(int(a["samples"]) for a in answers if a["task"] == task) == totals[task]
        assert f"{task}: " in printed
    assert "chance 25.0" in printed
    assert "chance 20.0" in printed


def test_the_same_model_and_data_give_the_same_bytes(inputs, tmp_path):
    for out in (tmp_path / "one", tmp_path / "two"):
        assert evaluate(inputs, out) == 0
    for name in ("scores.csv", "answers.csv.gz"):
        one, two = (tmp_path / out / name for out in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_a_bad_setting_or_suite_leaves_no_output(inputs, tmp_path, capsys):
    assert evaluate(inputs, tmp_path, settings=SETTINGS | {"top_p": 1}) == 1
    assert "top_p" in capsys.readouterr().err
    assert evaluate(inputs, tmp_path, f"--suite=arith={inputs / 'arith.jsonl'}") == 1
    assert "each name once" in capsys.readouterr().err
    text = tmp_path / "text.jsonl"
    write_jsonl(text, [{"text": "1+1"}])
    assert evaluate(inputs, tmp_path / "out", f"--suite=text={text}") == 1
    assert "suite text: expected records" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
