"""The integer of ``torch.linalg.matrix_rank`` at a fraction of the cost of its decomposition.

matrix_rank counts the singular values of a float32 matrix A (m x n, m >= n) above
``tau = max(m, n) * eps(float32) * largest``. Their squares are the eigenvalues of the Gram matrix
``G = A^T A``, so that the rank follows from how many of these lie below ``tau^2``. In float64 that
is exact far below ``tau^2``; a float32 Gram matrix would be wrong by more than ``tau^2``.

What is not exact is what is asked for: the float32 decomposition moves singular values by about
``eps(float32) * largest``. So the count is taken a little above and a little below tau. Where both
agree, every decomposition agrees; where they do not, torch is asked.
"""

from dataclasses import dataclass

import numpy as np

from rlsubnet.measure.gram import (
    ROWS,
    add_gram,
    all_below,
    inertia,
    is_above,
    largest_singular_value,
)

EPS32 = float(np.finfo(np.float32).eps)
# Relative distance to tau within which torch decides, and the same in units of eps * largest.
WINDOW, WINDOW_EPS = 5e-3, 8
# Rows, in multiples of the columns, of the subsets that may prove full rank.
SUBSETS = (1.1, 1.5, 2.5)


@dataclass(frozen=True)
class Rank:
    """A rank and how it was decided: ``zero``, ``certificate``, ``inertia``, ``spectrum``, ``svd``.

    ``svd`` alone means that torch was asked.
    """

    rank: int
    how: str


def refuse_no_matrix(delta: np.ndarray) -> None:
    """Refuse what has no rank.

    Raises:
        ValueError: not a float32 matrix, or entries that are not finite. (LAPACK may report success
            on NaN.)
    """
    if delta.ndim != 2 or delta.dtype != np.float32:
        raise ValueError(
            f"a rank needs a matrix in float32, found {delta.dtype} {list(delta.shape)}"
        )
    if not np.isfinite(delta).all():
        raise ValueError("an update with NaN or Inf has no rank")


def rank_by_torch(delta: np.ndarray) -> int:
    """Return the rank as the authors take it: ``torch.linalg.matrix_rank`` in float32."""
    import torch

    return int(torch.linalg.matrix_rank(torch.from_numpy(np.ascontiguousarray(delta))))


def _limits(shape: tuple[int, ...]) -> tuple[float, float]:
    """Return tau over the largest singular value, lowered and raised by the window.

    >>> tuple(round(limit / EPS32) for limit in _limits((4096, 1024)))  # 4096 * (1 -+ 0.005)
    (4076, 4116)
    >>> tuple(round(limit / EPS32) for limit in _limits((64, 16))), _limits((4, 4))[0]
    ((56, 72), 0.0)
    """
    longest = max(shape)
    width = max(WINDOW * longest, WINDOW_EPS)
    return max(longest - width, 0.0) * EPS32, (longest + width) * EPS32


def rank_of_spectrum(delta: np.ndarray, singular: np.ndarray) -> Rank:
    """Return the rank of a matrix of which the singular values are known.

    Args:
        delta: float32, (rows, columns), finite.
        singular: its singular values, accurate to ``eps(float32) * largest`` or better, the largest
            first.

    >>> delta = np.diag([1, 2, 0] * 9).astype(np.float32)
    >>> rank_of_spectrum(delta, np.sort(np.diagonal(delta))[::-1])
    Rank(rank=18, how='spectrum')
    """
    if not singular.size or singular[0] == 0:
        return Rank(0, "zero")
    low, high = (int((singular > limit * singular[0]).sum()) for limit in _limits(delta.shape))
    return Rank(low, "spectrum") if low == high else Rank(rank_by_torch(delta), "svd")


def _tall_core(delta: np.ndarray) -> np.ndarray:
    """Return the matrix without empty rows and columns, at least as high as wide.

    Neither changes a singular value other than zero.
    """
    rows, columns = np.flatnonzero(delta.any(axis=1)), np.flatnonzero(delta.any(axis=0))
    core = delta[rows] if rows.size < delta.shape[0] else delta
    core = core[:, columns] if columns.size < core.shape[1] else core
    return core.T if core.shape[0] < core.shape[1] else core


def _at_least_largest(core: np.ndarray) -> float:
    """Return a cheap bound: no singular value exceeds sqrt(|A|_1 |A|_inf).

    Sums are in float32, of at most ROWS or as many numbers as there are columns; the bound is
    raised by more than these can be rounded.
    """
    by_column, by_row = np.zeros(core.shape[1]), 0.0
    for start in range(0, core.shape[0], ROWS):
        sizes = np.abs(core[start : start + ROWS])
        by_column += np.ones(len(sizes), np.float32) @ sizes
        by_row = max(by_row, float((sizes @ np.ones(sizes.shape[1], np.float32)).max()))
    rounding = max(ROWS, core.shape[1]) * EPS32
    return float(np.sqrt(by_column.max() * by_row)) * (1 + rounding)


def _certified(core: np.ndarray, limit: float) -> tuple[bool, np.ndarray, int]:
    """Return whether some rows prove full rank, their Gram matrix, and how many they are.

    Leaving out rows can only lower the smallest singular value: if it exceeds the largest that tau
    can be on some rows, it does so on all.
    """
    rows, columns = core.shape
    gram, done = np.zeros((columns, columns), order="F"), 0
    if rows < SUBSETS[0] * columns:
        return False, gram, done
    bound = (limit * _at_least_largest(core)) ** 2
    for share in SUBSETS:
        wanted = min(rows, int(share * columns) + 1)
        if wanted == done:
            break
        gram, done = add_gram(gram, core, done, wanted), wanted
        if is_above(gram, bound):
            return True, gram, done
    return False, gram, done


def numerical_rank(delta: np.ndarray) -> Rank:
    """Return the integer that ``torch.linalg.matrix_rank(delta)`` gives, and how it was decided.

    Args:
        delta: float32, (rows, columns).

    Raises:
        ValueError: not a float32 matrix, or entries that are not finite.

    >>> numerical_rank(np.diag([1, 2, 0] * 9).astype(np.float32))
    Rank(rank=18, how='inertia')
    """
    refuse_no_matrix(delta)
    core = _tall_core(delta)
    if core.size == 0:
        return Rank(0, "zero")
    rows, columns = core.shape
    low, high = _limits(delta.shape)
    certain, gram, done = _certified(core, high)
    if certain:
        return Rank(columns, "certificate")
    gram = add_gram(gram, core, done, rows)
    largest = largest_singular_value(gram)
    found = inertia(gram, (high * largest) ** 2)
    if found.below == 0 or all_below(gram, found, (low * largest) ** 2):
        return Rank(columns - found.below, "inertia")
    return Rank(rank_by_torch(delta), "svd")
