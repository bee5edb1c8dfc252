"""What the logger of a run wrote: its command, its jobs, and whether it ended."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOGS = Path(".snakemake/log")

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


@dataclass
class Job:
    """One job of a run.

    Attributes:
        rule: its rule.
        number: Snakemake's.
        name: the values of its wildcards, empty where it has none.
        outputs: files and folders that it makes.
        log: the file that holds its words, or empty.
        state: ``running`` from when it was handed over, ``done`` or ``failed``.
        attempt: 1, and one more each time it was started again.
        slurm: number of its Slurm job, or empty.
        slurm_log: the file of that job, or empty.
    """

    rule: str
    number: str = ""
    name: str = ""
    outputs: tuple[str, ...] = ()
    log: str = ""
    state: str = RUNNING
    attempt: int = 1
    slurm: str = ""
    slurm_log: str = ""


@dataclass
class Run:
    """One call of Snakemake.

    Attributes:
        file: Snakemake's own log of it.
        host: where it was started.
        arguments: what it was told.
        slurm_id: the name of all its Slurm jobs, or empty.
        jobs: by number; those that share a Slurm job have the same ``slurm``.
        ended: whether it came to an end by itself.
    """

    file: Path
    host: str = ""
    arguments: list[str] = field(default_factory=list)
    slurm_id: str = ""
    jobs: dict[str, Job] = field(default_factory=dict)
    ended: bool = False


# Of these there are no events, only words.
RUN_ID = re.compile(r"SLURM run ID: (\S+)")
SUBMITTED = re.compile(r"Job (\S+) has been submitted with SLURM jobid (\d+) \(log: (.*)\)")
AGAIN = re.compile(r"Trying to restart job (\S+?)\.?$")
END = re.compile(r"Complete log")


def job_of(event: Mapping[str, Any]) -> Job:
    """Return the job that starts."""
    return Job(
        event["rule_name"],
        str(event["jobid"]),
        "".join(event["wildcards"].values()),
        tuple(event["output"]),
        (event["log"] or [""])[0],
    )


def read_run(file: Path) -> Run:
    """Return what the events of one run say; the last line of a killed one may be cut off."""
    with file.open(encoding="utf-8", errors="replace") as stream:
        lines = [line for line in stream if line.endswith("\n")]
    return parse_run(file.with_suffix(".log"), map(json.loads, lines))


def parse_run(file: Path, events: Iterable[Mapping[str, Any]]) -> Run:
    """Return what events say.

    >>> run = parse_run(Path("log"), [
    ...     {"event": "workflow_started", "host": "login1", "arguments": ["--cores", "2"]},
    ...     {"message": "SLURM run ID: 5e-7"},
    ...     {"event": "job_info", "jobid": 7, "rule_name": "train", "wildcards": {"run": "dpo"},
    ...      "output": ["a/final", "a.csv"], "log": [], "indent": False},
    ...     {"message": "Job 7 has been submitted with SLURM jobid 12 (log: s.log)."}])
    >>> run.host, run.arguments, run.slurm_id, run.ended
    ('login1', ['--cores', '2'], '5e-7', False)
    >>> run.jobs["7"]  # doctest: +NORMALIZE_WHITESPACE
    Job(rule='train', number='7', name='dpo', outputs=('a/final', 'a.csv'), log='',
        state='running', attempt=1, slurm='12', slurm_log='s.log')
    """
    reader = _Reader(Run(file))
    for event in events:
        reader.read(event)
    return reader.run


class _Reader:
    """Takes one event after the other.

    Attributes:
        run: what was read.
        announced: groups that were announced and not yet submitted: their name and members.
        groups: members of a submitted group, by the group's long id.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.announced: list[tuple[str, list[Job]]] = []
        self.groups: dict[str, list[Job]] = {}

    def read(self, event: Mapping[str, Any]) -> None:
        run = self.run
        match event.get("event"):
            case None:
                self._message(event["message"])
            case "workflow_started":
                run.host, run.arguments = event["host"], event["arguments"]
            case "group_info":
                self.announced.append((event["group_id"], []))
            case "job_info":
                job = job_of(event)
                if job.number in run.jobs:  # announced once more when it is started again
                    job.attempt = run.jobs[job.number].attempt
                run.jobs[job.number] = job
                if event["indent"]:
                    self.announced[-1][1].append(job)
            case "job_finished":
                self._ends(event["job_id"], DONE)
            case "job_error":
                self._ends(event["jobid"], FAILED)

    def _ends(self, number: int, state: str) -> None:
        if job := self.run.jobs.get(str(number)):
            job.state = state

    def _message(self, words: str) -> None:
        if match := RUN_ID.match(words):
            self.run.slurm_id = match[1]
        elif match := SUBMITTED.match(words):
            for job in self._submitted(match[1], match[3]):
                job.slurm, job.slurm_log = match[2], match[3]
        elif match := AGAIN.match(words):
            for job in self._members(match[1]):
                job.state, job.attempt = WAITING, job.attempt + 1
        elif END.match(words):
            self.run.ended = True

    def _members(self, number: str) -> list[Job]:
        """Return the job of a number, or those of a group's id."""
        if number in self.run.jobs:
            return [self.run.jobs[number]]
        return [self.run.jobs[job.number] for job in self.groups.get(number, [])]

    def _submitted(self, number: str, slurm_log: str) -> list[Job]:
        """Return the jobs of a Slurm job; a group has an id, its log a folder of a telling name."""
        folder = Path(slurm_log).parent.name
        for place, (name, jobs) in enumerate(self.announced):
            if folder == "_".join(["group", name, *sorted({job.rule for job in jobs})]):
                del self.announced[place]
                self.groups[number] = jobs
                return jobs
        return self._members(number)


def runs_here(folder: Path = Path()) -> list[Run]:
    """Return all runs whose logs are in a folder, the last one last; those without jobs too."""
    return [read_run(file) for file in sorted((folder / LOGS).glob("*.snakemake.jsonl"))]
