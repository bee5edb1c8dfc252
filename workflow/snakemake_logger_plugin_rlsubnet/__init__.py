"""Snakemake's ``--logger rlsubnet``: what happens in a run, as JSON lines beside its own log.

``profiles/default`` asks for it in every run of this folder; `rlsubnet.running.run_log` reads the
lines. With ``--logger-rlsubnet-progress CONFIG`` it prints a line for each job that starts or ends,
with the time left, instead of Snakemake's own words. Snakemake finds the package by its name.
"""

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

# Of each event what `run_log` and `progress` read.
FIELDS = {
    "workflow_started": ("host",),
    "resources_info": ("cores",),
    "run_info": ("stats",),
    "job_info": ("jobid", "rule_name", "wildcards", "output", "log", "indent"),
    "group_info": ("group_id",),
    "job_error": ("jobid",),
    "job_finished": ("job_id",),
    "progress": ("done", "total"),
}
# What Snakemake says on the way and tells nobody who follows the jobs.
CHATTER = (
    *(
        "Using ",
        "Assuming ",
        "Conda environments",
        "Building DAG",
        "Select jobs",
        "Touching output",
    ),
    *("Config file ", "Complete log", "Elapsed time", "Group jobs"),
)


def event_of(record: logging.LogRecord) -> dict[str, Any] | None:
    """Return what a record says: a time, and an event with its fields or a plain message."""
    kind = getattr(record, "event", None)
    if kind is None:
        return {"time": record.created, "message": record.getMessage()}
    if kind not in FIELDS:
        return None
    found = {name: getattr(record, name) for name in FIELDS[kind] if hasattr(record, name)}
    if kind == "workflow_started":
        found["arguments"] = sys.argv[1:]
    return {"time": record.created, "event": str(kind), **found}


def is_for_all(event: Mapping[str, Any] | None) -> bool:
    """Return whether a message is for those, too, who follow the jobs alone."""
    return bool(event and "message" in event and not event["message"].startswith(CHATTER))


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """What the command line may say."""

    progress: str | None = field(
        default=None,
        metadata={"help": "config whose runs' usual durations tell the time left", "type": str},
    )


class LogHandler(LogHandlerBase):
    """Writes the lines, and prints those that follow the jobs."""

    has_filter = True  # none: the file is to be whole, whatever --quiet says
    has_formatter = False
    needs_rulegraph = False
    writes_to_file = False

    def __post_init__(self) -> None:
        self.file: TextIO | None = None
        self.jobs = None
        if self.writes_to_stream:
            from rlsubnet.running.progress import JobLines, time_left

            self.jobs = JobLines(time_left(self.settings.progress))

    @property
    def writes_to_stream(self) -> bool:
        """Return whether it takes the place of Snakemake's own words."""
        return bool(self.settings and self.settings.progress) and not self.common_settings.dryrun

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record."""
        try:
            event = event_of(record)
            if event:
                self._write(event)
            if self.jobs:
                for line in self.jobs.lines(event) if event else ():
                    print(line, flush=True)
                if record.levelno > logging.INFO or is_for_all(event):
                    print(self.format(record), flush=True)
        except Exception:
            self.handleError(record)

    def _write(self, event: dict[str, Any]) -> None:
        if event.get("event") == "workflow_started":
            self.file = self._open()
        if self.file:
            self.file.write(json.dumps(event) + "\n")
            self.file.flush()

    @staticmethod
    def _open() -> TextIO | None:
        """Return the file beside Snakemake's own log, None where it writes none (a dry run)."""
        for handler in logging.getLogger("snakemake.logging").handlers:
            if isinstance(handler, logging.FileHandler):
                return Path(handler.baseFilename).with_suffix(".jsonl").open("a", encoding="utf-8")
        return None

    def close(self) -> None:
        """Close the file."""
        if self.file:
            self.file.close()
        super().close()
