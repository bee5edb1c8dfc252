"""What a run says of itself: metrics, lines of progress, Weights & Biases, and its manifest."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rlsubnet.columns import MetricsRow, OnlineMetricsRow, names
from rlsubnet.config.model import Row

# A cell is empty where it is not defined.
METRICS, ONLINE_METRICS = names(MetricsRow), names(OnlineMetricsRow)


def metrics_row(columns: Sequence[str] = METRICS, /, **values: float | None) -> dict[str, Any]:
    """Return one row of the metrics, floats with 7 significant digits, None as an empty cell."""
    if unknown := sorted(set(values) - set(columns)):
        raise ValueError(f"metrics: unknown columns {unknown}; known: {', '.join(columns)}")
    row: dict[str, Any] = dict.fromkeys(columns, "")
    for column, value in values.items():
        if value is not None:
            row[column] = float(f"{value:.7g}") if isinstance(value, float) else value
    return row


@contextmanager
def wandb_logging(row: Row, folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield what logs one row of the metrics to Weights & Biases."""
    mode: Any = row.wandb.get("mode", "disabled")
    if mode == "disabled":
        yield lambda metrics: None
        return
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    project = row.wandb.get("project", "rlsubnet")
    with wandb.init(
        mode=mode, project=project, name=row.run, config=row.as_dict(), dir=folder
    ) as session:

        def log(metrics: Mapping[str, Any]) -> None:
            defined = {key: value for key, value in metrics.items() if value != ""}
            session.log(defined, step=metrics["step"])

        yield log


def git_commit() -> str | None:
    """Return the commit of the checkout this package is part of.

    A copy of the files alone cannot know it: there it is what the variable ``RLSUBNET_COMMIT``
    says, else None.
    """
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(here.parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    # An installed package may lie inside some other repository: there it is not tracked.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return os.environ.get("RLSUBNET_COMMIT") or None
    return git("rev-parse", "HEAD")


def progress_line(run: str, row: Mapping[str, Any], steps: int, rate: float) -> str:
    """Return one line: step, loss (online: reward), steps per second and time left.

    >>> progress_line("dpo", {"step": 50, "loss": 0.69317}, steps=200, rate=7.5)
    'dpo: step 50/200, loss 0.6932, 7.50 steps/s, 0:00:20 left'
    """
    step = row["step"]
    left = timedelta(seconds=round((steps - step) / rate))
    # Of an online run the loss says nothing: it is near 0 in each step.
    online = "response_length" in row
    shown = f"reward {row['reward']:.3f}" if online else f"loss {row['loss']:.4f}"
    return f"{run}: step {step}/{steps}, {shown}, {rate:.2f} steps/s, {left} left"


class Progress:
    """Prints to stderr at the first and last step, every 5 % and at least every 10 seconds."""

    def __init__(self, run: str, steps: int, done: int) -> None:
        self._run, self._steps, self._done = run, steps, done
        self._every = max(1, steps // 20)
        self._started = self._printed = time.monotonic()
        if done:
            print(f"{run}: resumed after step {done} of {steps}", file=sys.stderr, flush=True)

    def report(self, row: Mapping[str, Any]) -> None:
        now, step = time.monotonic(), row["step"]
        due = step % self._every == 0 or step in (self._done + 1, self._steps)
        if due or now - self._printed >= 10:
            rate = (step - self._done) / max(now - self._started, 1e-9)
            line = progress_line(self._run, row, self._steps, rate)
            print(line, file=sys.stderr, flush=True)
            self._printed = now
