"""A line for each job that starts or ends, with how long the rest of the run takes.

The time left comes from usual durations, corrected by those seen so far. No clock in here: events
(`rlsubnet.running.runs`) have their times.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rlsubnet.config import Scale, SheetError, load_config, load_scale
from rlsubnet.config.model import Recipe
from rlsubnet.config.read import read_yaml

SECONDS = read_yaml(Path(__file__).with_name("seconds.yaml"))
# Rules that train: with saved steps, a run has one output more.
TRAIN = ("train", "train_with_steps")
# What is measured counts beside usual seconds, so that the first short jobs say little and a long
# training most: beside this share of all that is planned, at most so many seconds.
USUAL_SHARE, USUAL_SECONDS = 0.1, 30.0


class Expected(NamedTuple):
    """A job: its usual seconds, and whether most runs wait for it."""

    seconds: float
    serial: bool = False


UNKNOWN = Expected(SECONDS["unknown"])


def training(algorithm: str, steps: int, serial: bool = False) -> Expected:
    """Return what is expected of a run.

    >>> training("dpo", 200)
    Expected(seconds=23.0, serial=False)
    """
    return Expected(SECONDS["start"] + steps * SECONDS["steps"].get(algorithm, 0.1), serial)


def usual(rule: str) -> Expected:
    """Return what is expected of a job that trains nothing.

    >>> [usual(rule).seconds for rule in ("evaluate", "fig1", "no_such_rule")]
    [7.5, 1.5, 1]
    """
    drawn = SECONDS["figure" if rule.startswith("fig") else "table"]
    return Expected(SECONDS["rules"].get(rule, drawn))


@dataclass
class TimeLeft:
    """Jobs planned, under way and ended; times are seconds on any one clock."""

    trainings: Mapping[str, Expected] = field(default_factory=dict)  # of runs not there yet
    cores: int = 1  # jobs that run side by side
    waiting: Counter[str] = field(default_factory=Counter)  # planned jobs of each rule, not started
    _running: dict[int, tuple[Expected, float]] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)
    _taken: float = 0.0  # by the jobs that have ended
    _usual: float = 0.0  # seconds of the same jobs

    def start(self, job: int, rule: str, name: str, now: float) -> None:
        """Note that a job of a rule starts; ``name`` is its wildcards' value."""
        if rule in TRAIN:
            self._running[job] = self.trainings.get(name, UNKNOWN), now
            self._begun.add(name)
        else:
            self._running[job] = usual(rule), now
        self.waiting[rule] = max(0, self.waiting[rule] - 1)

    def finish(self, job: int, now: float) -> float:
        """Note that a job has ended and return how long it took, 0 where its start is unknown."""
        if job not in self._running:
            return 0.0
        expected, begun = self._running.pop(job)
        self._taken += now - begun
        self._usual += expected.seconds
        return now - begun

    def seconds(self, now: float) -> float | None:
        """Return the seconds left, or None where nothing planned is left or known.

        Runs that most others wait for come one after another, all other work fills the cores.

        >>> left = TimeLeft(cores=2, waiting=Counter(evaluate=4))
        >>> left.seconds(0.0)  # four times 7.5 s on two cores
        15.0
        """
        waiting = self._waiting_trainings()
        for rule, count in self.waiting.items():
            waiting += [usual(rule)] * count if rule not in TRAIN else []
        planned = [*waiting, *(job for job, _ in self._running.values())]
        known = sum(job.seconds for job in planned) + self._usual
        prior = min(USUAL_SECONDS, USUAL_SHARE * known)
        slower = (self._taken + prior) / (self._usual + prior) if prior else 1.0
        rests = [(job, job.seconds * slower) for job in waiting]
        longest = 0.0
        for job, begun in self._running.values():
            guess = job.seconds * slower
            # A job that takes longer than thought goes on for a while, never for less than nothing.
            rests.append((job, max(guess - (now - begun), guess / 10)))
            longest = longest if job.serial else max(longest, rests[-1][1])
        serial = sum(rest for job, rest in rests if job.serial)
        spread = sum(rest for job, rest in rests if not job.serial)
        return serial + max(spread / max(self.cores, 1), longest) or None

    def _waiting_trainings(self) -> list[Expected]:
        """Return as many trainings as are planned and have not started.

        Snakemake says how many, not which: where more are expected, each is their mean.
        """
        count = sum(self.waiting[rule] for rule in TRAIN)
        left = [run for name, run in self.trainings.items() if name not in self._begun]
        if len(left) == count:
            return left
        return [Expected(fmean([run.seconds for run in left] or [UNKNOWN.seconds]))] * count


def in_words(seconds: float | None) -> str:
    """Return a time left in words, or nothing where it is not known.

    >>> in_words(530), in_words(89), in_words(4), in_words(None)
    ('about 9 min left', 'about 90 s left', 'about 10 s left', '')
    """
    if seconds is None:
        return ""
    if seconds < 95:
        return f"about {max(10, 10 * round(seconds / 10))} s left"
    return f"about {round(seconds / 60)} min left"


def expected_trainings(scale: Scale, there: Container[str] = ()) -> dict[str, Expected]:
    """Return what is expected of each run of a scale that is not ``there`` yet.

    A run that at least half of the others start from, directly or not, is one they wait for.
    """
    waiting = Counter(start for name in scale.runs for start in _starts(scale, name))
    found = {}
    for name, run in scale.runs.items():
        recipe = scale.recipe(name)
        assert isinstance(recipe, Recipe), "the demo trains with our own trainer"
        serial = 2 * waiting[name] >= max(len(scale.runs) - 1, 1)
        found[name] = training(run.algorithm, recipe.steps, serial)
    return {name: run for name, run in found.items() if name not in there}


def _starts(scale: Scale, name: str) -> Iterator[str]:
    while (name := scale.runs[name].init) in scale.runs:
        yield name


def time_left(config: str) -> TimeLeft:
    """Return an estimate that knows a scale's runs; what is wrong in a sheet Snakemake says."""
    try:
        scale = load_scale(load_config([config]))
    except (SheetError, OSError):
        return TimeLeft()
    runs = Path(scale.config["work"]) / "runs"
    return TimeLeft(expected_trainings(scale, {p.parent.name for p in runs.glob("*/final")}))


def clock(seconds: float) -> str:
    """Return minutes and seconds.

    >>> clock(83.4)
    '1:23'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# What Snakemake says on the way and tells nobody who follows the jobs.
CHATTER = (
    *("Using ", "Assuming ", "Conda environments", "Building DAG", "Select jobs", "Touching "),
    *("Config file ", "Complete log", "Elapsed time", "Group jobs"),
)


class JobLines:
    """Makes lines of events.

    >>> jobs = JobLines(TimeLeft())
    >>> started = {"event": "job_info", "jobid": 2, "rule_name": "train"}
    >>> list(jobs.lines({"time": 5.0, **started, "wildcards": {"run": "dpo"}}))
    ['  0:00           train dpo ...']
    >>> list(jobs.lines({"time": 9.0, "event": "job_finished", "job_id": 2}))
    []
    >>> list(jobs.lines({"time": 9.0, "event": "progress", "done": 1, "total": 9}))
    ['  0:04  [  1/9]  train dpo: done in 0:04']
    """

    def __init__(self, left: TimeLeft) -> None:
        self.left = left
        self.started: float | None = None
        self.names: dict[int, str] = {}
        self.ended = ("", 0.0)  # the last job: its name, and how long it took

    def lines(self, event: Mapping[str, Any]) -> Iterator[str]:
        """Yield what an event is worth: a job that starts or has ended, words of Snakemake's."""
        self.started = event["time"] if self.started is None else self.started
        now, left = event["time"] - self.started, self.left
        match event["event"]:
            case "message" if not event["msg"].startswith(CHATTER):
                yield event["msg"]
            case "resources_info":
                left.cores = event.get("cores", left.cores)
            case "run_info":
                left.waiting = Counter({**event["stats"], "total": 0})
            case "job_info":
                job, rule, name = event["jobid"], event["rule_name"], event["wildcards"].values()
                self.names[job] = " ".join([rule, "".join(name)]).rstrip()
                left.start(job, rule, "".join(name), now)
                if rule not in ("all", "tables", "figures"):
                    yield f"{clock(now):>6}           {self.names[job]} ..."
            case "job_finished":
                job = event["job_id"]
                self.ended = self.names.get(job, ""), left.finish(job, now)
            case "progress":
                count = f"[{event['done']:>3}/{event['total']}]"
                words = in_words(left.seconds(now))
                words = f"{words:<18} " if words else ""
                name, took = self.ended
                yield f"{clock(now):>6}  {count}  {words}{name}: done in {clock(took)}"
