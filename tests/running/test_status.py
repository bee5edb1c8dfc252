"""What ``rlsubnet status`` says, and how ``resume`` goes on; tests/slurm has both on a cluster."""

import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rlsubnet.cli import main
from tests.slurm.projects import Under, wait_for
from tests.workflow.projects import Project

pytestmark = pytest.mark.slow

CONFIG = ("--configfile", "config/micro/config.yaml")
# Long enough to be killed in, and to go on with.
LONG = "steps=400 save_every=10"
FOLDER = Path("work/micro/runs/long")
FINAL = str(FOLDER / "final")


@pytest.fixture
def changed(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a copy of the finished project, with all it made, as the current folder."""
    copy = finished.copy_to(tmp_path, "work", "results", "logs", ".snakemake")
    monkeypatch.chdir(copy.root)
    return copy


def status(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["status", *arguments]) == 0
    return capsys.readouterr().out


def states(output: str) -> dict[str, str]:
    """Return the state of each item."""
    table = itertools.takewhile(lambda line: "tables and figures" not in line, output.splitlines())
    return {line.split()[0]: line.split()[1] for line in list(table)[1:]}


def test_after_a_whole_run_everything_is_done_that_is_there(
    changed: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    output = status(capsys)
    assert set(states(output).values()) == {"done"}
    assert {"table1", "fig7", "section4", "gains", "verdicts"} <= set(states(output))
    assert "46 of 46 jobs done, ended" in output
    # What is missing, or older than what it reads, is said.
    (changed.root / "results/micro/figures/fig5.pdf").unlink()
    (changed.root / "results/micro/ranks/dpo.csv").unlink()
    os.utime(changed.root / "results/micro/overlap/seed.csv", (time.time() + 9, time.time() + 9))
    found = states(status(capsys))
    assert (found["fig5"], found["table2"], found["table4"]) == ("missing", "missing", "outdated")
    assert (found["table1"], found["fig3"]) == ("done", "done")
    table = next(line for line in status(capsys).splitlines() if line.startswith("table2"))
    assert table.split()[2] == "0/1"


def test_a_failed_job_is_named_with_its_last_words_and_the_items_that_wait_for_it(
    changed: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    changed.sheets.set_cell("runs.tsv", "dpo", "set", "batch_size=1000")
    assert changed.snakemake("--keep-going").returncode == 1
    output = status(capsys)
    found = states(output)
    assert (found["table2"], found["fig3"]) == ("failed", "failed")
    # Trained with the mask of the failed run; table6 reads both.
    assert (found["table3"], found["table6"]) == ("failed", "failed")
    assert (found["fig5"], found["fig6"]) == ("done", "done")
    assert "  train dpo: failed\n" in output
    assert "pairs.jsonl: 20 examples, expected a batch of 1000" in output
    assert "log: logs/micro/train/dpo.log" in output

    report = json.loads(status(capsys, "--json"))
    [job] = report["run"]["jobs"]
    assert (job["rule"], job["wildcards"], job["state"]) == ("train", "dpo", "failed")
    assert "expected a batch of 1000" in job["last_lines"][-1]
    waiting = {item["item"] for item in report["items"] if item["waits_for"] == ["train dpo"]}
    assert {"table2", "table3", "verdicts"} <= waiting


def test_where_nothing_ran_results_in_the_clone_count(
    finished: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clone = finished.copy_to(tmp_path, "results")
    monkeypatch.chdir(clone.root)
    output = status(capsys, "--config", "config/micro/config.yaml")
    assert set(states(output).values()) == {"done"}
    assert "no run in this folder" in output


def trainings_here() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            trains = process.cmdline()[2:4] == ["train", "long"]
            if trains and Path(process.cwd()) == Path.cwd():
                yield process


def test_beside_a_running_snakemake_it_refuses_and_after_a_kill_it_ends_what_was_begun(
    changed: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    changed.sheets.add_row("runs.tsv", "long", "dpo", "sft", "pairs", "rl", "9", "", LONG)
    words = [sys.executable, "-m", "snakemake", "--cores", "1", FINAL, *CONFIG]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    running = Under(words, changed.root, {**os.environ, "PATH": path})
    try:
        wait_for((FOLDER / "resume/state.pt").exists, "a saved state", running)
        [job] = trainings_here()
        job.suspend()
        before = sorted(Path("work").rglob("*"))
        assert main(["resume"]) == 1
        error = capfd.readouterr().err
        assert f"snakemake (process {running.process.pid}) is at work here" in error
        assert f"kill -INT {running.process.pid}" in error
        assert sorted(Path("work").rglob("*")) == before
        assert any(Path(".snakemake/locks").iterdir())
    finally:
        running.end()  # kill -9
    # A second kind of leftover: what a job that was killed was writing.
    partial = FOLDER / ".final.1.partial"
    partial.mkdir()
    assert main(["status"]) == 0
    status = capfd.readouterr().out
    assert "killed: `rlsubnet resume` goes on" in status
    assert "train long: interrupted" in status

    job.resume()
    assert main(["resume"]) == 0
    output = capfd.readouterr().out
    assert f"waiting for process {job.pid}, left by a run that was killed" in output
    assert "half-written by a job that was killed" in output
    assert "unlocked the folder" in output
    assert not partial.exists()
    assert Path(FINAL, "model.safetensors").is_file()
    assert not (FOLDER / "resume").exists()


def test_a_run_that_another_machine_started_is_not_resumed_unless_it_is_known_to_have_ended(
    changed: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    log = sorted(Path(".snakemake/log").glob("*.jsonl"))[-1]
    text = log.read_text(encoding="utf-8").replace("Complete log", "Incomplete log")
    host = json.dumps(platform.node())
    assert host in text
    log.write_text(text.replace(host, '"login7"'), encoding="utf-8")
    arguments = ["--cores", "1", "--dry-run", "table1", *CONFIG]
    assert main(["resume", "--", *arguments]) == 1
    error = capfd.readouterr().err
    assert "started on login7" in error
    assert "add --ended-elsewhere" in error
    assert main(["resume", "--ended-elsewhere", "--", *arguments]) == 0
    assert "going on: snakemake --cores 1" in capfd.readouterr().out


def test_where_nothing_ran_it_asks_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["resume"]) == 1
    assert "no run to resume in this folder" in capsys.readouterr().err
