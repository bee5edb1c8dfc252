"""The runs of a folder: what their loggers wrote, who of them is at work, and how to go on.

After Snakemake was killed, nothing of the old run may write into the new one.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from rlsubnet.config.read import load_config

LOGS = Path(".snakemake/log")

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


@dataclass
class Job:
    """One job of a run; what there is not is empty."""

    rule: str
    number: str = ""  # Snakemake's
    name: str = ""  # the values of its wildcards
    outputs: tuple[str, ...] = ()
    log: str = ""
    state: str = RUNNING  # from when it was handed over
    attempt: int = 1
    slurm: str = ""  # the number of its Slurm job
    slurm_log: str = ""

    @property
    def title(self) -> str:
        return f"{self.rule} {self.name}".rstrip()


# What there is no event for, only words.
RUN_ID = re.compile(r"SLURM run ID: (\S+)")
SUBMITTED = re.compile(r"Job (\S+) has been submitted with SLURM jobid (\d+) \(log: (.*)\)")
AGAIN = re.compile(r"Trying to restart job (\S+?)\.?$")
END = "Complete log"


@dataclass
class Run:
    """One call of Snakemake."""

    file: Path  # its own log
    host: str = ""
    arguments: list[str] = field(default_factory=list)
    slurm_id: str = ""  # the name of all its Slurm jobs
    jobs: dict[str, Job] = field(default_factory=dict)
    # Its Slurm jobs, those of earlier attempts too.
    submitted: set[str] = field(default_factory=set)
    ended: bool = False  # by itself
    # Groups that were announced and not yet submitted: their name and members.
    announced: list[tuple[str, list[Job]]] = field(default_factory=list, repr=False)
    # Members of a submitted group, by the group's long id.
    groups: dict[str, list[Job]] = field(default_factory=dict, repr=False)

    def add(self, event: Mapping[str, Any]) -> None:
        """Take the next event of this run."""
        match event["event"]:
            case "message":
                self._read_message(event["msg"])
            case "workflow_started":
                self.host, self.arguments = event["host"], event["arguments"]
            case "group_info":
                self.announced.append((event["group_id"], []))
            case "job_info":
                self._begin(event)
            case "job_finished":
                self._end(event["job_id"], DONE)
            case "job_error":
                self._end(event["jobid"], FAILED)

    def _begin(self, event: Mapping[str, Any]) -> None:
        number, log = str(event["jobid"]), (event["log"] or [""])[0]
        name, outputs = "".join(event["wildcards"].values()), tuple(event["output"])
        job = Job(event["rule_name"], number, name, outputs, log)
        if number in self.jobs:  # announced once more when it is started again
            job.attempt = self.jobs[number].attempt
        self.jobs[number] = job
        if event["indent"]:
            self.announced[-1][1].append(job)

    def _end(self, number: int, state: str) -> None:
        if job := self.jobs.get(str(number)):
            job.state = state

    def _read_message(self, words: str) -> None:
        if match := RUN_ID.match(words):
            self.slurm_id = match[1]
        elif match := SUBMITTED.match(words):
            self.submitted.add(match[2])
            for job in self._submitted(match[1], match[3]):
                job.slurm, job.slurm_log = match[2], match[3]
        elif match := AGAIN.match(words):
            for job in self._members(match[1]):
                job.state, job.attempt = WAITING, job.attempt + 1
        elif words.startswith(END):
            self.ended = True

    def _members(self, number: str) -> list[Job]:
        """Return the job of a number, or those of a group's id."""
        if number in self.jobs:
            return [self.jobs[number]]
        return [self.jobs[job.number] for job in self.groups.get(number, [])]

    def _submitted(self, number: str, slurm_log: str) -> list[Job]:
        """Return the jobs of a Slurm job; a group has an id, its log a folder of a telling name."""
        folder = Path(slurm_log).parent.name
        for place, (name, jobs) in enumerate(self.announced):
            if folder == "_".join(["group", name, *sorted({job.rule for job in jobs})]):
                del self.announced[place]
                self.groups[number] = jobs
                return jobs
        return self._members(number)


def read_run(file: Path) -> Run:
    """Return what the events of one run say; the last line of a killed one may be cut off."""
    run = Run(file.with_suffix(".log"))
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            if line.endswith("\n"):
                run.add(json.loads(line))
    return run


def runs_here(folder: Path = Path()) -> list[Run]:
    """Return the runs with jobs whose logs are in a folder, the last one last."""
    runs = map(read_run, sorted((folder / LOGS).glob("*.snakemake.jsonl")))
    return [run for run in runs if run.jobs]


def unknown_run(folder: Path = Path()) -> Path | None:
    """Return the log of the last run, if that was started without the logger."""
    logs = sorted((folder / LOGS).glob("*.snakemake.log"))
    runs = [log for log in logs if "\n  Command: " in log.read_text(errors="replace")]
    return runs[-1] if runs and not runs[-1].with_suffix(".jsonl").exists() else None


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


def _ask(*words: str) -> str:
    if not shutil.which(words[0]):
        raise ValueError(
            f"a run of this folder gave jobs to Slurm, and there is no {words[0]} on this machine; "
            "ask where Slurm's commands are"
        )
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise ValueError(f"{words[0]} failed: {done.stderr.strip()}")
    return done.stdout


def queued(names: Sequence[str]) -> list[Queued]:
    """Return the jobs of these names that wait, run or are about to end."""
    words = ("squeue", "--noheader", f"--format={FORMAT}", "--name", ",".join(names))
    lines = _ask(*words).splitlines() if names else []
    return [Queued(*line.split("|", 4)) for line in lines if line]


def queue_of(run: Run) -> tuple[dict[str, Queued], str]:
    """Return the jobs of a run that have not ended, by number, and why they are not known."""
    if not run.slurm_id or run.ended:
        return {}, ""
    try:
        return {job.number: job for job in queued([run.slurm_id])}, ""
    except (ValueError, subprocess.TimeoutExpired) as error:
        return {}, str(error).partition("\n")[0]


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


DEMO = "config/demo/config.yaml"
PATIENCE = 300.0  # seconds for cancelled jobs to end


def config_files(arguments: Sequence[str]) -> list[str]:
    """Return the config files of a Snakemake command line; the demo's where it names none.

    >>> config_files(["--profile", "slurm", "--configfile", "a.yaml", "b.yaml", "--jobs", "2"])
    ['a.yaml', 'b.yaml']
    >>> config_files(["--configfile=a.yaml", "table1"]), config_files(["--cores", "all"])
    (['a.yaml'], ['config/demo/config.yaml'])
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", dest="files", action="extend", nargs="+")
    files = parser.parse_known_args(arguments)[0].files or [DEMO]
    return [file for file in files if file.endswith((".yaml", ".yml", ".json"))]  # not a target


def check_alone(runs: Sequence[Run], ended_elsewhere: bool) -> None:
    """Raise ValueError where a Snakemake is, or may be, at work in this folder."""
    for process in directors_here():
        raise ValueError(
            f"snakemake (process {process.pid}) is at work here; let it go on, or end it by "
            f"`kill -INT {process.pid}`, which cancels its jobs"
        )
    last = runs[-1] if runs else None
    here = platform.node()
    if last and last.host not in ("", here) and not last.ended and not ended_elsewhere:
        raise ValueError(
            f"{last.file}: started on {last.host}, this is {here}, and it did not say that it "
            f"ended; resume on {last.host}, or, if it was killed there, add --ended-elsewhere"
        )


def cancel_orphans(runs: Sequence[Run]) -> list[Queued]:
    """Cancel the Slurm jobs that runs of this folder left behind, and wait until none is left."""
    if not any(run.slurm_id and not run.ended for run in runs):
        return []
    names = [run.slurm_id for run in runs if run.slurm_id]
    found = queued(names)
    if found:
        _ask("scancel", *(job.number for job in found))
    deadline = time.monotonic() + PATIENCE
    while left := found and queued(names):
        if time.monotonic() > deadline:
            numbers = ", ".join(job.number for job in left)
            raise ValueError(
                f"Slurm jobs {numbers} were cancelled {PATIENCE:.0f} s ago and have not ended; "
                "what they may still write would be taken for results. Ask again later"
            )
        time.sleep(INTERVAL)
    return found


def kill_strays(runs: Sequence[Run]) -> None:
    """Kill processes on this machine whose Slurm jobs, of these runs, have left the queue.

    Where Slurm follows processes by their parents (``proctrack/linuxproc``), it loses those whose
    parent ended first, and a job's Snakemake then waits for ever for what Slurm has killed. One
    that is told to end while it changes its list of jobs waits for itself.
    """
    ended = set[str]().union(*(run.submitted for run in runs))
    for process, words in workers_here():
        with suppress(psutil.Error):
            job = process.environ().get("SLURM_JOB_ID")
            if job in ended:
                process.kill()
                process.wait()
                print(f"killed process {process.pid}, which Slurm left of job {job}: {words}")


def wait_for_workers() -> None:
    """Wait for jobs on this machine that outlived their Snakemake."""
    for process, words in workers_here():
        print(f"waiting for process {process.pid}, left by a run that was killed: {words}")
        process.wait()


def remove_partial(folders: Sequence[Path]) -> list[Path]:
    """Remove what killed jobs left half-written, and return it; it never has a result's name."""
    found = sorted(path for folder in folders for path in folder.rglob(".*.partial"))
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return found


def snakemake(*arguments: str) -> list[str]:
    """Return the command line of the Snakemake that belongs to this Python."""
    return [sys.executable, "-m", "snakemake", *arguments]


LOCKS = Path(".snakemake/locks")


def is_locked() -> bool:
    """Return whether a Snakemake, at work or killed, holds the folder."""
    return any(LOCKS.glob("*.lock"))


def unlock() -> None:
    """Unlock the folder as ``snakemake --unlock`` does, if a killed Snakemake left it locked."""
    if is_locked():
        shutil.rmtree(LOCKS)
        print("unlocked the folder")


def resume(arguments: Sequence[str], ended_elsewhere: bool = False) -> int:
    """Clear up after a killed Snakemake in this folder and go on; return Snakemake's status.

    Its arguments, where there are none, are those of the last run. ``ended_elsewhere`` says that
    this was started on another machine and has ended there.
    """
    runs = runs_here()
    words = list(arguments) or (runs[-1].arguments if runs else [])
    if not words:
        raise ValueError("no run to resume in this folder; name the arguments of Snakemake")
    check_alone(runs, ended_elsewhere)
    if log := unknown_run():
        raise ValueError(
            f"{log}: this run was started without `logger: rlsubnet` of profiles/default, so its "
            "jobs are not known; cancel those that Slurm still has, delete this file, resume again"
        )
    config = load_config(config_files(words))
    for job in cancel_orphans(runs):
        print(f"cancelled Slurm job {job.number} ({job.state.lower()}), left by run {job.name}")
    kill_strays(runs)
    wait_for_workers()
    for path in remove_partial([Path(config[key]) for key in ("work", "results")]):
        print(f"removed {path}, half-written by a job that was killed")
    unlock()
    command = snakemake(*words, *([] if "--rerun-incomplete" in words else ["--rerun-incomplete"]))
    print("going on:", " ".join(command[2:]), flush=True)
    return subprocess.call(command)
