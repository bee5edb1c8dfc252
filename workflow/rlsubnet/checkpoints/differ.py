"""The differ: every weight of a pair read once, by several threads, in bounded memory.

A pair is gone through shard by shard. What is counted of a shard is kept beside the result, so that
an interrupted pass continues after the last shard that it finished.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rlsubnet.checkpoints.checkpoint import refuse_not_finite
from rlsubnet.checkpoints.formats import CHUNK, pieces
from rlsubnet.checkpoints.masks import PLACEHOLDER, MaskFile, hidden_beside
from rlsubnet.checkpoints.pair import Pair
from rlsubnet.checkpoints.sources import fetched_parts
from rlsubnet.files import write_json
from rlsubnet.measure.kernel import Counts, Request
from rlsubnet.measure.kernels import choose_kernel
from rlsubnet.threads import default_threads

# Counts up when what a finished part of a pass holds changes its meaning.
VERSION = 2
# Takes (tensor, first weight, packed bits), from any thread; pieces come in any order.
TakeMask = Callable[[str, int, np.ndarray], None]
# Takes a number of bytes read since the last call, from any thread.
TakeProgress = Callable[[int], None]


def keep_freed_memory() -> None:
    """Let the C library keep what a kernel frees instead of giving it back to the system.

    glibc maps every array of more than 128 KiB anew, page fault by page fault, which costs more
    than what a kernel computes in it. When a larger mapping is freed, it raises that bound to its
    size, here beyond all arrays of a piece (8 bytes per weight). The pages are never touched: no
    memory is used.
    """
    np.empty(32 * CHUNK, np.uint8)


def diff_tensors(
    pair: Pair,
    request: Request,
    names: Sequence[str] | None = None,
    *,
    kernel: str = "auto",
    threads: int | None = None,
    chunk: int = CHUNK,
    take_mask: TakeMask | None = None,
    take_progress: TakeProgress | None = None,
) -> dict[str, Counts]:
    """Return what finetuning did to each tensor, in the order of ``names``.

    Args:
        pair: the two checkpoints.
        request: what to count.
        names: tensors to look at, all by default.
        kernel, threads: see ``measure.kernels.choose_kernel`` and ``default_threads``; the result
            depends on neither, nor on ``chunk``.
        chunk: weights read at a time, a multiple of 8.
        take_mask: gets the packed mask piece by piece.
        take_progress: gets the number of bytes, piece by piece.

    Raises:
        ValueError: weights are NaN or infinite, or a file ended; the first one in order, whatever
            thread met it.
    """
    assert chunk % 8 == 0, "a piece of a mask starts at a whole byte"
    names = list(pair.shapes) if names is None else list(names)
    keep_freed_memory()
    chosen = choose_kernel(kernel, sum(map(pair.nbytes, pair.shapes)))

    def count(share: tuple[str, int, int]) -> Counts:
        name, start, size = share
        init = pair.init.read_range(name, start, size)
        tuned = pair.tuned.read_range(name, start, size)
        counts = Counts(request)
        packed = np.empty((size + 7) // 8, np.uint8) if take_mask else None
        if not chosen(init, tuned, request, counts, packed):
            refuse_not_finite(pair.init.tensors[name], start, init)
            refuse_not_finite(pair.tuned.tensors[name], start, tuned)
        if take_mask and packed is not None:
            take_mask(name, start, packed)
        if take_progress:
            take_progress(init.nbytes + tuned.nbytes)
        return counts

    shares = [(name, *piece) for name in names for piece in pieces(pair.numel(name), chunk)]
    totals = {name: Counts(request) for name in names}
    with ThreadPoolExecutor(threads or default_threads()) as pool:
        # Results come in order: a failure is that of the first bad piece, and cancels the rest.
        for (name, _, _), counts in zip(shares, pool.map(count, shares), strict=True):
            totals[name].merge(counts)
    return totals


class Unfinished:
    """A hidden folder beside a result: what its parts depend on, and one file per finished part.

    It appears with the first part that is saved. Parts of a pass with other inputs or options are
    removed, and ``restarted`` is set. Without a ``result``, nothing is kept.
    """

    def __init__(self, result: Path | None, inputs: Mapping[str, Any]) -> None:
        self._folder = hidden_beside(result, "parts") if result else None
        # As it comes back from a file: tuples are lists there.
        self._inputs = json.loads(json.dumps(inputs))
        self.restarted = self.any_saved() and self._read("inputs.json") != [self._inputs]
        if self.restarted:
            self.discard()

    def _read(self, pattern: str) -> list[Any]:
        found = []
        for path in sorted(self._folder.glob(pattern)) if self._folder else ():
            # A file that a machine's end cut short is as one that is missing.
            with suppress(ValueError):
                found.append(json.loads(path.read_bytes()))
        return found

    def load(self) -> dict[str, Any]:
        """Return what is kept of the finished parts together."""
        return {name: counts for part in self._read("part-*.json") for name, counts in part.items()}

    def save(self, found: dict[str, Any]) -> None:
        if self._folder is not None:
            if not self.any_saved():
                write_json(self._folder / "inputs.json", self._inputs)
            number = len(list(self._folder.glob("part-*.json")))
            write_json(self._folder / f"part-{number:05d}.json", found)

    def any_saved(self) -> bool:
        return self._folder is not None and self._folder.exists()

    def discard(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class ProgressCallback:
    """Receives how far a pass is, from any thread; this one shows notes alone."""

    def add(self, nbytes: int) -> None:
        """Take bytes that were read."""

    def skip(self, nbytes: int) -> None:
        """Take bytes that need not be read, since an earlier pass has."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def close(self) -> None:
        """End the display."""


def tensors_by_part(pair: Pair, names: Iterable[str] | None = None) -> Iterator[list[str]]:
    """Yield tensors in groups that lie in one file on either side: a shard, as a rule.

    Each comes while its files are on the disk, in an order that needs few at a time. ``names`` are
    the tensors, all by default.
    """
    sides = (pair.init, pair.tuned)
    parts: dict[tuple[Path, ...], list[str]] = {}
    for name in pair.shapes if names is None else names:
        parts.setdefault(tuple(side.tensors[name].file for side in sides), []).append(name)
    groups = list(parts.values())
    files = [
        [{file for name in group for file in side.files(name)} for side in sides]
        for group in groups
    ]
    for number in fetched_parts([side.source for side in sides], files):
        yield groups[number]


def _fingerprints(pair: Pair) -> dict[str, list[Any]]:
    return {
        str(file): side.source.fingerprint(file)
        for side in (pair.init, pair.tuned)
        for file in sorted({side.tensors[name].file for name in pair.shapes})
    }


def _inputs(pair: Pair, request: Request, mask: Path | None) -> dict[str, Any]:
    shapes = json.dumps({name: list(shape) for name, shape in pair.shapes.items()})
    return {
        "version": VERSION,
        "tolerances": [repr(float(atol)) for atol in request.tolerances],
        "mask": [request.rule, repr(request.atol), str(mask.resolve()) if mask else ""],
        "by_exponent": request.by_exponent,
        "checkpoints": [str(side.path.resolve()) for side in (pair.init, pair.tuned)],
        "shapes_sha256": hashlib.sha256(shapes.encode()).hexdigest(),
        "files": _fingerprints(pair),
    }


def _refuse_changed(inputs: dict[str, Any], pair: Pair) -> None:
    for file, found in _fingerprints(pair).items():
        if found != inputs["files"][file]:
            raise ValueError(f"{file}: changed while it was read; measure the pair again")


def _encode(counted: dict[str, Counts]) -> dict[str, Any]:
    return {
        name: {
            key: None if array is None else array.tolist() for key, array in vars(counts).items()
        }
        for name, counts in counted.items()
    }


def _decode(found: dict[str, Any], request: Request) -> dict[str, Counts]:
    counted = {name: Counts(request) for name in found}
    for name, counts in counted.items():
        for key, array in vars(counts).items():
            if array is not None:
                array[...] = np.reshape(found[name][key], array.shape)
    return counted


def _digests(pair: Pair) -> dict[str, str]:
    with ThreadPoolExecutor(2) as pool:
        init, tuned = pool.map(lambda side: side.digest(), (pair.init, pair.tuned))
    return {"init_sha256": init, "tuned_sha256": tuned}


@contextmanager
def _under_way(
    pair: Pair, request: Request, mask: Path | None, unfinished: Unfinished
) -> Iterator[MaskFile | None]:
    """Yield the mask to write, if any; what an interruption leaves stays, a failure leaves none."""
    file = None
    if mask:
        metadata = {"rule": request.rule, "atol": repr(request.atol)}
        digests = {"init_sha256": PLACEHOLDER, "tuned_sha256": PLACEHOLDER}
        file = MaskFile(mask, pair.shapes, metadata | digests, keep=unfinished.any_saved())
    try:
        yield file
    except ValueError:
        # Bad input: there is nothing to go on from.
        unfinished.discard()
        raise
    finally:
        if file and unfinished.any_saved():
            file.close()
        elif file:
            file.discard()
    unfinished.discard()


def measure_update(
    pair: Pair,
    request: Request,
    result: Path | None = None,
    mask: Path | None = None,
    *,
    kernel: str = "auto",
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Counts]:
    """Return what finetuning did to each tensor, and write its mask where asked.

    After every shard, what was counted is kept in a hidden folder beside ``result`` (or ``mask``).
    A pass that was killed goes on from there, provided that nothing it depends on has changed.

    Args:
        pair: the two checkpoints.
        request: what to count, and by which rule the mask marks weights.
        result: the file that the caller will write; none means that nothing is kept.
        mask: where the mask goes.
        kernel, threads: as of ``diff_tensors``.
        progress: receives how far the pass is, and where an earlier one is used or given up.

    Raises:
        ValueError: weights are NaN or infinite, or a file changed while it was read.
    """
    progress = progress or ProgressCallback()
    inputs = _inputs(pair, request, mask)
    unfinished = Unfinished(result or mask, inputs)
    if mask and unfinished.any_saved() and not hidden_beside(mask, "unfinished").exists():
        unfinished.discard()
    if unfinished.restarted:
        progress.note("an interrupted pass was of other inputs or options: begun anew")
    found = _decode(unfinished.load(), request)
    if found:
        shown = f"{len(found)} of {len(pair.shapes)} tensors"
        progress.note(f"{shown}: measured before, not read again")
        progress.skip(sum(map(pair.nbytes, found)))
    with _under_way(pair, request, mask, unfinished) as file:
        left = [name for name in pair.shapes if name not in found]
        for names in tensors_by_part(pair, left):
            counted = diff_tensors(
                pair,
                request,
                names,
                kernel=kernel,
                threads=threads,
                take_mask=file.write if file else None,
                take_progress=progress.add,
            )
            _refuse_changed(inputs, pair)
            found |= counted
            if len(names) < len(pair.shapes):
                if file:
                    file.flush()
                unfinished.save(_encode(counted))
        if file:
            file.finish(_digests(pair))
    return {name: found[name] for name in pair.shapes}
