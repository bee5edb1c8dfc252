"""What Snakemake's own log says about a run: its command, its jobs, and whether it ended."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

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
    """One call of Snakemake, as far as its log goes.

    Attributes:
        file: the log.
        host: where it was started, or empty.
        arguments: what it was told; quotes are lost, so that a value with a space is in pieces.
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


HEADER = re.compile(r"(?:  (Host|Command)|(SLURM run ID)): (.*)$")
RULE = re.compile(r"\s*(?:local)?rule (\w+):$")
KEY = re.compile(r"\s+(output|log|jobid|wildcards): (.*)$")
GROUP = re.compile(r".*Group job (\w+) \(jobs in lexicogr")
SUBMITTED = re.compile(r"Job (\S+) has been submitted with SLURM jobid (\d+) \(log: (.*)\)")
FINISHED = re.compile(r"Finished jobid: (\d+)")
# Of a group that failed its jobs are named; then each is said to have failed.
ERROR = re.compile(r"\s*(?:\[.*\] )?Error in rule |    jobs:$")
AGAIN = re.compile(r"Trying to restart job (\S+?)\.?$")
ECHO, FRAME = re.compile(r"Logfile .*:$"), re.compile(r"={9,}$")


def read_run(file: Path) -> Run:
    """Return what one log says."""
    with file.open(encoding="utf-8", errors="replace") as stream:
        return parse_run(file, stream)


def parse_run(file: Path, lines: Iterable[str]) -> Run:
    """Return what the lines of a log say.

    >>> run = parse_run(Path("log"), ["  Host: login1", "  Command: bin/snakemake --cores 2",
    ...     "SLURM run ID: 5e-7", "rule train:", "    output: a/final, a.csv", "    jobid: 7",
    ...     "    wildcards: run=dpo", "Job 7 has been submitted with SLURM jobid 12 (log: s.log)."])
    >>> run.host, run.arguments, run.slurm_id, run.ended
    ('login1', ['--cores', '2'], '5e-7', False)
    >>> run.jobs["7"]  # doctest: +NORMALIZE_WHITESPACE
    Job(rule='train', number='7', name='dpo', outputs=('a/final', 'a.csv'), log='',
        state='running', attempt=1, slurm='12', slurm_log='s.log')
    """
    reader = _Reader(Run(file))
    for line in lines:
        reader.read(line.rstrip())
    return reader.run


class _Reader:
    """Takes one line after the other.

    Attributes:
        run: what was read.
        job: the one that is being announced.
        failing: whether the jobs that are being named are those that failed.
        announced: groups that were announced and not yet submitted: their name and members.
        groups: members of a submitted group, by the group's long id.
        named: whether the last line named a log that is repeated now.
        frames: the lines that close the repeated logs, the innermost last.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.job: Job | None = None
        self.failing = False
        self.announced: list[tuple[str, list[Job]]] = []
        self.groups: dict[str, list[Job]] = {}
        self.named = False
        self.frames: list[str] = []

    def _is_echo(self, line: str) -> bool:
        """Return whether a line is of the log of a failed job, which may be a Snakemake's, too."""
        if self.named and FRAME.match(line):
            self.frames.append(line)
            self.named = False
            return True
        if self.frames and line == self.frames[-1]:
            self.frames.pop()
            return True
        self.named = bool(ECHO.match(line))
        return bool(self.frames)

    def read(self, line: str) -> None:
        """Take a line."""
        if self._is_echo(line):
            return
        if match := HEADER.match(line):
            self._header(match[1] or match[2], match[3])
        elif match := GROUP.match(line):
            self.announced.append((match[1], []))
            self.job, self.failing = None, False
        elif ERROR.match(line):
            self.job, self.failing = None, True
        elif match := RULE.match(line):
            # Of a failing group the members are announced once more.
            self.job = None if self.failing and line.startswith(" ") else Job(match[1])
            self.failing = self.failing and self.job is None
        elif match := KEY.match(line):
            self._key(match[1], match[2], in_group=line.startswith("        "))
        elif match := SUBMITTED.match(line):
            for job in self._submitted(match[1], match[3]):
                job.slurm, job.slurm_log = match[2], match[3]
        elif (match := FINISHED.match(line)) and match[1] in self.run.jobs:
            self.run.jobs[match[1]].state = DONE
        elif match := AGAIN.match(line):
            for job in self._members(match[1]):
                job.state, job.attempt = WAITING, job.attempt + 1
        elif line.startswith("Complete log"):
            self.run.ended = True

    def _header(self, key: str, value: str) -> None:
        if key == "Host":
            self.run.host = value
        elif key == "Command":
            self.run.arguments = value.split()[1:]
        else:
            self.run.slurm_id = value

    def _key(self, key: str, value: str, in_group: bool) -> None:
        if self.failing:
            if key == "jobid" and value in self.run.jobs:
                self.run.jobs[value].state = FAILED
        elif self.job is None:
            return
        elif key == "output":
            self.job.outputs = tuple(value.split(", "))
        elif key == "log":
            self.job.log = value.split(", ")[0]
        elif key == "wildcards":
            self.job.name = "".join(part.split("=", 1)[-1] for part in value.split(", "))
        else:
            self._numbered(self.job, value, in_group)

    def _numbered(self, job: Job, number: str, in_group: bool) -> None:
        job.number = number
        if number in self.run.jobs:  # announced once more when it is started again
            job.attempt = self.run.jobs[number].attempt
        self.run.jobs[number] = job
        if in_group and self.announced:
            self.announced[-1][1].append(job)

    def _members(self, number: str) -> list[Job]:
        """Return the job of a number, or those of a group's id."""
        if number in self.run.jobs:
            return [self.run.jobs[number]]
        return [self.run.jobs[job.number] for job in self.groups.get(number, [])]

    def _submitted(self, number: str, slurm_log: str) -> list[Job]:
        """Return the jobs of a Slurm job; a group has an id, its log a folder of a telling name."""
        if number in self.run.jobs:
            return [self.run.jobs[number]]
        folder = Path(slurm_log).parent.name
        for place, (name, jobs) in enumerate(self.announced):
            if folder == "_".join(["group", name, *sorted({job.rule for job in jobs})]):
                del self.announced[place]
                self.groups[number] = jobs
                return jobs
        return []


def runs_here(folder: Path = Path()) -> list[Run]:
    """Return all runs whose logs are in a folder, the last one last; those without jobs too."""
    return [read_run(file) for file in sorted((folder / LOGS).glob("*.snakemake.log"))]
