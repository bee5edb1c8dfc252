"""Who is at work in this folder: processes on this machine, and jobs in Slurm's queue."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from rlsubnet.running.run_log import Run

# A line of squeue: number, job name (the id of Snakemake's run), state, time, node or reason.
FORMAT = "%i|%j|%T|%M|%R"
INTERVAL = 1.0  # seconds between two looks at the queue


class Queued(NamedTuple):
    """A Slurm job that has not ended."""

    number: str
    name: str
    state: str
    elapsed: str
    where: str


def has_slurm() -> bool:
    """Return whether this machine knows Slurm."""
    return shutil.which("squeue") is not None


def _ask(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise ValueError(f"{words[0]} failed: {done.stderr.strip()}")
    return done.stdout


def queued(names: Sequence[str]) -> list[Queued]:
    """Return the jobs of these names that wait, run or are about to end.

    Raises:
        ValueError: Slurm does not answer.
    """
    words = ["squeue", "--noheader", f"--format={FORMAT}", "--name", ",".join(names)]
    lines = _ask(words).splitlines() if names else []
    return [Queued(*line.split("|", 4)) for line in lines if line]


def queue_of(run: Run) -> tuple[dict[str, Queued], str]:
    """Return the jobs of a run that have not ended, by number, and why they are not known."""
    if not run.slurm_id or run.ended:
        return {}, ""
    if not has_slurm():
        return {}, "there is no squeue on this machine"
    try:
        return {job.number: job for job in queued([run.slurm_id])}, ""
    except (ValueError, subprocess.TimeoutExpired) as error:
        return {}, str(error).partition("\n")[0]


def cancel(names: Sequence[str], patience: float) -> list[Queued]:
    """Cancel all jobs of these names and wait until none is left; return what there was.

    Raises:
        ValueError: Slurm does not answer, or some are still there after ``patience`` seconds.
    """
    found = queued(names)
    if not found:
        return []
    _ask(["scancel", *(job.number for job in found)])
    deadline = time.monotonic() + patience
    while left := queued(names):
        if time.monotonic() > deadline:
            numbers = ", ".join(job.number for job in left)
            raise ValueError(
                f"Slurm jobs {numbers} were cancelled {patience:.0f} s ago and have not ended; "
                "what they may still write would be taken for results. Ask again later"
            )
        time.sleep(INTERVAL)
    return found


PROGRAM = re.compile(r"(bin/snakemake|-m snakemake|snakemake/__main__\.py|bin/rlsubnet)\b")
# What directs a run; a job of it is a Snakemake, too, with the jobs to do in its command line.
DIRECTING, JOB = re.compile(r"snakemake\b|rlsubnet resume\b"), "--target-jobs"


def workers_here() -> list[tuple[psutil.Process, str]]:
    """Return other processes of this folder that run Snakemake or one of its jobs, and as what."""
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it has ended, or is somebody else's
            words = " ".join(process.cmdline()[:4])
            ran_here = PROGRAM.search(words) and Path(process.cwd()) == Path.cwd()
            if ran_here and process.pid not in ours:
                found.append((process, words))
    return found


def directors_here() -> list[psutil.Process]:
    """Return the processes that direct a run in this folder, or are about to resume one."""
    found = []
    for process, words in workers_here():
        with suppress(psutil.Error):  # a job's Snakemake, or the shell around it, directs nothing
            if DIRECTING.search(words) and JOB not in " ".join(process.cmdline()):
                found.append(process)
    return found
