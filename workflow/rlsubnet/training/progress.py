"""Progress of a run, as lines that read well in a terminal and in a log file."""

import sys
import time
from collections.abc import Mapping
from typing import Any


def time_left(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    >>> time_left(3725.4), time_left(59.6)
    ('1:02:05', '0:01:00')
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def progress_line(run: str, row: Mapping[str, Any], steps: int, rate: float) -> str:
    """Return one line: step, loss (online: reward), steps per second and time left.

    >>> progress_line("dpo", {"step": 50, "loss": 0.69317}, steps=200, rate=7.5)
    'dpo: step 50/200, loss 0.6932, 7.50 steps/s, 0:00:20 left'
    """
    step, left = row["step"], time_left((steps - row["step"]) / rate)
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
        """Take note of a finished step, and print when it is time to."""
        now, step = time.monotonic(), row["step"]
        due = step % self._every == 0 or step in (self._done + 1, self._steps)
        if due or now - self._printed >= 10:
            rate = (step - self._done) / max(now - self._started, 1e-9)
            line = progress_line(self._run, row, self._steps, rate)
            print(line, file=sys.stderr, flush=True)
            self._printed = now
