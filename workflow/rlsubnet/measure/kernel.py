"""All that is counted about a piece of an update, in one pass over its weights.

A kernel takes a piece of a pair as stored and adds to a :class:`Counts`; ``measure.sparsity`` says
what is counted. The kernel here needs numpy alone and is the reference: ``measure.kernel_numba`` is
several times as fast and gives the same integers and bits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rlsubnet.measure.formats import EXPONENTS, count_not_finite, to_bfloat16, to_float32
from rlsubnet.measure.sparsity import (
    RULES,
    UpdateCounts,
    bitwise_changed,
    difference_bits,
    exact_threshold,
    official_threshold,
)

# Bits of infinity: what lies at or above them is no finite number.
INFINITY = 0x7F800000
_EXPONENT = np.uint16(0xFF)


@dataclass(frozen=True)
class Request:
    """What a pass is to yield.

    Attributes:
        tolerances: absolute, in weight units; counted under both rules.
        rule: what marks a weight as changed in the mask and by exponent: bitwise, official, exact.
        atol: tolerance of ``rule``; bitwise has none.
        by_exponent: whether weights, and marked ones, are counted by bfloat16 exponent.
    """

    tolerances: tuple[float, ...]
    rule: str = "bitwise"
    atol: float = 0.0
    by_exponent: bool = False
    limits: np.ndarray = field(init=False, repr=False, compare=False)
    mark_limit: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        thresholds = {"official": official_threshold, "exact": exact_threshold}
        if self.rule not in ("bitwise", *RULES):
            raise ValueError(f"unknown rule {self.rule!r}; expected bitwise, official or exact")
        rows = [[thresholds[rule](atol) for rule in RULES] for atol in self.tolerances]
        limits = np.array(rows, np.uint32).reshape(-1, len(RULES))
        limit = 0 if self.rule == "bitwise" else thresholds[self.rule](self.atol)
        object.__setattr__(self, "limits", limits)
        object.__setattr__(self, "mark_limit", limit)


class Counts:
    """What a pass has counted so far; those of disjoint pieces add up with ``merge``.

    Attributes:
        changed: int64, (tolerances, 2): weights beyond each tolerance, official and exact.
        totals: int64, 3 numbers: weights, weights whose bits differ, bits of the largest
            ``|tuned - init|`` in float32.
        by_exponent: int64, (256, 2): weights before finetuning by bfloat16 exponent, and of these
            the marked ones; None where not asked for.
    """

    def __init__(self, request: Request) -> None:
        self.changed = np.zeros((len(request.tolerances), len(RULES)), np.int64)
        self.totals = np.zeros(3, np.int64)
        self.by_exponent = np.zeros((EXPONENTS, 2), np.int64) if request.by_exponent else None

    def merge(self, other: "Counts") -> None:
        self.changed += other.changed
        self.totals[:2] += other.totals[:2]
        self.totals[2] = max(self.totals[2], other.totals[2])
        if self.by_exponent is not None and other.by_exponent is not None:
            self.by_exponent += other.by_exponent

    def update_counts(self, tolerances: Sequence[float]) -> UpdateCounts:
        numel, differing, largest = self.totals.tolist()
        unchanged = {
            (rule, float(atol)): numel - beyond
            for atol, row in zip(tolerances, self.changed.tolist(), strict=True)
            for rule, beyond in zip(RULES, row, strict=True)
        }
        return UpdateCounts(numel, differing, float(np.uint32(largest).view(np.float32)), unchanged)


# (init, tuned, request, counts, packed mask or None) -> False where a weight may be NaN or Inf.
Kernel = Callable[[np.ndarray, np.ndarray, Request, Counts, np.ndarray | None], bool]


def numpy_kernel(
    init: np.ndarray,
    tuned: np.ndarray,
    request: Request,
    counts: Counts,
    packed: np.ndarray | None = None,
) -> bool:
    """Add the counts of a piece to ``counts``; the arithmetic is done for differing weights alone.

    Returns whether all weights are finite for certain. If not, the caller must look: what was
    counted means nothing with NaN or Inf in it.

    Args:
        init: weights before finetuning as stored (uint16 codes for bfloat16), flat.
        tuned: weights after finetuning, as many; the stored type may differ.
        request: what to count.
        counts: is added to.
        packed: uint8, takes the mask of the piece: one bit per weight, the first one lowest, and
            zeros beyond the last.

    >>> request = Request((1e-5,))
    >>> counts, packed = Counts(request), np.empty(1, np.uint8)
    >>> init = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    >>> numpy_kernel(init, np.array([1.0, 2.0, 3.0, 4.5], np.float32), request, counts, packed)
    True
    >>> counts.update_counts(request.tolerances).unchanged, int(packed[0])  # bit 3 is 8
    ({('official', 1e-05): 3, ('exact', 1e-05): 3}, 8)
    """
    if init.size == 0:
        return True
    moved = bitwise_changed(init, tuned)
    as_bfloat16 = init.dtype == tuned.dtype == np.uint16
    # Equal bits are no difference, but a file in another type may hide one that bfloat16 rounds.
    differing = moved if init.dtype == tuned.dtype else to_float32(init) != to_float32(tuned)
    places = np.flatnonzero(differing)
    before, after = init.take(places), tuned.take(places)
    exact = difference_bits(before, after)
    rounded = exact if as_bfloat16 else difference_bits(to_bfloat16(before), to_bfloat16(after))
    for row, limits in zip(counts.changed, request.limits, strict=True):
        row[0] += np.count_nonzero(rounded > limits[0])
        row[1] += np.count_nonzero(exact > limits[1])
    largest = int(exact.max(initial=0))
    counts.totals[0] += init.size
    counts.totals[1] += np.count_nonzero(moved)
    counts.totals[2] = max(counts.totals[2], largest)
    if packed is not None or counts.by_exponent is not None:
        marked = moved
        if request.rule != "bitwise":
            marked = np.zeros(init.size, np.bool_)
            bits = rounded if request.rule == "official" else exact
            marked[places] = bits > np.uint32(request.mark_limit)
        if packed is not None:
            packed[:] = np.packbits(marked, bitorder="little")
        if counts.by_exponent is not None:
            _count_exponents(init, marked, counts.by_exponent)
    # Where nothing differs, a NaN of one side is the NaN of the other.
    return largest < INFINITY and not count_not_finite(init)


def _count_exponents(init: np.ndarray, marked: np.ndarray, by_exponent: np.ndarray) -> None:
    exponents = (to_bfloat16(init) >> np.uint16(7)) & _EXPONENT
    # One number for what is to be told apart: exponent, marked or not.
    keys = (exponents << np.uint16(1)) | marked
    counts = np.bincount(keys, minlength=2 * EXPONENTS).reshape(EXPONENTS, 2)
    by_exponent[:, 0] += counts.sum(axis=1)
    by_exponent[:, 1] += counts[:, 1]
