"""How much two subnetworks share: one-sided overlaps and what chance would give (section 5)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OverlapCounts:
    """Sizes of two subnetworks of the same weights; counts of disjoint parts add up with ``+``.

    Attributes:
        numel: weights both masks speak about.
        first: weights updated in run 1, ``|I1|``.
        second: weights updated in run 2, ``|I2|``.
        both: weights updated in both, ``|I1 & I2|``.
    """

    numel: int = 0
    first: int = 0
    second: int = 0
    both: int = 0

    def __add__(self, other: "OverlapCounts") -> "OverlapCounts":
        return OverlapCounts(
            self.numel + other.numel,
            self.first + other.first,
            self.second + other.second,
            self.both + other.both,
        )


def _popcount(packed: np.ndarray) -> int:
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def overlap_counts(first: np.ndarray, second: np.ndarray, numel: int) -> OverlapCounts:
    """Return the sizes of two subnetworks given as packed bits.

    Args:
        first, second: uint8 arrays of equal length, bits beyond ``numel`` zero.
        numel: number of weights.

    >>> overlap_counts(np.array([0b0111], np.uint8), np.array([0b1110], np.uint8), numel=8)
    OverlapCounts(numel=8, first=3, second=3, both=2)
    """
    if first.shape != second.shape or first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError("packed masks must be uint8 arrays of equal length")
    return OverlapCounts(numel, _popcount(first), _popcount(second), _popcount(first & second))


def overlap_counts_of_masks(first: np.ndarray, second: np.ndarray) -> OverlapCounts:
    """Return the sizes of two subnetworks given as bool arrays of one shape."""
    if first.shape != second.shape or first.dtype != np.bool_ or second.dtype != np.bool_:
        raise ValueError("masks must be bool arrays of one shape")
    return overlap_counts(np.packbits(first), np.packbits(second), first.size)


@dataclass(frozen=True)
class Overlap:
    """One-sided overlaps in [0, 1] beside those of a random subnetwork of the same size."""

    o1: float
    o2: float
    o1_null: float
    o2_null: float


def overlap_uniform_null(counts: OverlapCounts) -> Overlap:
    """Return the overlaps of section 5 with the uniform null of Appendix E.

    ``o1 = |I1 & I2| / |I1|`` is the share of subnetwork 1 that subnetwork 2 covers. A subnetwork 2
    drawn uniformly covers each weight with probability ``1 - s2``, the density of model 2.

    Raises:
        ValueError: a subnetwork is empty, so that its overlap is not defined.

    >>> overlap_uniform_null(OverlapCounts(numel=8, first=4, second=2, both=1))
    Overlap(o1=0.25, o2=0.5, o1_null=0.25, o2_null=0.5)
    """
    for number, size in ((1, counts.first), (2, counts.second)):
        if size == 0:
            raise ValueError(f"subnetwork {number} is empty: its overlap is not defined")
    return Overlap(
        counts.both / counts.first,
        counts.both / counts.second,
        counts.second / counts.numel,
        counts.first / counts.numel,
    )
