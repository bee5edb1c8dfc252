"""What the logger of a run wrote: its command, its jobs, and whether it ended."""

import json
import re
from collections.abc import Mapping
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

    @property
    def title(self) -> str:
        """Return rule and wildcards."""
        return f"{self.rule} {self.name}".rstrip()


# What there is no event for, only words.
RUN_ID = re.compile(r"SLURM run ID: (\S+)")
SUBMITTED = re.compile(r"Job (\S+) has been submitted with SLURM jobid (\d+) \(log: (.*)\)")
AGAIN = re.compile(r"Trying to restart job (\S+?)\.?$")
END = "Complete log"


@dataclass
class Run:
    """One call of Snakemake.

    Attributes:
        file: Snakemake's own log of it.
        host: where it was started.
        arguments: its command line.
        slurm_id: the name of all its Slurm jobs, or empty.
        jobs: by number; those that share a Slurm job have the same ``slurm``.
        ended: whether it came to an end by itself.
        announced: groups that were announced and not yet submitted: their name and members.
        groups: members of a submitted group, by the group's long id.
    """

    file: Path
    host: str = ""
    arguments: list[str] = field(default_factory=list)
    slurm_id: str = ""
    jobs: dict[str, Job] = field(default_factory=dict)
    ended: bool = False
    announced: list[tuple[str, list[Job]]] = field(default_factory=list, repr=False)
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
    """Return what the events of one run say; the last line of a killed one may be cut off.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "a.jsonl")
    >>> started = {"event": "workflow_started", "host": "login1", "arguments": ["--cores", "2"]}
    >>> job = {"event": "job_info", "jobid": 7, "rule_name": "train", "wildcards": {"run": "dpo"}}
    >>> job |= {"output": ["a/final"], "log": [], "indent": False}
    >>> file.write_text(json.dumps(started) + "\\n" + json.dumps(job) + "\\n" + '{"eve') > 0
    True
    >>> run = read_run(file)
    >>> run.host, run.arguments, run.ended
    ('login1', ['--cores', '2'], False)
    >>> run.jobs["7"]  # doctest: +NORMALIZE_WHITESPACE
    Job(rule='train', number='7', name='dpo', outputs=('a/final',), log='',
        state='running', attempt=1, slurm='', slurm_log='')
    """
    run = Run(file.with_suffix(".log"))
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            if line.endswith("\n"):
                run.add(json.loads(line))
    return run


def runs_here(folder: Path = Path()) -> list[Run]:
    """Return all runs whose logs are in a folder, the last one last; those without jobs too."""
    return [read_run(file) for file in sorted((folder / LOGS).glob("*.snakemake.jsonl"))]


def unknown_run(folder: Path = Path()) -> Path | None:
    """Return the log of the last run, if that was started without the logger."""
    logs = sorted((folder / LOGS).glob("*.snakemake.log"))
    runs = [log for log in logs if "\n  Command: " in log.read_text(errors="replace")]
    return runs[-1] if runs and not runs[-1].with_suffix(".jsonl").exists() else None
