"""What verl logs of every step, in a file of its own, line by line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verl.utils import tracking


def log_path() -> Path:
    """Return the log's path, in any process of Ray; it lies in the run's own folder."""
    return Path(os.environ["VERL_FILE_LOGGER_PATH"])


class StepLog(tracking.FileLogger):
    """verl's logger ``file``, which fails at numbers in tensors and writes at the very end.

    Lines of a run that is resumed are added to those that are there.
    """

    def __init__(self, project_name: str, experiment_name: str) -> None:
        self._path = log_path()

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Write one step."""
        line = {"step": step, "data": {name: float(value) for name, value in data.items()}}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def finish(self) -> None:
        """Do nothing: no file is open between two steps."""


def use_step_log() -> None:
    """Let verl's loops, which name the logger themselves, take this one."""
    tracking.FileLogger = StepLog
