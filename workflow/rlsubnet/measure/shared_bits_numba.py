"""``measure.shared_bits`` as compiled loops; needs numba (extra ``fast``)."""

import numba
import numpy as np

from rlsubnet.measure.bfloat16 import to_bfloat16
from rlsubnet.measure.overlap import EXPONENTS, OverlapCounts, refuse_bad_exponents

WORD = 8


@numba.njit(inline="always")
def _popcount(word):  # type: ignore[no-untyped-def]
    """Return how many bits of a uint64 are set, by sums of neighbors that vectors can do."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit("void(uint64[::1],uint64[::1],int64[::1])", nogil=True, cache=True)
def _count(first, second, sizes):  # type: ignore[no-untyped-def]
    in_first, in_second, in_both = np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(first.size):
        in_first += _popcount(first[i])
        in_second += _popcount(second[i])
        in_both += _popcount(first[i] & second[i])
    sizes[0] += np.int64(in_first)
    sizes[1] += np.int64(in_second)
    sizes[2] += np.int64(in_both)


@numba.njit("void(uint8[::1],uint8[::1],uint16[::1],uint32[:,::1])", nogil=True, cache=True)
def _sort(first, second, init, sheaf):  # type: ignore[no-untyped-def]
    """Count weights by exponent and marks, in four tables so that no count waits for another."""
    for i in range(init.size):
        shift = np.uint8(i & 7)
        marks = ((first[i >> 3] >> shift) & 1) << 1 | (second[i >> 3] >> shift) & 1
        key = (np.uint32(init[i] >> np.uint16(5)) & np.uint32(0x3FC)) | np.uint32(marks)
        sheaf[i & 3, key] += np.uint32(1)


def numba_shared_bits(
    first: np.ndarray, second: np.ndarray, numel: int, init: np.ndarray | None = None
) -> tuple[OverlapCounts, np.ndarray | None]:
    """Do what ``numpy_shared_bits`` does.

    >>> first, second = np.array([0b0011], np.uint8), np.array([0b0110], np.uint8)
    >>> counts, by_exponent = numba_shared_bits(first, second, 3, np.ones(3, np.float32))
    >>> counts, by_exponent[127].tolist()
    (OverlapCounts(numel=3, first=2, second=2, both=1), [3, 2, 2, 1])
    """
    if init is not None:
        sheaf = np.zeros((4, 4 * EXPONENTS), np.uint32)
        _sort(first, second, to_bfloat16(init), sheaf)
        groups = refuse_bad_exponents(sheaf.sum(axis=0, dtype=np.int64), numel)
        return OverlapCounts(*groups.sum(axis=0).tolist()), groups
    whole = first.size // WORD * WORD
    sizes = np.zeros(3, np.int64)
    _count(first[:whole].view(np.uint64), second[:whole].view(np.uint64), sizes)
    rest = [np.zeros(WORD, np.uint8) for _ in range(2)]
    for padded, packed in zip(rest, (first, second), strict=True):
        padded[: packed.size - whole] = packed[whole:]
    _count(rest[0].view(np.uint64), rest[1].view(np.uint64), sizes)
    return OverlapCounts(numel, *sizes.tolist()), None
