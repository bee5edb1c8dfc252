"""Measure one GPU; a few minutes.

usage: python -m benchmarks.gpu [--miniature] [--repeats 5] [--out benchmarks/results-gpu.md]
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.__main__ import COLUMNS
from benchmarks.figure import line
from benchmarks.gpu.everything import figures
from benchmarks.gpu.size import HALF_BILLION, MINIATURE
from benchmarks.gpu.trl_steps import is_installed

NO_GPU = (
    "**No GPU: a model of some ten thousand weights on a CPU. These are not figures of a GPU.**"
)


def heading(device: torch.device) -> str:
    """Return what was measured, in one line."""
    where = NO_GPU if device.type != "cuda" else torch.cuda.get_device_name(device)
    return f"{time.strftime('%Y-%m-%d')}, torch {torch.__version__}: {where}"


def missing() -> list[str]:
    """Return what is measured beside this project's own way, and is not installed."""
    there = {"TRL": is_installed(), "vLLM": find_spec("vllm") is not None}
    return [name for name, found in there.items() if not found]


class Page:
    """Prints lines and writes them as they come: no fault takes along what came before it."""

    def __init__(self, out: Path | None) -> None:
        self._file = out.open("w", encoding="utf-8") if out else None

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *fault: object) -> None:
        if self._file:
            self._file.close()

    def write(self, *lines: str) -> None:
        """Print lines and add them to the file."""
        text = "\n".join(lines)
        print(text, flush=True)
        if self._file:
            print(text, file=self._file, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--miniature", action="store_true", help="the same code on a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="Markdown file, written line by line")
    options = parser.parse_args(arguments)
    if not options.miniature and not torch.cuda.is_available():
        parser.error("there is no GPU; --miniature runs the same code on a CPU")
    device = torch.device("cpu" if options.miniature else "cuda")
    size = MINIATURE if options.miniature else HALF_BILLION
    with tempfile.TemporaryDirectory() as folder, Page(options.out) as page:
        page.write(heading(device), "", *COLUMNS)
        for found in figures(size, device, Path(folder), options.repeats):
            page.write(line(found))
        page.write("", *(f"{name} is not installed: no comparison with it." for name in missing()))


if __name__ == "__main__":
    main()
