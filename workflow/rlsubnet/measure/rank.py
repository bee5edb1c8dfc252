"""Is a sparse update also low-rank? Ranks of update matrices and of a random control (Table 2).

A caution on square matrices: the smallest singular value of an n x n random sparse matrix is about
1/n of the largest, and the tolerance n * eps(float32) of the largest can reach it. A rank just
below n is then no finding, and two libraries may differ by one; the random control shows it.
``numerical_rank`` gives the authors' integer there, too.

``numerical_rank`` is the integer of ``torch.linalg.matrix_rank`` at a fraction of the cost of its
decomposition. matrix_rank counts the singular values of a float32 matrix A (m x n, m >= n) above
``tau = max(m, n) * eps(float32) * largest``. Their squares are the eigenvalues of the Gram matrix
``G = A^T A``, so that the rank follows from how many of these lie below ``tau^2``. In float64 that
is exact far below ``tau^2`` (below about 1e-8 of the largest, a singular value that is taken from
there is rounding noise); a float32 Gram matrix would be wrong by more than ``tau^2``.

What is not exact is what is asked for: the float32 decomposition moves singular values by about
``eps(float32) * largest``. So the count is taken a little above and a little below tau. Where both
agree, every decomposition agrees; where they do not, torch is asked.

A plain install has neither scipy nor torch: numpy takes whole spectra, and where rounding decides
its own decomposition stands in for torch's, with a warning.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from rlsubnet.extras import how_to_install
from rlsubnet.measure.formats import to_bfloat16, to_float32

# Rows turned into float64 at a time.
ROWS = 1024
LANCZOS_STEPS, LANCZOS_ACCURACY = 300, 1e-5
# Inverse iteration costs less than a factorization for one vector in so many columns.
FEW, SPARE_VECTORS, INVERSE_STEPS = 32, 4, 2


def add_gram(gram: np.ndarray, matrix: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return ``gram`` plus that of some rows, in float64; its lower triangle alone is valid.

    >>> add_gram(np.zeros((1, 1), order="F"), np.array([[3.0], [4.0], [100.0]]), 0, 2)  # 9 + 16
    array([[25.]])
    """
    from scipy.linalg import blas

    # A wide matrix that was turned lies in memory by columns: turning it back would cost as much as
    # the product.
    by_columns = matrix.strides[0] < matrix.strides[1]
    for start in range(first, last, ROWS):
        block = matrix[start : min(start + ROWS, last)]
        factor = np.asarray(block if by_columns else block.T, dtype=np.float64, order="F")
        trans = int(by_columns)
        gram = blas.dsyrk(1.0, factor, beta=1.0, c=gram, trans=trans, lower=1, overwrite_c=1)
    return gram


def _less_identity(gram: np.ndarray, bound: float) -> np.ndarray:
    shifted = gram.copy(order="F")
    shifted[np.diag_indices_from(shifted)] -= bound
    return shifted


def is_above(gram: np.ndarray, bound: float) -> bool:
    """Return whether all eigenvalues lie above ``bound``: whether a Cholesky factor exists.

    >>> is_above(np.diag([1.0, 2.0]), 0.5), is_above(np.diag([1.0, 2.0]), 1.5)
    (True, False)
    """
    from scipy.linalg import lapack

    _, failed_at = lapack.dpotrf(_less_identity(gram, bound), lower=1, overwrite_a=1, clean=0)
    return bool(failed_at == 0)


class Inertia(NamedTuple):
    """How many eigenvalues lie below a bound, and ``L D L^T = gram - bound I`` by LAPACK."""

    below: int
    factor: np.ndarray
    pivots: np.ndarray


def inertia(gram: np.ndarray, bound: float) -> Inertia:
    """Return how many eigenvalues lie below ``bound``, by Bunch-Kaufman factorization.

    ``L D L^T`` has as many negative eigenvalues as D (Sylvester's law of inertia).

    >>> inertia(np.diag([1.0, 2.0, 3.0]), 2.5).below
    2
    """
    from scipy.linalg import lapack

    shifted = _less_identity(gram, bound)
    factor, pivots, _ = lapack.dsytrf(shifted, lower=1, lwork=64 * len(shifted), overwrite_a=1)
    single = pivots > 0
    # A block of two rows has one negative and one positive eigenvalue.
    below = int((np.diagonal(factor)[single] < 0).sum()) + int((~single).sum()) // 2
    return Inertia(below, factor, pivots)


def all_below(gram: np.ndarray, found: Inertia, bound: float) -> bool:
    """Return whether all eigenvalues below a bound (``found``) lie below a lower one, too.

    Of a few, a subspace near their eigenvectors may prove it, at a fraction of the cost of another
    factorization: its k-th smallest Ritz value is never below the k-th smallest eigenvalue
    (Cauchy's interlacing theorem).

    >>> gram = np.diag([1.0, 2.0, 3.0])
    >>> all_below(gram, inertia(gram, 2.5), 2.2), all_below(gram, inertia(gram, 2.5), 1.5)
    (True, False)
    """
    few = found.below + SPARE_VECTORS <= len(gram) // FEW
    if few and int((_smallest_ritz_values(gram, found) < bound).sum()) == found.below:
        return True
    return inertia(gram, bound).below == found.below


def _smallest_ritz_values(gram: np.ndarray, found: Inertia) -> np.ndarray:
    """Return Ritz values of a subspace near the smallest eigenvalues, by inverse iteration."""
    from scipy.linalg import blas, lapack

    # Any start will do that is not orthogonal to the answer.
    start = np.random.default_rng(0).standard_normal((len(gram), found.below + SPARE_VECTORS))
    basis = np.linalg.qr(start)[0]
    for _ in range(INVERSE_STEPS):
        nearer, _ = lapack.dsytrs(found.factor, found.pivots, basis, lower=1)
        if not np.isfinite(nearer).all():  # the bound is an eigenvalue
            return np.empty(0)
        basis = np.linalg.qr(nearer)[0]
    return np.linalg.eigvalsh(basis.T @ blas.dsymm(1.0, gram, basis, lower=1))


def largest_singular_value(gram: np.ndarray) -> float:
    """Return the root of the largest eigenvalue, by the Lanczos method, to four digits and more.

    >>> round(largest_singular_value(np.diag([9.0, 4.0, 1.0])), 6)
    3.0
    """
    from scipy.linalg import blas, eigh_tridiagonal

    size = gram.shape[0]
    steps = min(LANCZOS_STEPS, size)
    basis = np.empty((steps + 1, size))
    # Any start that is not orthogonal to the answer will do; the same one gives the same digits.
    start = np.random.default_rng(0).standard_normal(size)
    basis[0] = start / np.linalg.norm(start)
    diagonal: list[float] = []
    beside: list[float] = []
    top = before = 0.0
    for step in range(steps):
        image = blas.dsymv(1.0, gram, basis[step], lower=1)
        diagonal.append(float(image @ basis[step]))
        known = basis[: step + 1]
        for _ in range(2):
            image -= known.T @ (known @ image)
        length = float(np.linalg.norm(image))
        ended = length < 1e-14 * abs(diagonal[0]) or step + 1 == steps
        if step % 5 == 4 or ended:
            top = float(
                eigh_tridiagonal(np.array(diagonal), np.array(beside), eigvals_only=True)[-1]
            )
            if ended or abs(top - before) < LANCZOS_ACCURACY * top:
                break
            before = top
        beside.append(length)
        basis[step + 1] = image / length
    return float(np.sqrt(max(top, 0.0)))


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """Return the singular values of a float32 matrix from its Gram matrix, the largest first.

    >>> singular_values(np.array([[3, 0], [0, 4], [0, 0]], np.float32))
    array([4., 3.])
    """
    tall = matrix.T if matrix.shape[0] < matrix.shape[1] else matrix
    rows, columns = tall.shape
    if find_spec("scipy") is None:
        blocks = (tall[i : i + ROWS].astype(np.float64) for i in range(0, rows, ROWS))
        squares = np.linalg.eigvalsh(sum(block.T @ block for block in blocks))
    else:
        from scipy.linalg import eigh

        gram = add_gram(np.zeros((columns, columns), order="F"), tall, 0, rows)
        squares = eigh(gram, lower=True, eigvals_only=True, overwrite_a=True, check_finite=False)
    return np.sqrt(np.maximum(squares[::-1], 0.0))


def singular_values_on(matrix: np.ndarray, device: str) -> np.ndarray:
    """Return what ``singular_values`` does, computed by torch on ``device``, such as ``cuda``."""
    import torch

    tall = matrix.T if matrix.shape[0] < matrix.shape[1] else matrix
    stored = torch.from_numpy(np.ascontiguousarray(tall)).to(device)
    gram = torch.zeros((stored.shape[1],) * 2, dtype=torch.float64, device=device)
    for start in range(0, len(stored), ROWS):
        block = stored[start : start + ROWS].double()
        gram.addmm_(block.T, block)
    squares = torch.linalg.eigvalsh(gram)
    return np.sqrt(np.maximum(squares.cpu().numpy()[::-1], 0.0))


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
    if delta.ndim != 2 or delta.dtype != np.float32:
        raise ValueError(
            f"a rank needs a matrix in float32, found {delta.dtype} {list(delta.shape)}"
        )
    if not np.isfinite(delta).all():
        raise ValueError("an update with NaN or Inf has no rank")


def rank_by_torch(delta: np.ndarray) -> int:
    if find_spec("torch") is None:
        warnings.warn(
            "torch is not installed: a rank at the edge of the tolerance is numpy's and may differ "
            f"from torch's by one or two; {how_to_install('torch')}",
            stacklevel=2,
        )
        return int(np.linalg.matrix_rank(delta))
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
    """Return the rank of a float32 matrix whose singular values are known, the largest first.

    They are accurate to ``eps(float32) * largest`` or better.

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

    >>> numerical_rank(np.diag([1, 2, 0] * 9).astype(np.float32))
    Rank(rank=18, how='inertia')
    """
    refuse_no_matrix(delta)
    core = _tall_core(delta)
    if core.size == 0:
        return Rank(0, "zero")
    if find_spec("scipy") is None:
        return rank_of_spectrum(delta, singular_values(core))
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


# Up to so many rows or columns a whole decomposition takes milliseconds.
SMALL = 256


def has_rank(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether the authors count this tensor: no layer norm, no vector.

    Embedding and head count.

    >>> has_rank("lm_head.weight", (512, 96)), has_rank("model.norm.weight", (96,))
    (True, False)
    """
    return "layernorm" not in name and len(shape) > 1


def update_delta(init: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """Return the authors' update: the bfloat16 difference of bfloat16 weights, as float32.

    >>> update_delta(np.array([1.0], np.float32), np.array([1.5], np.float32))
    array([0.5], dtype=float32)
    """
    difference = to_float32(to_bfloat16(tuned)) - to_float32(to_bfloat16(init))
    return to_float32(to_bfloat16(difference))


@dataclass(frozen=True)
class UpdateRank:
    """Rank of an update matrix and how evenly its energy is spread.

    Attributes:
        rank: singular values above ``max(rows, columns) * eps(float32) * largest``.
        stable_rank: ``||D||_F^2 / ||D||_2^2``, 0 for an update without changes.
        effective_rank: ``exp(H)`` with ``H`` the entropy of the singular values divided by their
            sum (Roy and Vetterli 2007), 0 for an update without changes.
    """

    rank: int
    stable_rank: float
    effective_rank: float


def singular_values_of(delta: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Return the singular values of a float32 matrix, the largest first.

    Up to SMALL rows or columns by a decomposition in float32, beyond from a Gram matrix in float64.
    """
    if min(delta.shape) <= SMALL:
        return np.linalg.svd(delta, compute_uv=False)
    return singular_values(delta) if device == "cpu" else singular_values_on(delta, device)


def _spread(singular: np.ndarray) -> tuple[float, float]:
    """Return stable and effective rank of a spectrum that is not zero."""
    values = singular[singular > 0].astype(np.float64)
    shares = values / values.sum()
    entropy = -float((shares * np.log(shares)).sum())
    return float((values**2).sum() / values[0] ** 2), float(np.exp(entropy))


def update_rank(delta: np.ndarray, device: str = "cpu") -> UpdateRank:
    """Return the rank of an update as ``torch.linalg.matrix_rank(delta.float())`` decides it.

    ``device`` is where large matrices are worked on; torch knows any other than ``cpu``.

    >>> update_rank(np.diag([3.0, 4.0, 0.0]).astype(np.float32)).rank
    2
    >>> update_rank(np.diag([3.0, 4.0, 0.0]).astype(np.float32)).stable_rank  # (9 + 16) / 16
    1.5625
    """
    refuse_no_matrix(delta)
    if not delta.any():
        return UpdateRank(0, 0.0, 0.0)
    singular = singular_values_of(delta, device)
    return UpdateRank(rank_of_spectrum(delta, singular).rank, *_spread(singular))


def rank_alone(delta: np.ndarray, device: str = "cpu") -> int:
    """Return the integer of ``update_rank``, which costs less where the rest is not asked for."""
    if device == "cpu" and min(delta.shape) > SMALL:
        return numerical_rank(delta).rank
    refuse_no_matrix(delta)
    return rank_of_spectrum(delta, singular_values_of(delta, device)).rank


def random_control(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a random update of the same shape that moves as many weights by the same amounts.

    The changed entries of ``delta``, shuffled, at positions drawn uniformly: what is left of a rank
    when structure is taken away and sparsity and step sizes are kept.

    >>> control = random_control(np.diag([1.0, 2.0, 3.0]), np.random.default_rng(0))
    >>> sorted(control[control != 0].tolist())
    [1.0, 2.0, 3.0]
    """
    values = delta[delta != 0]
    control = np.zeros(delta.size, delta.dtype)
    positions = generator.choice(delta.size, size=values.size, replace=False)
    control[positions] = generator.permutation(values)
    return control.reshape(delta.shape)


def mean_rank_share(ranks: Iterable[tuple[int, int]]) -> float:
    """Return the mean over matrices of rank / max_rank, the number of Table 2 in [0, 1].

    >>> mean_rank_share([(1, 2), (4, 4)])
    0.75
    """
    shares = [rank / max_rank for rank, max_rank in ranks]
    if not shares:
        raise ValueError("no matrix to take a mean rank of")
    return sum(shares) / len(shares)
