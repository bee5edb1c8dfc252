"""Processes that Slurm has lost sight of: whose they are decides whether they are killed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlsubnet.running.runs import Job, Run, kill_strays

Start = Callable[[str, str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts a process in this folder, of a program and a Slurm job."""
    monkeypatch.chdir(tmp_path)
    started = []

    def begin(program: str, job: str) -> "subprocess.Popen[bytes]":
        words = [sys.executable, "-c", "print(flush=True); input()", program]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = {**os.environ, **({"SLURM_JOB_ID": job} if job else {})}
        process = subprocess.Popen(words, env=environment, **pipes)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_only_what_slurm_left_of_this_folders_jobs_is_killed(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(Path("log"), jobs={"1": Job("train", slurm="35"), "2": Job("train")})
    stray = start("bin/rlsubnet", "35")
    beside = [start("bin/rlsubnet", "36"), start("bin/rlsubnet", ""), start("bin/vim", "35")]
    kill_strays([run])
    assert stray.poll() is not None
    assert [process.poll() for process in beside] == [None, None, None]
    assert f"killed process {stray.pid}, which Slurm left of job 35" in capsys.readouterr().out
