"""What two packed masks share in a piece of a tensor, counted by numpy or by compiled loops."""

from collections.abc import Callable

import numpy as np

from rlsubnet.measure.kernels import wants_numba
from rlsubnet.measure.overlap import OverlapCounts, exponent_counts, overlap_counts

# With less than so many weights by exponent, importing numba costs more than it saves.
WORTH_COMPILING = 1 << 29
# (first, second, numel, weights before finetuning or None) -> sizes, and by exponent if known.
SharedBits = Callable[
    [np.ndarray, np.ndarray, int, np.ndarray | None], tuple[OverlapCounts, np.ndarray | None]
]


def _bits(packed: np.ndarray, numel: int) -> np.ndarray:
    return np.unpackbits(packed, count=numel, bitorder="little").view(np.bool_)


def numpy_shared_bits(
    first: np.ndarray, second: np.ndarray, numel: int, init: np.ndarray | None = None
) -> tuple[OverlapCounts, np.ndarray | None]:
    """Return the sizes of two subnetworks, and ``exponent_counts`` where ``init`` is given.

    Args:
        first, second: packed bits, the first weight lowest, zeros beyond the last.
        numel: number of weights.
        init: as many weights before finetuning, as stored.

    >>> first, second = np.array([0b0011], np.uint8), np.array([0b0110], np.uint8)
    >>> counts, by_exponent = numpy_shared_bits(first, second, 3, np.ones(3, np.float32))
    >>> counts, by_exponent[127].tolist()
    (OverlapCounts(numel=3, first=2, second=2, both=1), [3, 2, 2, 1])
    """
    if init is None:
        return overlap_counts(first, second, numel), None
    groups = exponent_counts(_bits(first, numel), _bits(second, numel), init)
    return OverlapCounts(*groups.sum(axis=0).tolist()), groups


def choose_shared_bits(kernel: str, numel: int, by_exponent: bool) -> SharedBits:
    """Return what counts; both ways give the same integers.

    Args:
        kernel: ``numpy``, ``numba`` or ``auto``, see ``measure.kernels``.
        numel: weights that will be counted.
        by_exponent: whether they will be counted by exponent; numpy is slow at that alone.

    >>> choose_shared_bits("numpy", 1 << 40, by_exponent=True).__name__
    'numpy_shared_bits'
    """
    if not wants_numba(kernel, worthwhile=by_exponent and numel >= WORTH_COMPILING):
        return numpy_shared_bits
    from rlsubnet.measure.shared_bits_numba import numba_shared_bits

    return numba_shared_bits
