"""Measure one GPU; a few minutes.

usage: python -m benchmarks.gpu [--miniature] [--repeats 5] [--out benchmarks/results-gpu.md]
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--miniature", action="store_true", help="the same code on a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args(arguments)
    if not options.miniature and not torch.cuda.is_available():
        parser.error("there is no GPU; --miniature runs the same code on a CPU")
    device = torch.device("cpu" if options.miniature else "cuda")
    size = MINIATURE if options.miniature else HALF_BILLION
    with tempfile.TemporaryDirectory() as folder:
        found = figures(size, device, Path(folder), options.repeats)
    missing = [] if is_installed() else ["", "TRL is not installed: no comparison with it."]
    table = ["| what | median (range) | goal | of |", "|---|---|---|---|", *map(line, found)]
    text = "\n".join([heading(device), "", *table, *missing]) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
