"""The kernel and the shared bits of two masks as compiled loops; needs numba (extra ``fast``).

Blocks of 1024 weights keep all that is derived from them in the first-level cache, and every loop
over a block is one that LLVM turns into vector instructions. Compiled once for a machine, then
loaded from numba's cache: signatures are given, and nothing is captured in a closure, either of
which would end in compiling again.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from rlsubnet.measure.formats import EXPONENTS, to_bfloat16, to_float32
from rlsubnet.measure.kernel import INFINITY, Counts, Request
from rlsubnet.measure.overlap import OverlapCounts, refuse_bad_exponents

BLOCK = 1024
WORD = 8
_RULES = {"bitwise": 0, "official": 1, "exact": 2}


@intrinsic
def _bits_of(context: Any, number: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the bits of a float32 as uint32."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _number_of(context: Any, bits: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the float32 of the given bits."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@numba.njit(inline="always")
def _rounded(bits):  # type: ignore[no-untyped-def]
    """Return the bits of a float32 rounded to bfloat16, to nearest and ties to even."""
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)


@numba.njit(inline="always")
def _distance(before, after):  # type: ignore[no-untyped-def]
    """Return the bits of ``|after - before|`` in float32."""
    return _bits_of(abs(_number_of(after) - _number_of(before)))


@numba.njit(inline="always")
def _count_both(official, exact, size, limits, changed):  # type: ignore[no-untyped-def]
    """Count the differences of a block beyond each tolerance, both rules in one sweep."""
    for j in range(limits.shape[0]):
        limit_official, limit_exact = limits[j, 0], limits[j, 1]
        beyond_official, beyond_exact = np.uint32(0), np.uint32(0)
        for i in range(size):
            beyond_official += np.uint32(official[i] > limit_official)
            beyond_exact += np.uint32(exact[i] > limit_exact)
        changed[j, 0] += np.int64(beyond_official)
        changed[j, 1] += np.int64(beyond_exact)


@numba.njit(inline="always")
def _count_shared(distance, size, ends, nonzero, limits, changed):  # type: ignore[no-untyped-def]
    """Do the same where both rules look at one difference, which is then loaded once.

    ``ends`` are the smallest difference that is not zero and the largest, ``nonzero`` says how many
    are not zero: mostly all of these lie beyond a tolerance, or none, and nothing is looked at.
    """
    least, most = ends
    for j in range(limits.shape[0]):
        limit_official, limit_exact = limits[j, 0], limits[j, 1]
        if most <= min(limit_official, limit_exact):
            continue
        if least > max(limit_official, limit_exact):
            changed[j, 0] += np.int64(nonzero)
            changed[j, 1] += np.int64(nonzero)
            continue
        beyond_official, beyond_exact = np.uint32(0), np.uint32(0)
        for i in range(size):
            beyond_official += np.uint32(distance[i] > limit_official)
            beyond_exact += np.uint32(distance[i] > limit_exact)
        changed[j, 0] += np.int64(beyond_official)
        changed[j, 1] += np.int64(beyond_exact)


@numba.njit(inline="always")
def _pack(marked, size, packed):  # type: ignore[no-untyped-def]
    """Turn bytes of 0 and 1 into bits, eight at a time and the first one lowest."""
    for i in range(size, (size + 7) // 8 * 8):
        marked[i] = 0
    words = marked.view(np.uint64)
    for i in range((size + 7) // 8):
        # The product moves the lowest bit of byte k to bit 56 + k.
        packed[i] = np.uint8((words[i] * np.uint64(0x0102040810204080)) >> np.uint64(56))


@numba.njit(inline="always")
def _sort_by_exponent(init, marked, size, tables):  # type: ignore[no-untyped-def]
    """Count weights by exponent and mark, in four tables so that no count waits for another."""
    for i in range(size):
        key = ((init[i] >> np.uint32(22)) & np.uint32(0x1FE)) | np.uint32(marked[i])
        tables[i & 3, key] += np.uint32(1)


@numba.njit(inline="always")
def _mark(  # type: ignore[no-untyped-def]
    init, official, exact, moved, size, rule, mark_limit, tables, packed
):
    """Write the mask of a block and sort the block by exponent, where that is asked for."""
    if rule == 1:
        for i in range(size):
            moved[i] = np.uint8(official[i] > mark_limit)
    elif rule == 2:
        for i in range(size):
            moved[i] = np.uint8(exact[i] > mark_limit)
    if tables.size:
        _sort_by_exponent(init, moved, size, tables)
    if packed.size:
        _pack(moved, size, packed)


@numba.njit(
    "uint32(uint16[::1],uint16[::1],"
    "uint32[:,::1],int64,int64,int64[:,::1],int64[::1],uint32[:,::1],uint8[::1])",
    nogil=True,
    cache=True,
)
def _bfloat16_pass(  # type: ignore[no-untyped-def]
    init, tuned, limits, rule, mark_limit, changed, totals, tables, packed
):
    distance, widened = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    moved = np.empty(BLOCK, np.uint8)
    largest = np.uint32(0)
    for start in range(0, init.size, BLOCK):
        size = min(BLOCK, init.size - start)
        x, y = init[start : start + size], tuned[start : start + size]
        most, below_least, nonzero = np.uint32(0), np.uint32(0xFFFFFFFF), np.uint32(0)
        for i in range(size):
            bits = _distance(np.uint32(x[i]) << np.uint32(16), np.uint32(y[i]) << np.uint32(16))
            distance[i] = bits
            most = max(most, bits)
        for i in range(size):
            # One less than zero is the largest number there is.
            below_least = min(below_least, np.uint32(distance[i] - np.uint32(1)))
        for i in range(size):
            nonzero += np.uint32(distance[i] > np.uint32(0))
        largest = max(largest, most)
        ends = np.uint32(below_least + np.uint32(1)), most
        for i in range(size):
            moved[i] = np.uint8(x[i] != y[i])
        differing = np.uint32(0)
        for i in range(size):
            differing += np.uint32(moved[i])
        totals[1] += np.int64(differing)
        if tables.size:
            for i in range(size):
                widened[i] = np.uint32(x[i]) << np.uint32(16)
        mask = packed[start // 8 : (start + size + 7) // 8]
        _count_shared(distance, size, ends, nonzero, limits, changed)
        _mark(widened, distance, distance, moved, size, rule, mark_limit, tables, mask)
    totals[0] += init.size
    totals[2] = max(totals[2], np.int64(largest))
    return largest


@numba.njit(
    "uint32(uint32[::1],uint32[::1],boolean,"
    "uint32[:,::1],int64,int64,int64[:,::1],int64[::1],uint32[:,::1],uint8[::1])",
    nogil=True,
    cache=True,
)
def _float32_pass(  # type: ignore[no-untyped-def]
    init, tuned, one_type, limits, rule, mark_limit, changed, totals, tables, packed
):
    exact, official = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    before, after = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    moved = np.empty(BLOCK, np.uint8)
    largest = np.uint32(0)
    for start in range(0, init.size, BLOCK):
        size = min(BLOCK, init.size - start)
        x, y = init[start : start + size], tuned[start : start + size]
        for i in range(size):
            bits = _distance(x[i], y[i])
            exact[i] = bits
            largest = max(largest, bits)
        for i in range(size):
            before[i] = _rounded(x[i])
            after[i] = _rounded(y[i])
        for i in range(size):
            official[i] = _distance(before[i], after[i])
        if one_type:
            for i in range(size):
                moved[i] = np.uint8(x[i] != y[i])
        else:
            for i in range(size):
                moved[i] = np.uint8(before[i] != after[i])
        differing = np.uint32(0)
        for i in range(size):
            differing += np.uint32(moved[i])
        totals[1] += np.int64(differing)
        mask = packed[start // 8 : (start + size + 7) // 8]
        _count_both(official, exact, size, limits, changed)
        _mark(before, official, exact, moved, size, rule, mark_limit, tables, mask)
    totals[0] += init.size
    totals[2] = max(totals[2], np.int64(largest))
    return largest


_NO_TABLES, _NO_MASK = np.empty((0, 0), np.uint32), np.empty(0, np.uint8)


def numba_kernel(
    init: np.ndarray,
    tuned: np.ndarray,
    request: Request,
    counts: Counts,
    packed: np.ndarray | None = None,
) -> bool:
    """Do what ``measure.kernel.numpy_kernel`` does, by compiled loops."""
    tables = _NO_TABLES if counts.by_exponent is None else np.zeros((4, 2 * EXPONENTS), np.uint32)
    rest = (
        request.limits,
        _RULES[request.rule],
        request.mark_limit,
        counts.changed,
        counts.totals,
        tables,
        _NO_MASK if packed is None else packed,
    )
    if init.dtype == tuned.dtype == np.uint16:
        largest = _bfloat16_pass(init, tuned, *rest)
    else:
        # Every float16 number is a float32 number: equal bits stay equal, and no others become so.
        before, after = (to_float32(weights).view(np.uint32) for weights in (init, tuned))
        largest = _float32_pass(before, after, init.dtype == tuned.dtype, *rest)
    if counts.by_exponent is not None:
        by_key = tables.sum(axis=0, dtype=np.int64).reshape(EXPONENTS, 2)
        counts.by_exponent[:, 0] += by_key.sum(axis=1)
        counts.by_exponent[:, 1] += by_key[:, 1]
    # NaN less anything is NaN, and infinity less anything is infinite or NaN.
    return bool(largest < INFINITY)


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
def _sort(first, second, init, tables):  # type: ignore[no-untyped-def]
    """Count weights by exponent and marks, in four tables so that no count waits for another."""
    for i in range(init.size):
        shift = np.uint8(i & 7)
        marks = ((first[i >> 3] >> shift) & 1) << 1 | (second[i >> 3] >> shift) & 1
        key = (np.uint32(init[i] >> np.uint16(5)) & np.uint32(0x3FC)) | np.uint32(marks)
        tables[i & 3, key] += np.uint32(1)


def numba_shared_bits(
    first: np.ndarray, second: np.ndarray, numel: int, init: np.ndarray | None = None
) -> tuple[OverlapCounts, np.ndarray | None]:
    """Do what ``numpy_shared_bits`` does, by compiled loops."""
    if init is not None:
        tables = np.zeros((4, 4 * EXPONENTS), np.uint32)
        _sort(first, second, to_bfloat16(init), tables)
        groups = refuse_bad_exponents(tables.sum(axis=0, dtype=np.int64), numel)
        return OverlapCounts(*groups.sum(axis=0).tolist()), groups
    whole = first.size // WORD * WORD
    sizes = np.zeros(3, np.int64)
    _count(first[:whole].view(np.uint64), second[:whole].view(np.uint64), sizes)
    rest = [np.zeros(WORD, np.uint8) for _ in range(2)]
    for padded, packed in zip(rest, (first, second), strict=True):
        padded[: packed.size - whole] = packed[whole:]
    _count(rest[0].view(np.uint64), rest[1].view(np.uint64), sizes)
    return OverlapCounts(numel, *sizes.tolist()), None
