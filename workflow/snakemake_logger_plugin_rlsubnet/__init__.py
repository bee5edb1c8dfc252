"""Snakemake's ``--logger rlsubnet``: what happens in a run, as JSON lines beside its own log.

``profiles/default`` asks for it in every run of this folder; `rlsubnet.running.runs` reads the
lines. With ``--logger-rlsubnet-progress CONFIG`` it prints a line for each job that starts or ends,
with the time left, instead of Snakemake's own words. Snakemake finds the package by its name.
"""

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

if TYPE_CHECKING:
    from rlsubnet.running.progress import JobLines

# Of each event what `runs` and `progress` read; what is only said is a message.
FIELDS = {
    "message": ("msg",),
    "workflow_started": ("host",),
    "resources_info": ("cores",),
    "run_info": ("stats",),
    "job_info": ("jobid", "rule_name", "wildcards", "output", "log", "indent"),
    "group_info": ("group_id",),
    "job_error": ("jobid",),
    "job_finished": ("job_id",),
    "progress": ("done", "total"),
}


def event_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record says: its time, the kind of event, and fields of that kind."""
    kind = str(getattr(record, "event", "message"))
    found = {name: getattr(record, name) for name in FIELDS.get(kind, ()) if hasattr(record, name)}
    if kind == "workflow_started":
        found["arguments"] = sys.argv[1:]
    return {"time": record.created, "event": kind, **found}


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """What the command line may say."""

    progress: str | None = field(
        default=None, metadata={"help": "config whose runs tell the time left", "type": str}
    )


class LogHandler(LogHandlerBase):
    """Writes the lines, and prints those that follow the jobs."""

    settings: LogHandlerSettings
    has_filter = True  # none: the file is whole, whatever --quiet says
    has_formatter = needs_rulegraph = writes_to_file = False

    def __post_init__(self) -> None:
        self.file: TextIO | None = None
        self.jobs: JobLines | None = None
        if self.settings.progress and not self.common_settings.dryrun:
            from rlsubnet.running import progress

            self.jobs = progress.JobLines(progress.time_left(self.settings.progress))

    @property
    def writes_to_stream(self) -> bool:
        return self.jobs is not None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = event_of(record)
            self._write(event)
            if self.jobs:
                lines = self.jobs.lines(event)
                for line in lines if record.levelno <= logging.INFO else [self.format(record)]:
                    print(line, flush=True)
        except Exception:
            self.handleError(record)

    def _write(self, event: dict[str, Any]) -> None:
        """Write a line into the file beside Snakemake's own log; a dry run has none."""
        if event["event"] == "workflow_started":
            for handler in logging.getLogger("snakemake.logging").handlers:
                if isinstance(handler, logging.FileHandler):
                    self.file = Path(handler.baseFilename).with_suffix(".jsonl").open("w")
        if self.file:
            print(json.dumps(event), file=self.file, flush=True)
