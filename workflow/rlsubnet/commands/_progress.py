"""How far a pass is, on a line of stderr."""

import threading
import time
from typing import TextIO

from rlsubnet.checkpoints.differ import ProgressCallback


def progress_text(done: int, total: int, seconds: float) -> str:
    """Return how much is read, how fast, and how long the rest takes at that speed.

    >>> progress_text(3 * 10**9, 12 * 10**9, 1.5)
    '3.0 of 12.0 GB, 2.00 GB/s, 4 s left'
    """
    rate = done / seconds if seconds else 0.0
    left = f"{(total - done) / rate:.0f} s left" if rate else "time left not known"
    return f"{done / 1e9:.1f} of {total / 1e9:.1f} GB, {rate / 1e9:.2f} GB/s, {left}"


class Progress(ProgressCallback):
    """Tells how far a pass is: on a terminal on one line, else (if asked) a line now and then.

    Args:
        total: bytes to read.
        stream: where to tell.
        asked: whether to tell where the stream is no terminal, such as in a log.
    """

    def __init__(self, total: int, stream: TextIO, asked: bool) -> None:
        self._total, self._stream = total, stream
        self._terminal = stream.isatty()
        self._shown = asked or self._terminal
        self._every = 0.2 if self._terminal else 10.0
        self._lock = threading.Lock()
        self._begin = self._last = time.monotonic()
        self._done = 0

    def add(self, nbytes: int) -> None:
        """Count bytes that were read; from any thread."""
        with self._lock:
            self._done += nbytes
            now = time.monotonic()
            if self._shown and now - self._last >= self._every:
                self._last = now
                self._tell()

    def skip(self, nbytes: int) -> None:
        """Take bytes off what is to be read."""
        self._total -= nbytes

    def _tell(self) -> None:
        text = progress_text(self._done, self._total, self._last - self._begin)
        self._stream.write(f"\r{text:<60}" if self._terminal else text + "\n")
        self._stream.flush()

    def note(self, text: str) -> None:
        """Print a line of its own, asked for or not."""
        self._clear()
        self._stream.write(text + "\n")

    def _clear(self) -> None:
        if self._terminal:
            self._stream.write("\r" + " " * 60 + "\r")

    def end(self) -> None:
        """Remove the line from a terminal; tell the whole in a log."""
        self._clear()
        if self._shown and not self._terminal:
            self._last = time.monotonic()
            self._tell()
