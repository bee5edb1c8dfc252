"""``rlsubnet resume`` after real kills on one machine; tests/slurm has those on a cluster."""

import json
import os
import platform
import sys
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
def long(changed: Project) -> Project:
    """Return the project with one long run to do."""
    changed.sheets.add_row("runs.tsv", "long", "dpo", "sft", "pairs", "rl", "9", "", LONG)
    return changed


def trainings_here() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            trains = process.cmdline()[2:4] == ["train", "long"]
            if trains and Path(process.cwd()) == Path.cwd():
                yield process


def test_beside_a_running_snakemake_it_refuses_and_after_a_kill_it_ends_what_was_begun(
    long: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [sys.executable, "-m", "snakemake", "--cores", "1", FINAL, *CONFIG]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    running = Under(words, long.root, {**os.environ, "PATH": path})
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
    long: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    log = sorted(Path(".snakemake/log").glob("*.jsonl"))[-1]
    text = log.read_text(encoding="utf-8").replace("Complete log", "Incomplete log")
    host = json.dumps(platform.node())
    assert host in text
    log.write_text(text.replace(host, '"login7"'), encoding="utf-8")
    arguments = ["--cores", "1", "--dry-run", FINAL, *CONFIG]
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
