"""``rlsubnet resume`` after real kills on one machine; tests/slurm has those on a cluster."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rlsubnet.cli import main
from tests.workflow.projects import Project

pytestmark = pytest.mark.slow

CONFIG = ("--configfile", "config/micro/config.yaml")
# Long enough to be killed in, and to go on with.
LONG = "steps=400 save_every=10"
FINAL = "work/micro/runs/long/final"


@pytest.fixture
def long(changed: Project) -> Project:
    """Return the project with one long run to do."""
    changed.sheets.add_row("runs.tsv", "long", "dpo", "sft", "pairs", "rl", "9", "", LONG)
    return changed


@pytest.fixture
def running(long: Project) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a Snakemake whose training has saved its state, and is suspended."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", FINAL, *CONFIG]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with Path("snakemake.out").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    state = long.root / "work/micro/runs/long/resume/state.pt"
    deadline = time.monotonic() + 300
    while not state.exists():  # up to 300 s on a busy machine
        assert process.poll() is None, Path("snakemake.out").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = [p for p in psutil.Process(process.pid).children(recursive=True) if trains(p)]
    for child in children:
        child.suspend()
    yield process
    process.kill()
    process.wait()
    for child in children:
        if child.is_running():
            child.kill()


def trains(process: psutil.Process) -> bool:
    return process.cmdline()[2:4] == ["train", "long"]


def test_beside_a_running_snakemake_it_refuses_and_changes_nothing(
    running: "subprocess.Popen[bytes]", capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path("work").rglob("*"))
    assert main(["resume"]) == 1
    error = capsys.readouterr().err
    assert f"snakemake (process {running.pid}) is at work here" in error
    assert f"kill -INT {running.pid}" in error
    assert sorted(Path("work").rglob("*")) == before
    assert any(Path(".snakemake/locks").iterdir())


def test_after_a_kill_it_waits_for_the_job_unlocks_and_ends_what_was_begun(
    running: "subprocess.Popen[bytes]", capfd: pytest.CaptureFixture[str]
) -> None:
    [job] = [p for p in psutil.process_iter() if p.ppid() != 0 and safe_trains(p)]
    running.kill()
    running.wait()
    # A second kind of leftover: what a job that was killed was writing.
    partial = Path("work/micro/runs/long/.final.1.partial")
    partial.mkdir()
    assert main(["status"]) == 0
    status = capfd.readouterr().out
    assert "killed: `rlsubnet resume` goes on" in status
    assert "train long: interrupted" in status

    os.kill(job.pid, signal.SIGCONT)
    assert main(["resume"]) == 0
    output = capfd.readouterr().out
    assert f"waiting for process {job.pid}, left by a run that was killed" in output
    assert "half-written by a job that was killed" in output
    assert "unlocked the folder" in output
    assert not partial.exists()
    assert Path("work/micro/runs/long/final/model.safetensors").is_file()
    assert not Path("work/micro/runs/long/resume").exists()


def safe_trains(process: psutil.Process) -> bool:
    try:
        return trains(process) and Path(process.cwd()) == Path.cwd()
    except psutil.Error:
        return False


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
