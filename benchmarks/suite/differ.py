"""The differ against the authors' way, against a plain read, and its memory at two sizes."""

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, ratio, spread
from benchmarks.pairs import SIZES, make_pair
from benchmarks.pass_speed import TOLERANCES
from benchmarks.process import Cost, run

ASKED = [repr(atol) for atol in TOLERANCES]
OURS, THEIRS = "rlsubnet", "authors' way"


def _ours(sides: tuple[Path, Path], out: Path, *options: str) -> Cost:
    files = [str(side) for side in sides]
    return run(
        "rlsubnet.cli", ["updates", *files, "--tolerances", *ASKED, "--out", str(out), *options]
    )


def _theirs(sides: tuple[Path, Path], out: Path) -> Cost:
    return run("benchmarks.authors_way", [*map(str, sides), str(out), *ASKED])


def _gigabytes(sides: tuple[Path, Path]) -> float:
    return sum(file.stat().st_size for side in sides for file in side.iterdir()) / 1e9


def differing_counts(ours: Path, theirs: Path) -> tuple[int, int]:
    """Return how many integers of the two ways differ, and how many there are.

    Raises:
        ValueError: they do not speak about the same tensors.
    """
    with ours.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["rule"] == "official"]
    expected = json.loads(theirs.read_text())
    found = {(row["tensor"], row["atol"]): int(row["unchanged"]) for row in rows}
    wanted = {(name, atol): n for name, counts in expected.items() for atol, n in counts.items()}
    if found.keys() != wanted.keys():
        raise ValueError(f"{ours} and {theirs}: not the same tensors and tolerances")
    return sum(found[key] != wanted[key] for key in wanted), len(wanted)


def whole_process(folder: Path, repeats: int) -> list[Figure]:
    """Compare whole processes at 0.25B, in turn, and the counts that they write."""
    sides = make_pair(folder / "0.25B", SIZES["0.25B"])
    figures = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        out, counts = Path(scratch, "ours.csv"), Path(scratch, "theirs.json")
        _ours(sides, out)  # warms the page cache
        mask = str(Path(scratch, "mask"))
        theirs, ours, masked = [], [], []
        for _ in range(repeats):
            theirs.append(_theirs(sides, counts))
            ours.append(_ours(sides, out))
            masked.append(_ours(sides, out, "--mask", mask))
        wrong, compared = differing_counts(out, counts)
    size = f"0.25B pair ({_gigabytes(sides):.2f} GB)"
    for what, kind, goal in (("CPU seconds", "cpu", 20.0), ("wall time", "wall", 10.0)):
        for label, mine, bound in (("", ours, goal), (", with mask and digests", masked, None)):
            figures.append(
                ratio(
                    f"whole process, {what}, {size}{label}",
                    [getattr(cost, kind) for cost in mine],
                    [getattr(cost, kind) for cost in theirs],
                    "s",
                    (OURS, THEIRS),
                    bound,
                )
            )
    figures.append(
        ratio(
            f"whole process, peak memory, {size}",
            [cost.peak for cost in ours],
            [cost.peak for cost in theirs],
            "MB",
            (OURS, THEIRS),
        )
    )
    figures.append(
        Figure(
            f"counts that differ from torch.isclose, of {compared}", (wrong,), "", 0, at_least=False
        )
    )
    return figures


def memory(folder: Path, repeats: int) -> list[Figure]:
    """Compare the peak of the compiled kernel at 0.25B and 1B."""
    small, large = (make_pair(folder / name, SIZES[name]) for name in ("0.25B", "1B"))
    peaks: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for _ in range(repeats):
            costs = [
                _ours(sides, Path(scratch, "u.csv"), "--kernel", "numba")
                for sides in (small, large)
            ]
            peaks.append((costs[0].peak, costs[1].peak))
    at_small, at_large = zip(*peaks, strict=True)
    growth = tuple(100 * (b / a - 1) for a, b in peaks)
    return [
        Figure("peak memory, numba kernel, 1B pair", at_large, "MB", 300, at_least=False),
        Figure(
            "growth of the peak from 0.25B to 1B", growth, "%", 10, False,
            f"0.25B {spread(at_small, 'MB')}, 1B {spread(at_large, 'MB')}",
        ),
    ]  # fmt: skip


def one_pass(folder: Path, repeats: int) -> list[Figure]:
    """Compare passes with a plain read of the same bytes by as many threads, in one process."""
    figures = []
    for name, kernels in (("0.25B", ("numba", "numpy")), ("1B", ("numba",))):
        sides = make_pair(folder / name, SIZES[name])
        for kernel in kernels:
            command = [sys.executable, "-m", "benchmarks.pass_speed", *map(str, sides)]
            printed = subprocess.run(
                [*command, str(repeats), kernel], check=True, capture_output=True, text=True
            ).stdout
            found = json.loads(printed)
            seconds = found["seconds"]
            read = [found["nbytes"] / wall / 1e9 for wall, _ in seconds.pop("plain read")]
            for what, times in seconds.items():
                speed = [found["nbytes"] / wall / 1e9 for wall, _ in times]
                promised = kernel == "numba" and what != "counts, mask and exponents"
                figures.append(
                    ratio(
                        f"pass ({what}) beside a plain read, {kernel}, {name} pair",
                        speed,
                        read,
                        "GB/s",
                        ("pass", "read"),
                        0.35 if promised else None,
                        more_is_better=True,
                    )
                )
    return figures


def figures(folder: Path, repeats: int) -> Iterator[Figure]:
    """Yield all figures of the differ."""
    yield from whole_process(folder, max(repeats // 2, 1))
    yield from memory(folder, max(repeats // 2, 1))
    yield from one_pass(folder, 2 * repeats + 1)
