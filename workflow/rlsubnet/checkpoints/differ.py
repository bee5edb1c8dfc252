"""The differ: every weight of a pair read once, by several threads, in bounded memory."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlsubnet.checkpoints.checkpoint import CHUNK, refuse_not_finite
from rlsubnet.checkpoints.formats import Reader, open_reader
from rlsubnet.checkpoints.masks import LATER, MaskFile, hidden_file
from rlsubnet.checkpoints.pair import Pair
from rlsubnet.checkpoints.sources import Visit
from rlsubnet.files import write_json
from rlsubnet.measure.kernel import Kernel, Tally, Wanted
from rlsubnet.measure.kernels import choose_kernel
from rlsubnet.threads import default_threads

# Takes (tensor, first weight, packed bits), from any thread; pieces come in any order.
TakeMask = Callable[[str, int, np.ndarray], None]
# Takes a number of bytes read since the last call, from any thread.
TakeProgress = Callable[[int], None]


@dataclass(frozen=True)
class Piece:
    """A run of weights of one tensor; ``number`` counts the pieces of a pass."""

    number: int
    name: str
    start: int
    count: int


def keep_freed_memory() -> None:
    """Let the C library keep what a kernel frees instead of giving it back to the system.

    glibc maps every array of more than 128 KiB anew, page fault by page fault, which costs more
    than what a kernel computes in it. When a larger mapping is freed, it raises that bound to its
    size, here beyond all arrays of a piece (8 bytes per weight). The pages are never touched: no
    memory is used.
    """
    np.empty(32 * CHUNK, np.uint8)


def _pieces(pair: Pair, names: Sequence[str], chunk: int) -> Iterator[Piece]:
    number = 0
    for name in names:
        numel = pair.numel(name)
        for start in range(0, numel, chunk):
            yield Piece(number, name, start, min(chunk, numel - start))
            number += 1


class _Queue:
    """Pieces that several threads take turns at; ends for all when one has failed."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces, self._lock = pieces, threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        with self._lock:
            if self._stopped:
                raise StopIteration
            return next(self._pieces)


@dataclass(frozen=True)
class _Failure:
    number: int
    error: Exception


@dataclass(frozen=True)
class _Pass:
    """What all threads of a pass share."""

    pair: Pair
    wanted: Wanted
    kernel: Kernel
    queue: _Queue
    chunk: int
    take_mask: TakeMask | None
    take_progress: TakeProgress | None

    def work(self) -> dict[str, Tally] | _Failure:
        """Return what one thread has counted, or the piece at which it failed."""
        tallies: dict[str, Tally] = {}
        packed = np.empty((self.chunk + 7) // 8, np.uint8)
        with open_reader(self.chunk) as before, open_reader(self.chunk) as after:
            for piece in self.queue:
                tally = tallies.setdefault(piece.name, Tally(self.wanted))
                try:
                    self._count(piece, before, after, tally, packed)
                except Exception as error:
                    self.queue.stop()
                    return _Failure(piece.number, error)
        return tallies

    def _count(
        self, piece: Piece, before: Reader, after: Reader, tally: Tally, packed: np.ndarray
    ) -> None:
        name, start, count = piece.name, piece.start, piece.count
        init = self.pair.init.read_with(before, name, start, count)
        tuned = self.pair.tuned.read_with(after, name, start, count)
        bits = packed[: (count + 7) // 8] if self.take_mask else None
        if not self.kernel(init, tuned, self.wanted, tally, bits):
            refuse_not_finite(self.pair.init.tensors[name], start, init)
            refuse_not_finite(self.pair.tuned.tensors[name], start, tuned)
        if self.take_mask and bits is not None:
            self.take_mask(name, start, bits)
        if self.take_progress:
            self.take_progress(init.nbytes + tuned.nbytes)


def diff_tensors(
    pair: Pair,
    wanted: Wanted,
    names: Sequence[str] | None = None,
    *,
    kernel: str = "auto",
    threads: int | None = None,
    chunk: int = CHUNK,
    take_mask: TakeMask | None = None,
    take_progress: TakeProgress | None = None,
) -> dict[str, Tally]:
    """Return what finetuning did to each tensor.

    Args:
        pair: the two checkpoints.
        wanted: what to count.
        names: tensors to look at, all by default.
        kernel: see ``measure.kernels.choose_kernel``; the result does not depend on it.
        threads: how many read and count, ``default_threads()`` by default; nor on this.
        chunk: weights read at a time, a multiple of 8; nor on this.
        take_mask: gets the packed mask piece by piece.
        take_progress: gets the number of bytes, piece by piece.

    Returns:
        A tally per name, in the order of ``names``.

    Raises:
        ValueError: weights are NaN or infinite, or a file ended; the first one in order, whatever
            thread met it.
    """
    if chunk % 8:
        raise ValueError(f"chunk must be a multiple of 8, found {chunk}")
    names = list(pair.shapes) if names is None else list(names)
    nbytes = sum(map(pair.nbytes, pair.shapes))
    # What is computed while it is read may keep state: one thread.
    plain = all(side.is_plain(name) for side in (pair.init, pair.tuned) for name in names)
    threads = (threads or default_threads()) if plain else 1
    keep_freed_memory()
    queue = _Queue(_pieces(pair, names, chunk))
    chosen = choose_kernel(kernel, nbytes)
    work = _Pass(pair, wanted, chosen, queue, chunk, take_mask, take_progress).work
    pieces = sum(-(-pair.numel(name) // chunk) for name in names)
    threads = max(1, min(threads, pieces))
    if threads == 1:
        results = [work()]
    else:
        with ThreadPoolExecutor(threads) as pool:
            try:
                results = [
                    future.result() for future in [pool.submit(work) for _ in range(threads)]
                ]
            finally:
                queue.stop()
    failures = [result for result in results if isinstance(result, _Failure)]
    if failures:
        raise min(failures, key=lambda failure: failure.number).error
    totals = {name: Tally(wanted) for name in names}
    for result in results:
        assert isinstance(result, dict)
        for name, tally in result.items():
            totals[name].merge(tally)
    return totals


ASKED = "asked.json"


class Unfinished:
    """A hidden folder beside a result: what was asked, and one file per finished part.

    It appears with the first part that is saved. Parts of a pass that was asked something else, or
    of files that have changed since, are removed: ``begun_anew`` tells so.

    Args:
        result: the file that the pass is to write; None keeps nothing.
        asked: all that the parts depend on, as JSON values.
    """

    def __init__(self, result: Path | None, asked: Mapping[str, Any]) -> None:
        self._folder = parts_folder(result) if result else None
        # As it comes back from a file: tuples are lists there.
        self._asked = json.loads(json.dumps(asked))
        self.begun_anew = self.any_saved() and self._stored_question() != self._asked
        if self.begun_anew:
            self.discard()

    def _stored_question(self) -> object:
        assert self._folder is not None
        try:
            return json.loads((self._folder / ASKED).read_bytes())
        except (OSError, ValueError):
            return None

    def load(self, number: int) -> Any:
        """Return what was saved of a part, None where it is not finished."""
        if self._folder is None or not (file := self._folder / _part(number)).exists():
            return None
        return json.loads(file.read_bytes())

    def save(self, number: int, found: Any) -> None:
        """Keep what was found in a part."""
        if self._folder is None:
            return
        if not (self._folder / ASKED).exists():
            write_json(self._folder / ASKED, self._asked)
        write_json(self._folder / _part(number), found)

    def any_saved(self) -> bool:
        """Return whether a part is finished."""
        return self._folder is not None and self._folder.exists()

    def discard(self) -> None:
        """Remove all parts."""
        if self._folder is not None and self._folder.exists():
            shutil.rmtree(self._folder)


def parts_folder(result: Path) -> Path:
    """Return where the finished parts of a result wait until it is complete.

    >>> parts_folder(Path("/results/dpo.csv")).as_posix()
    '/results/.dpo.csv.parts'
    """
    target = Path(os.path.realpath(result))
    return target.with_name(f".{target.name}.parts")


def _part(number: int) -> str:
    return f"part-{number:05d}.json"


# Counts up when what a part holds changes its meaning.
VERSION = 1


class Listener(Protocol):
    """Receives progress; ``add`` may be called from any thread."""

    def add(self, nbytes: int) -> None:
        """Take bytes that were read."""

    def skip(self, nbytes: int) -> None:
        """Take bytes that need not be read, since an earlier pass has."""

    def note(self, text: str) -> None:
        """Take a line that a user should see."""


class Silence:
    """A listener that tells nobody."""

    def add(self, nbytes: int) -> None:
        """Take bytes that were read."""

    def skip(self, nbytes: int) -> None:
        """Take bytes that need not be read."""

    def note(self, text: str) -> None:
        """Take a line."""


def parts_of(pair: Pair) -> list[list[str]]:
    """Return the tensors in groups that lie in one file on either side: a shard, as a rule."""
    parts: dict[tuple[Path, Path], list[str]] = {}
    for name in pair.shapes:
        files = pair.init.tensors[name].file, pair.tuned.tensors[name].file
        parts.setdefault(files, []).append(name)
    return list(parts.values())


def visit_of(pair: Pair, parts: Sequence[Sequence[str]]) -> Visit:
    """Return the way through the parts of a pair that keeps few of its files on the disk."""
    sides = (pair.init, pair.tuned)
    files = [
        [{file for name in names for file in side.files(name)} for side in sides] for names in parts
    ]
    return Visit(sides, files)


def visited(pair: Pair) -> Iterator[list[str]]:
    """Yield the names of tensors part by part, each while its files are on the disk."""
    parts = parts_of(pair)
    visit = visit_of(pair, parts)
    for place, number in enumerate(visit.order):
        visit.bring(place)
        yield parts[number]
    visit.end()


def _stamps(pair: Pair) -> dict[str, list[Any]]:
    """Return for every file what changes when it does."""
    return {
        str(file): side.stamp(file)
        for side in (pair.init, pair.tuned)
        for file in sorted({side.tensors[name].file for name in pair.shapes})
    }


def _question(pair: Pair, wanted: Wanted, mask: Path | None) -> dict[str, Any]:
    """Return all that the numbers of a part depend on."""
    shapes = json.dumps({name: list(shape) for name, shape in pair.shapes.items()})
    return {
        "version": VERSION,
        "tolerances": [repr(float(atol)) for atol in wanted.tolerances],
        "mask": [wanted.rule, repr(wanted.atol), str(mask.resolve()) if mask else ""],
        "by_exponent": wanted.by_exponent,
        "checkpoints": [str(side.path.resolve()) for side in (pair.init, pair.tuned)],
        "shapes_sha256": hashlib.sha256(shapes.encode()).hexdigest(),
        "files": _stamps(pair),
    }


def _refuse_changed(question: dict[str, Any], pair: Pair) -> None:
    for file, stamp in _stamps(pair).items():
        if stamp != question["files"][file]:
            raise ValueError(f"{file}: changed while it was read; measure the pair again")


def _encode(tallies: dict[str, Tally]) -> dict[str, Any]:
    return {
        name: {
            "changed": tally.changed.tolist(),
            "totals": tally.totals.tolist(),
            "by_exponent": None if tally.by_exponent is None else tally.by_exponent.tolist(),
        }
        for name, tally in tallies.items()
    }


def _decode(found: dict[str, Any], wanted: Wanted) -> dict[str, Tally]:
    tallies = {}
    for name, numbers in found.items():
        tally = Tally(wanted)
        tally.changed[:] = np.array(numbers["changed"], np.int64).reshape(tally.changed.shape)
        tally.totals[:] = numbers["totals"]
        if tally.by_exponent is not None:
            tally.by_exponent[:] = numbers["by_exponent"]
        tallies[name] = tally
    return tallies


def _digests(pair: Pair) -> dict[str, str]:
    with ThreadPoolExecutor(2) as pool:
        init, tuned = pool.map(lambda side: side.digest(), (pair.init, pair.tuned))
    return {"init_sha256": init, "tuned_sha256": tuned}


@contextmanager
def _under_way(
    pair: Pair, wanted: Wanted, mask: Path | None, unfinished: Unfinished
) -> Iterator[MaskFile | None]:
    """Yield the mask to write, if any; what an interruption leaves stays, a failure leaves none."""
    file = None
    if mask:
        metadata = {"rule": wanted.rule, "atol": repr(wanted.atol)}
        later = {"init_sha256": LATER, "tuned_sha256": LATER}
        file = MaskFile(mask, pair.shapes, metadata | later, keep=unfinished.any_saved())
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
    wanted: Wanted,
    result: Path | None = None,
    mask: Path | None = None,
    *,
    kernel: str = "auto",
    threads: int | None = None,
    listener: Listener | None = None,
) -> dict[str, Tally]:
    """Return what finetuning did to each tensor, and write its mask where asked.

    After every shard, what was counted is kept in a hidden folder beside ``result`` (or ``mask``).
    A pass that was killed goes on from there, provided that nothing it depends on has changed.

    Args:
        pair: the two checkpoints.
        wanted: what to count, and by which rule the mask marks weights.
        result: the file that the caller will write; none means that nothing is kept.
        mask: where the mask goes.
        kernel, threads: as of ``diff_tensors``.
        listener: is told how far the pass is, and where an earlier one is used or given up.

    Raises:
        ValueError: weights are NaN or infinite, or a file changed while it was read.
    """
    listener = listener or Silence()
    parts = parts_of(pair)
    question = _question(pair, wanted, mask)
    unfinished = Unfinished(result or mask, question)
    if mask and unfinished.any_saved() and not hidden_file(mask).exists():
        unfinished.discard()
    if unfinished.begun_anew:
        listener.note("an interrupted pass was of other inputs or options: begun anew")
    found: dict[str, Tally] = {}
    with _under_way(pair, wanted, mask, unfinished) as file:
        visit = visit_of(pair, parts)
        for place, number in enumerate(visit.order):
            names = parts[number]
            if saved := unfinished.load(number):
                listener.note(f"part {number + 1} of {len(parts)}: measured before, not read again")
                listener.skip(sum(map(pair.nbytes, names)))
                found |= _decode(saved, wanted)
                continue
            visit.bring(place)
            tallies = diff_tensors(
                pair,
                wanted,
                names,
                kernel=kernel,
                threads=threads,
                take_mask=file.write if file else None,
                take_progress=listener.add,
            )
            _refuse_changed(question, pair)
            found |= tallies
            if len(parts) > 1:
                if file:
                    file.flush()
                unfinished.save(number, _encode(tallies))
        visit.end()
        if file:
            file.finish(_digests(pair))
    return {name: found[name] for name in pair.shapes}
