"""Overlaps of packed masks against numpy booleans: in memory, and as a command."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, ratio
from benchmarks.pairs import SIZES, make_pair
from benchmarks.process import Cost, run

NUMBA_GOAL, MEMORY_GOAL = 50.0, 8.0


def in_memory(repeats: int) -> list[Figure]:
    """Compare the counting alone, in one process."""
    command = [sys.executable, "-m", "benchmarks.overlap_speed", str(repeats)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    cpu = {way: [seconds[1] for seconds in pairs] for way, pairs in found["seconds"].items()}
    figures = []
    for theirs in ("booleans, sum", "booleans, count_nonzero"):
        for kernel in ("numba", "numpy"):
            goal = NUMBA_GOAL if (kernel, theirs) == ("numba", "booleans, sum") else None
            what = f"sizes and overlap of two masks in memory, CPU seconds, {kernel} kernel"
            figures.append(ratio(what, cpu[kernel], cpu[theirs], "s", ("packed", theirs), goal))
    sizes = [found["nbytes"][form] / 1e6 for form in ("packed", "booleans")]
    what = "memory of two masks of 2^28 weights"
    names = ("packed", "booleans")
    return [*figures, ratio(what, sizes[:1], sizes[1:], "MB", names, MEMORY_GOAL)]


def commands(folder: Path, repeats: int) -> list[Figure]:
    """Compare whole processes on mask files of a 1B pair."""
    sides = [str(side) for side in make_pair(folder / "1B", SIZES["1B"])]
    theirs: list[Cost] = []
    ours: dict[str, list[Cost]] = {"": [], " with the null by magnitude": []}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        masks = [f"{scratch}/{name}" for name in ("bitwise", "official")]
        for mask, options in zip(
            masks, ([], ["--rule", "official", "--atol", "1e-6"]), strict=True
        ):
            run("rlsubnet.cli", ["mask", *sides, *options, "--out", mask])
        for _ in range(repeats):
            theirs.append(run("benchmarks.boolean_overlap", masks))
            ours[""].append(run("rlsubnet.cli", ["overlap", *masks]))
            with_init = ["overlap", *masks, "--init", sides[0]]
            ours[" with the null by magnitude"].append(run("rlsubnet.cli", with_init))
    figures = []
    for what, costs in ours.items():
        for kind, label, unit in (("cpu", "CPU seconds", "s"), ("peak", "peak memory", "MB")):
            figures.append(
                ratio(
                    f"whole command{what}, {label}, masks of a 1B pair",
                    [getattr(cost, kind) for cost in costs],
                    [getattr(cost, kind) for cost in theirs],
                    unit,
                    ("rlsubnet overlap", "booleans without any null"),
                )
            )
    return figures


def figures(folder: Path, repeats: int) -> Iterator[Figure]:
    """Yield all figures of the overlap."""
    yield from in_memory(repeats)
    yield from commands(folder, max(repeats // 2, 1))
