"""Deltas at the paper's sparsities: size beside a general compressor, seconds beside a copy."""

import hashlib
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.figure import Figure, ratio, spread
from benchmarks.pairs import SIZES, make_pair
from benchmarks.process import Cost, run
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta_file import Delta
from rlsubnet.checkpoints.formats import pieces

# Standard deviation of the drift that leaves so many per cent of the codes as they were, the goal
# for the size, as a fraction of the file.
SPARSITIES = {77: (2.05e-5, 0.12), 93: (5.95e-6, 0.05)}


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _same_files(folder: Path, other: Path) -> bool:
    def digests(of: Path) -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in of.iterdir()
            if path.is_file()
        }

    return digests(folder) == digests(other)


def _xor(sides: tuple[Path, Path]) -> Iterator[bytes]:
    init, tuned = map(Checkpoint, sides)
    for name in tuned.tensors:
        for piece in pieces(tuned.tensors[name].numel):
            before, after = init.read_range(name, *piece), tuned.read_range(name, *piece)
            yield np.bitwise_xor(before, after).tobytes()


def xor_sizes(sides: tuple[Path, Path]) -> dict[str, int]:
    """Return the bytes of the XOR of two checkpoints under general compressors that are here."""
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "zlib -6": lambda data: zlib.compress(data, 6)
    }
    if find_spec("zstandard"):
        import zstandard

        compressors["zstd -3"] = zstandard.ZstdCompressor(level=3).compress
    sizes = dict.fromkeys(compressors, 0)
    for piece in _xor(sides):
        for name, compress in compressors.items():
            sizes[name] += len(compress(piece))
    return sizes


def _copy_seconds(source: Path, target: Path) -> float:
    begin = time.perf_counter()
    shutil.copytree(source, target)
    seconds = time.perf_counter() - begin
    shutil.rmtree(target)
    return seconds


def _command(*arguments: object) -> Cost:
    return run("rlsubnet.cli", ["delta", *map(str, arguments)])


def at_sparsity(folder: Path, repeats: int, per_cent: int, size: str) -> list[Figure]:
    """Pack, unpack and compare every byte; measure size, seconds and memory."""
    drift, goal = SPARSITIES[per_cent]
    sides = make_pair(folder / f"{size}-sparse-{per_cent}", SIZES[size], drift=drift)
    packs, unpacks, copies, exact = [], [], [], True
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path, out = Path(scratch, "x.delta"), Path(scratch, "out")
        for _ in range(repeats):
            packs.append(_command("pack", *sides, path))
            unpacks.append(_command("unpack", sides[0], path, out))
            exact = exact and _same_files(sides[1], out)
            shutil.rmtree(out)
            copies.append(_copy_seconds(sides[1], out))
        delta, nbytes = Delta(path), path.stat().st_size
    full = sum(file.stat().st_size for file in _weight_files(sides[1]))
    changed = sum(tensor.changed for tensor in delta.manifest.tensors.values())
    numel = sum(tensor.numel for tensor in delta.manifest.tensors.values())
    about = f"{size} pair, {1 - changed / numel:.1%} unchanged"
    gigabytes = full / 1e9
    others = [
        Figure(f"{name} of the XOR, fraction of the file, {about}", (found / full,), "")
        for name, found in xor_sizes(sides).items()
    ]
    return [
        Figure(f"delta, fraction of the file, {about}", (nbytes / full,), "", goal, False),
        *others,
        Figure(f"runs in which a byte came back wrong, {about}", (float(not exact),), "", 0, False),
        *(
            ratio(
                f"{what} beside a copy of the folder, wall time, {about}",
                [gigabytes / cost.wall for cost in costs],
                [gigabytes / seconds for seconds in copies],
                "GB/s",
                (what, "copy"),
                more_is_better=True,
            )
            for what, costs in (("pack", packs), ("unpack", unpacks))
        ),
        *(
            Figure(
                f"peak memory of {what}, {about}",
                tuple(cost.peak for cost in costs),
                "MB",
                300,
                False,
                f"{spread([cost.cpu for cost in costs], 's')} of CPU",
            )
            for what, costs in (("pack", packs), ("unpack", unpacks))
        ),
    ]


def figures(folder: Path, repeats: int) -> list[Figure]:
    """Return all figures of the deltas."""
    rounds = max(repeats // 2, 1)
    return [
        *at_sparsity(folder, rounds, 77, "0.25B"),
        *at_sparsity(folder, rounds, 93, "0.25B"),
        *at_sparsity(folder, 1, 77, "1B"),
    ]
