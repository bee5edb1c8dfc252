"""The differ: every weight of a pair read once, by several threads, in bounded memory."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlsubnet.checkpoints.reader import Reader, open_reader
from rlsubnet.checkpoints.store import CHUNK, refuse_not_finite
from rlsubnet.measure.fused import Kernel, Tally, Wanted
from rlsubnet.measure.kernels import choose_kernel
from rlsubnet.threads import default_threads

if TYPE_CHECKING:
    from rlsubnet.checkpoints.compare import Pair

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


def _pieces(pair: "Pair", names: Sequence[str], chunk: int) -> Iterator[Piece]:
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

    pair: "Pair"
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
    pair: "Pair",
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
