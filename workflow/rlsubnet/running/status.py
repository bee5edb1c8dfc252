"""Which tables and figures are done, and what the others wait for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import getmtime
from pathlib import Path
from typing import Any

from rlsubnet.config import Scale
from rlsubnet.config.layout import checkpoint_folder, data_file, item_files, mask_file
from rlsubnet.config.plan import item_needs
from rlsubnet.items import ITEMS, VERDICTS
from rlsubnet.running.runs import DONE, FAILED, RUNNING, WAITING, Job, Queued, Run

INTERRUPTED, MISSING, OUTDATED = "interrupted", "missing", "outdated"
# What is said of an item, the first that holds of any of its jobs.
URGENCY = (FAILED, RUNNING, WAITING, INTERRUPTED)
LINES = 5  # of the log of a failed job


@dataclass
class ItemStatus:
    """A table or figure.

    Its state is ``done``, ``outdated`` (a file it reads is newer), ``failed``, ``running``,
    ``waiting``, ``interrupted`` (its jobs were under way when Snakemake was killed) or ``missing``.
    """

    name: str
    state: str
    files: int  # that it reads and that are there
    of: int  # that it reads
    jobs: list[Job]  # under way or failed, on which it waits


@dataclass(frozen=True)
class Report:
    """Where a scale stands."""

    items: Sequence[ItemStatus]
    run: Run | None  # the last one here, the states of its jobs corrected
    queue: Mapping[str, Queued]  # its jobs that Slurm knows, by number
    queue_error: str  # why Slurm's queue is not known; empty where it is, or is not needed
    alive: bool  # whether its Snakemake is at work on this machine


def item_outputs(scale: Scale, item: str) -> list[Path]:
    return [Path(scale.config["results"], file) for file in ITEMS[item].files.values()]


def item_sources(scale: Scale, item: str) -> set[str]:
    """Return every file and folder that an item waits for: what it reads, and what that is from."""
    needs = item_needs(scale, item)
    for other in ITEMS if item == VERDICTS else ():
        needs |= item_needs(scale, other)
    found = {*item_files(scale, item), *map(str, item_outputs(scale, item))}
    found |= {checkpoint_folder(scale, name) for name in needs.runs | needs.models}
    found |= {data_file(scale, scale.runs[run].data) for run in needs.runs}
    return found | {mask_file(scale, mask) for mask in needs.masks}


def correct_states(run: Run, queue: Mapping[str, Queued], alive: bool) -> None:
    """Correct the states of a run's jobs by what the queue says and whether Snakemake lives.

    Its log alone does not tell a job that runs from one that waits in Slurm's queue, or whose
    Snakemake was killed.
    """
    for job in run.jobs.values():
        if job.state not in (RUNNING, WAITING):
            continue
        if job.slurm in queue:
            job.state = WAITING if queue[job.slurm].state == "PENDING" else RUNNING
        elif not alive:
            job.state = INTERRUPTED


def item_status(scale: Scale, item: str, run: Run | None) -> ItemStatus:
    """Return the state of an item; without a run, as in a fresh clone, times say nothing."""
    jobs = run.jobs.values() if run else ()
    reads = [Path(file) for file in item_files(scale, item)]
    outputs = item_outputs(scale, item)
    there = [path for path in reads if path.exists()]
    sources = item_sources(scale, item)
    open_jobs = [j for j in jobs if j.state in URGENCY and not sources.isdisjoint(j.outputs)]
    if open_jobs:
        state = min((job.state for job in open_jobs), key=URGENCY.index)
    elif len(there) < len(reads) or not all(path.exists() for path in outputs):
        state = MISSING
    elif run and reads and max(map(getmtime, reads)) > min(map(getmtime, outputs)):
        state = OUTDATED
    else:
        state = DONE
    return ItemStatus(item, state, len(there), len(reads), open_jobs)


def all_items(scale: Scale, run: Run | None) -> list[ItemStatus]:
    """Return the state of every item that some row names, and of the verdicts."""
    return [item_status(scale, item, run) for item in ITEMS if item_files(scale, item)]


def words_of(job: Job) -> list[str]:
    """Return the last words of a job: of its own log, else of its Slurm job's."""
    for file in filter(None, (job.log, job.slurm_log)):
        text = Path(file).read_text("utf-8", "replace") if Path(file).is_file() else ""
        if lines := [line.rstrip() for line in text.splitlines() if line.strip()]:
            return lines[-LINES:]
    return []


def described(job: Job, queue: Mapping[str, Queued]) -> str:
    """Return one line about a job.

    >>> job = Job("train", "7", "dpo", state="running", attempt=2, slurm="12")
    >>> described(job, {"12": Queued("12", "id", "RUNNING", "0:34", "n1")})
    'train dpo: running, attempt 2, Slurm job 12, 0:34 on n1'
    """
    parts = [job.state]
    parts += [f"attempt {job.attempt}"] if job.attempt > 1 else []
    parts += [f"Slurm job {job.slurm}"] if job.slurm else []
    if job.slurm in queue:
        found = queue[job.slurm]
        parts.append(f"{found.elapsed} {'on ' if job.state == RUNNING else ''}{found.where}")
    return f"{job.title}: {', '.join(parts)}"


def status_lines(report: Report) -> Iterator[str]:
    items, run = report.items, report.run
    yield f"{'item':<10}{'state':<13}{'reads':>9}  waits for"
    for item in items:
        shown = [f"{job.title} ({job.state})" for job in item.jobs[:3]]
        shown += [f"{len(item.jobs) - 3} more"] if len(item.jobs) > 3 else []
        line = f"{item.name:<10}{item.state:<13}{item.files:>5}/{item.of:<3}  {', '.join(shown)}"
        yield line.rstrip()
    done = sum(item.state == DONE for item in items)
    yield f"{done} of {len(items)} tables and figures are done"
    if run is None:
        yield "no run in this folder"
        return
    yield ""
    finished = sum(job.state == DONE for job in run.jobs.values())
    killed = "under way" if report.alive else "killed: `rlsubnet resume` goes on"
    ending = "ended" if run.ended else killed
    yield f"last run: {run.file}, {finished} of {len(run.jobs)} jobs done, {ending}"
    if report.queue_error:
        yield f"  states are those of Snakemake's log alone: {report.queue_error}"
    for job in run.jobs.values():
        if job.state in URGENCY:
            yield f"  {described(job, report.queue)}"
        if job.state == FAILED:
            yield from (f"    | {line}" for line in words_of(job))
            yield f"    log: {job.log or 'none'}" + (f", {job.slurm_log}" if job.slurm_log else "")


def as_json(report: Report) -> dict[str, Any]:
    """Return the report for programs."""
    items = [
        {
            **{"item": item.name, "state": item.state, "files": item.files, "of": item.of},
            "waits_for": [job.title for job in item.jobs],
        }
        for item in report.items
    ]
    if not (run := report.run):
        return {"items": items, "run": None}
    jobs = run.jobs.values()
    about = {
        "log": str(run.file),
        "ended": run.ended,
        "under_way": report.alive,
        "slurm_answers": not report.queue_error,
        "done": sum(job.state == DONE for job in jobs),
        "jobs": [_job_as_json(job, report.queue) for job in jobs if job.state in URGENCY],
    }
    return {"items": items, "run": about}


def _job_as_json(job: Job, queue: Mapping[str, Queued]) -> dict[str, Any]:
    return {
        **{"rule": job.rule, "wildcards": job.name, "state": job.state, "attempt": job.attempt},
        "slurm_job": job.slurm or None,
        "slurm_state": queue[job.slurm].state if job.slurm in queue else None,
        "log": job.log or None,
        "slurm_log": job.slurm_log or None,
        "last_lines": words_of(job) if job.state == FAILED else [],
    }
