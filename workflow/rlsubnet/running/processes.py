"""Who else is at work in this folder, on this machine."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

PROGRAM = re.compile(r"(bin/snakemake|-m snakemake|snakemake/__main__\.py|bin/rlsubnet)\b")
# What directs a run; a job of it is a Snakemake, too, that was told which jobs to do.
DIRECTING, JOB = re.compile(r"snakemake\b|rlsubnet resume\b"), "--target-jobs"


def workers_here() -> list[tuple[psutil.Process, str]]:
    """Return other processes of this folder that run Snakemake or one of its jobs, and as what."""
    return [(process, words) for process, words in _others() if PROGRAM.search(words)]


def directors_here() -> list[psutil.Process]:
    """Return the processes that direct a run in this folder, or are about to resume one."""
    return [
        process
        for process, words in workers_here()
        if DIRECTING.search(words) and not _is_job(process)
    ]


def _is_job(process: psutil.Process) -> bool:
    """Return whether a process is a job's Snakemake, or the shell around it; or has ended."""
    try:
        return JOB in " ".join(process.cmdline())
    except psutil.Error:
        return True


def _others() -> Iterator[tuple[psutil.Process, str]]:
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline()[:4])
            here = process.pid not in ours and Path(process.cwd()) == Path.cwd()
        except (psutil.Error, OSError):
            continue
        if here:
            yield process, words
