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
    lines = [heading(device), "", "| what | median (range) | goal | of |", "|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # A fault in one of them does not take along what was measured before it.
        for found in figures(size, device, Path(folder), options.repeats):
            lines.append(line(found))
            print(lines[-1], flush=True)
    end = [f"{name} is not installed: no comparison with it." for name in missing()]
    print("\n".join(["", *end]), flush=True)
    if options.out:
        options.out.write_text("\n".join([*lines, "", *end]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
