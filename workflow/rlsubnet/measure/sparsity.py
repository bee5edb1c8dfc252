"""Which weights an update changed, counted under every tolerance and rule at once (section 2.2).

Two rules decide whether a weight is unchanged:

* ``official``: what the authors' code computes, ``|bf16(tuned - init)| <= bf16(atol)``. It
  subtracts bfloat16 tensors, and torch.isclose rounds the tolerance to bfloat16 as well.
* ``exact``: ``|tuned - init| <= atol``, the float32 difference of the stored values compared with
  the real number ``atol``.

Both are one integer comparison per weight, since non-negative float32 numbers are ordered like
their bits: under ``official``, what rounds to at most bf16(atol) ends at a rounding boundary.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

import numpy as np

from rlsubnet.measure.formats import to_bfloat16, to_float32

RULES = ("official", "exact")
TOLERANCES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
TABLE_TOLERANCE = 1e-5
Key = TypeVar("Key")
_ABSOLUTE = np.uint32(0x7FFFFFFF)


def _check_tolerance(atol: float) -> None:
    if not 0 <= atol < 1e30:
        raise ValueError(f"a tolerance is a number from 0 to 1e30, found {atol!r}")


def official_threshold(atol: float) -> int:
    """Return the bits of the largest float32 difference that the authors' code calls unchanged.

    bf16(1e-5) is 1.00136e-5; differences up to halfway to the next bfloat16 number round to it, so
    that the effective tolerance is 1.00434e-5.

    >>> float(np.uint32(official_threshold(1e-5)).view(np.float32))
    1.004338264465332e-05
    """
    _check_tolerance(atol)
    code = int(to_bfloat16(np.array([atol], np.float32))[0])
    # The boundary itself is a tie, which rounds to the even code.
    return (code << 16) + (0x8000 if code % 2 == 0 else 0x7FFF)


def exact_threshold(atol: float) -> int:
    """Return the bits of the largest float32 number that is at most ``atol``."""
    _check_tolerance(atol)
    value = np.float32(atol)
    if float(value) > atol:
        value = np.nextafter(value, np.float32(0))
    return int(value.view(np.uint32))


def difference_bits(init: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """Return the bits of ``|tuned - init|`` in float32; NaN is larger than every number."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = to_float32(tuned) - to_float32(init)
    return difference.view(np.uint32) & _ABSOLUTE


def bitwise_changed(init: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """Return where the stored bits differ, as bool; -0.0 against 0.0 is a change.

    Weights stored in two types are both rounded to bfloat16 first, since the type of the file is
    no update.

    >>> bitwise_changed(np.array([0.0, 1.0], np.float32), np.array([-0.0, 1.0], np.float32))
    array([ True, False])
    """
    if init.dtype != tuned.dtype:
        init, tuned = to_bfloat16(init), to_bfloat16(tuned)
    unsigned = {2: np.uint16, 4: np.uint32}[init.dtype.itemsize]
    return np.not_equal(init.view(unsigned), tuned.view(unsigned))


def changed(
    init: np.ndarray, tuned: np.ndarray, rule: str = "bitwise", atol: float = TABLE_TOLERANCE
) -> np.ndarray:
    """Return where an update changed a weight under ``bitwise``, ``official`` or ``exact``.

    ``atol`` plays no part under ``bitwise``.

    >>> changed(np.array([1.0, 2.0], np.float32), np.array([1.5, 2.0], np.float32), "exact", 0.1)
    array([ True, False])
    """
    if rule == "bitwise":
        return bitwise_changed(init, tuned)
    if rule == "official":
        bits = difference_bits(to_bfloat16(init), to_bfloat16(tuned))
        return bits > np.uint32(official_threshold(atol))
    if rule == "exact":
        return difference_bits(init, tuned) > np.uint32(exact_threshold(atol))
    raise ValueError(f"unknown rule {rule!r}; expected bitwise, official or exact")


@dataclass(frozen=True)
class UpdateCounts:
    """What an update did to some weights; counts of two disjoint parts add up with ``+``.

    ``max_abs_diff`` is the largest ``|tuned - init|`` in float32, ``unchanged`` the number of
    unchanged weights by (rule, atol).
    """

    numel: int = 0
    bitwise_changed: int = 0
    max_abs_diff: float = 0.0
    unchanged: Mapping[tuple[str, float], int] = field(default_factory=dict)

    def __add__(self, other: "UpdateCounts") -> "UpdateCounts":
        keys = dict.fromkeys((*self.unchanged, *other.unchanged))
        return UpdateCounts(
            self.numel + other.numel,
            self.bitwise_changed + other.bitwise_changed,
            max(self.max_abs_diff, other.max_abs_diff),
            {key: self.unchanged.get(key, 0) + other.unchanged.get(key, 0) for key in keys},
        )

    def sparsity(self, rule: str, atol: float) -> float:
        """Return the fraction of unchanged weights, 1.0 where there are none at all."""
        return self.unchanged[rule, atol] / self.numel if self.numel else 1.0


def total_counts(counts: Iterable[UpdateCounts]) -> UpdateCounts:
    """Return the counts of all parts together: their sparsity is weighted by numel."""
    return sum(counts, UpdateCounts())


def group_counts(
    counts: Mapping[str, UpdateCounts], group_of: Callable[[str], Key]
) -> dict[Key, UpdateCounts]:
    """Return the counts of tensors added up by group, in order of first appearance."""
    groups: dict[Key, UpdateCounts] = {}
    for name, part in counts.items():
        key = group_of(name)
        groups[key] = groups.get(key, UpdateCounts()) + part
    return groups


@dataclass(frozen=True)
class Sums:
    """Numbers of some weights; those of disjoint parts add up with ``+``, field by field."""

    def __add__(self, other: Self) -> Self:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return type(self)(*(first + second for first, second in pairs))


@dataclass(frozen=True)
class UpdateNorms(Sums):
    """Sums of squares of some weights.

    ``init_squares`` is the sum of ``init**2``, ``update_squares`` that of ``(tuned - init)**2``.
    """

    numel: int = 0
    init_squares: float = 0.0
    update_squares: float = 0.0

    @property
    def init(self) -> float:
        """Return ``||init||``, the Frobenius norm of the weights before finetuning."""
        return math.sqrt(self.init_squares)

    @property
    def update(self) -> float:
        """Return ``||tuned - init||``."""
        return math.sqrt(self.update_squares)

    @property
    def relative(self) -> float:
        """Return ``||tuned - init|| / ||init||``, 0 where there is no update."""
        return self.update / self.init if self.update and self.init else 0.0

    @property
    def update_rms(self) -> float:
        """Return the root mean square of ``tuned - init`` over all weights."""
        return math.sqrt(self.update_squares / self.numel) if self.numel else 0.0


def update_norms(init: np.ndarray, tuned: np.ndarray) -> UpdateNorms:
    """Return the sums of squares of a piece, taken in float64.

    >>> norms = update_norms(np.array([3.0, 4.0], np.float32), np.array([3.0, 4.5], np.float32))
    >>> norms.init, norms.update, norms.relative
    (5.0, 0.5, 0.1)
    """
    before = to_float32(init).astype(np.float64).reshape(-1)
    moved = to_float32(tuned).astype(np.float64).reshape(-1) - before
    # Not a dot product: that is BLAS, whose own threads get in the way of those that read.
    squares = (float(np.square(values, out=values).sum()) for values in (before, moved))
    return UpdateNorms(init.size, *squares)
