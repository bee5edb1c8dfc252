"""The rank of an update against ``torch.linalg.matrix_rank``, matrix by matrix and as a command."""

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, ratio
from benchmarks.pairs import SIZES, make_pair
from benchmarks.process import run

# CPU seconds saved by form: as high as wide, higher, wider.
GOALS = {"square": 3.0, "tall": 5.0, "wide": 15.0}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def form(shape: str) -> str:
    """Return which goal a shape has.

    >>> form("5504x2048")
    'tall'
    """
    rows, columns = map(int, shape.split("x"))
    return "square" if rows == columns else "tall" if rows > columns else "wide"


def matrices(repeats: int) -> list[Figure]:
    """Compare single matrices in one process with one thread."""
    command = [sys.executable, "-m", "benchmarks.rank_speed", str(repeats)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    figures, wrong = [], 0
    for measured in found:
        shape, how = measured["shape"], measured["how"]
        cpu = {way: [seconds[1] for seconds in pairs] for way, pairs in measured["seconds"].items()}
        theirs = cpu.pop("torch")
        for way, ours in cpu.items():
            # What takes torch as well cannot take less than torch.
            goal = GOALS[form(shape)] if way == "rank" and how != "svd" else None
            decided = " (at the tolerance: by torch)" if how == "svd" else f" ({how})"
            what = f"{way}, CPU seconds, {form(shape)}, {shape}{decided if way == 'rank' else ''}"
            figures.append(ratio(what, ours, theirs, "s", ("rlsubnet", "matrix_rank"), goal))
        wrong += len(measured["ranks"]) > 1
    what = f"matrices with a rank that is not matrix_rank's, of {len(found)}"
    return [*figures, Figure(what, (wrong,), "", 0, at_least=False)]


def command(folder: Path) -> list[Figure]:
    """Compare the whole command with the authors' way, which has no control and no other rank."""
    sides = [str(side) for side in make_pair(folder / "0.25B", SIZES["0.25B"])]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        out, expected = Path(scratch, "ranks.csv"), Path(scratch, "ranks.json")
        theirs = run("benchmarks.authors_rank", [*sides, str(expected)], ONE_THREAD)
        ours = run("rlsubnet.cli", ["rank", *sides, "--out", str(out)], ONE_THREAD)
        with out.open(newline="") as stream:
            ranks = {row["tensor"]: int(row["rank"]) for row in csv.DictReader(stream)}
        wanted = json.loads(expected.read_text())
    if ranks.keys() != wanted.keys():
        raise ValueError(f"{folder}: the two ways do not count the same matrices")
    names = "rlsubnet rank", "authors' way"
    what = "whole command with stable and effective rank and a control"
    return [
        ratio(f"{what}, CPU seconds, 0.25B pair", [ours.cpu], [theirs.cpu], "s", names),
        ratio(f"{what}, peak memory, 0.25B pair", [ours.peak], [theirs.peak], "MB", names),
        Figure(
            f"ranks of the pair that differ from matrix_rank, of {len(wanted)}",
            (sum(ranks[name] != rank for name, rank in wanted.items()),),
            "",
            0,
            at_least=False,
        ),
    ]


def figures(folder: Path, repeats: int) -> Iterator[Figure]:
    """Yield all figures of the rank."""
    yield from matrices(repeats)
    yield from command(folder)
