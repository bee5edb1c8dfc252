"""Gram matrices in float64 and what their eigenvalues tell about singular values.

The squares of the singular values of A are the eigenvalues of ``A^T A``. Below about 1e-8 of the
largest, a singular value that is taken from there is rounding noise.
"""

from typing import NamedTuple

import numpy as np

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
    """Return whether all eigenvalues below a bound lie below a lower one, too.

    Of a few, a subspace near their eigenvectors may prove it, at a fraction of the cost of another
    factorization: its k-th smallest Ritz value is never below the k-th smallest eigenvalue
    (Cauchy's interlacing theorem).

    Args:
        gram: symmetric, its lower triangle.
        found: from :func:`inertia`.
        bound: the lower one.

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
    from scipy.linalg import eigh

    tall = matrix.T if matrix.shape[0] < matrix.shape[1] else matrix
    rows, columns = tall.shape
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
