"""prefetch_olmes, evaluate_olmes and evaluate_steps_olmes with a made program in olmes's place."""

import csv
import gzip
import json
import sys
from pathlib import Path

import pytest

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta_pack import write_delta
from rlsubnet.cli import main
from tests.backends.olmes_folders import TASKS, use_small_suite
from tests.backends.programs import script
from tests.evaluation.tiny_models import save_folder, tiny_model
from tests.sheets_of_row import write_config

REPOSITORY = Path(__file__).resolve().parents[2]
# Skips what is there, as olmes does; a model's weights decide nothing.
PROGRAM = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
sys.path[:0] = ["{REPOSITORY}", "{REPOSITORY / "workflow"}"]
from tests.backends.olmes_folders import write_outputs, write_requests
words = sys.argv[1:]
out = Path(words[words.index("--output-dir") + 1])
with open(os.environ["CALLS"], "a") as stream:
    kept = ("HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES")
    stream.write(json.dumps([words, {{k: os.environ.get(k) for k in kept}}]) + "\\n")
if (out / "metrics-all.jsonl").exists():
    sys.exit("skipped: stale outputs")
if "--model" not in words:
    write_requests(out)
else:
    told = json.loads(words[words.index("--model-args") + 1])
    write_outputs(out, Path(told["model_path"]))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_small_suite(monkeypatch)
    folder = save_folder(tiny_model("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_position_embeddings": 4096, "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    probe = {"folder": "/opt/oe_eval", "versions": {"transformers": "4.50.3"}}
    script(tmp_path / "env" / "bin" / "olmes", PROGRAM)
    script(tmp_path / "env" / "bin" / "python", f"#!/bin/sh\necho '{json.dumps(probe)}'\n")
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def run(place: Path, command: str, *words: object) -> int:
    asked = {"suites": ["small"], "step_suites": ["small"]}
    how = {"commit": None, "environment": str(place / "env")}
    block = {"backend": "olmes", **asked, "olmes": how}
    config = write_config(place, evaluation=block, resources={"evaluate": {"gpus": 1}})
    shared = ["--cache", place / "cache", "--config", config]
    return main([command, *map(str, [*words, *shared])])


def evaluate(place: Path, *words: object) -> int:
    outputs = ["--scores", place / "scores.csv", "--answers", place / "answers.csv.gz"]
    return run(place, "evaluate_olmes", place / "model", "--raw", place / "raw", *outputs, *words)


def calls(place: Path) -> list:
    return [json.loads(line) for line in (place / "calls").read_text().splitlines()]


def test_prefetching_writes_the_numbers_of_items(place):
    assert run(place, "prefetch_olmes", "--out", place / "prefetched.json") == 0
    written = json.loads((place / "prefetched.json").read_text())
    items = {name: task["items"] for name, task in written["tasks"].items()}
    assert items == {"small_choice": 3, "small_levels": 4, "small_years": 2}
    ((words, variables),) = calls(place)
    told = [*(t.argument for t in TASKS), "--output-dir", str(place / "cache" / "requests")]
    assert words == ["--task", *told]  # no model
    assert variables["HF_HUB_OFFLINE"] is None
    assert variables["HF_HOME"] == str(place / "cache" / "huggingface")
    # Once more, with what the first one left.
    assert run(place, "prefetch_olmes", "--out", place / "prefetched.json") == 0


def test_an_evaluation_writes_scores_and_answers(place, capsys):
    assert evaluate(place, "--gpus", 1) == 0
    with (place / "scores.csv").open(newline="") as stream:
        rows = {(row["task"], row["level"]): row for row in csv.DictReader(stream)}
    assert rows["small_levels", "all"]["correct"] == "2"
    assert rows["small_years", "all"]["n"] == "2"
    assert {row["backend"] for row in rows.values()} == {"olmes"}
    with gzip.open(place / "answers.csv.gz", "rt") as stream:
        assert len(stream.readlines()) == 1 + 9
    assert "small_choice: 66.67 % of 3" in capsys.readouterr().out
    ((words, variables),) = calls(place)
    assert words[words.index("--gpus") + 1] == "1"
    assert (variables["HF_HUB_OFFLINE"], variables["CUDA_VISIBLE_DEVICES"]) == ("1", "0")
    # Once more: the made program ends with an error where it finds outputs.
    first = (place / "scores.csv").read_bytes(), (place / "answers.csv.gz").read_bytes()
    assert evaluate(place, "--gpus", 1) == 0
    assert ((place / "scores.csv").read_bytes(), (place / "answers.csv.gz").read_bytes()) == first
    assert len(calls(place)) == 2


def test_the_log_of_an_evaluation_begins_with_what_training_held_of_its_items(place, capsys):
    report = place / "rollouts.csv"
    report.write_text("items,n,short,exact,near,matched,share\nmath500,500,9,3,4,7,0.014\n")
    assert evaluate(place, "--gpus", 1, "--contamination", report) == 0
    said = capsys.readouterr().out
    expected = "trained on rollouts: its prompts hold 7 of the 500 items of math500"
    assert said.index(expected) < said.index("small_choice")


def test_a_model_that_does_not_fit_never_starts_the_program(place, capsys):
    config = json.loads((place / "model" / "config.json").read_text())
    (place / "model" / "config.json").write_text(json.dumps(config | {"rope_theta": None}))
    assert evaluate(place, "--gpus", 1) == 1
    assert "rope_theta" in capsys.readouterr().err
    assert not (place / "calls").exists()
    assert not (place / "scores.csv").exists()


def test_a_missing_cache_or_gpu_is_told_before_anything_runs(place, capsys):
    assert evaluate(place) == 1
    assert "--gpus 0: vLLM needs at least 1" in capsys.readouterr().err
    assert evaluate(place, "--model-type", "hf") == 0
    (place / "cache").rmdir()
    assert evaluate(place, "--gpus", 1) == 1
    assert "make it with: rlsubnet prefetch_olmes" in capsys.readouterr().err


def test_every_saved_step_is_evaluated_and_only_one_lies_on_the_disk(place, capsys):
    init = Checkpoint(place / "model")
    tuned = tiny_model("llama")
    tuned.model.norm.weight.data[0] += 1
    save_folder(tuned, place / "tuned")
    steps = place / "steps"
    steps.mkdir()
    for step in (5, 10):
        write_delta(steps / f"step-{step:06d}.delta", init, Checkpoint(place / "tuned").read)
    words = ["--raw", place / "raw", "--out", place / "step_scores.csv", "--gpus", 1]
    assert run(place, "evaluate_steps_olmes", place / "model", steps, *words) == 0
    with (place / "step_scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    whole = [(row["step"], row["task"]) for row in rows if row["level"] == "all"]
    names = ("small_choice", "small_levels", "small_years")
    assert whole == [(step, name) for step in ("0", "5", "10") for name in names]
    told = [json.loads(words[words.index("--model-args") + 1]) for words, _ in calls(place)]
    unpacked = str(place / "raw" / "unpacked-step")
    assert [one["model_path"] for one in told] == [str(place / "model"), unpacked, unpacked]
    assert not Path(unpacked).exists()
    assert "step 10 of 5, 10: small_choice: 66.67 %" in capsys.readouterr().err
