"""Is a sparse update also low-rank? Ranks of update matrices and of a random control (Table 2).

A caution on square matrices: the smallest singular value of an n x n random sparse matrix is about
1/n of the largest, and the tolerance n * eps(float32) of the largest can reach it. A rank just
below n is then no finding, and two libraries may differ by one; the random control shows it.
``measure.numerical_rank`` gives the authors' integer there, too.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rlsubnet.measure.bfloat16 import to_bfloat16, to_float32
from rlsubnet.measure.gram import singular_values, singular_values_on
from rlsubnet.measure.numerical_rank import numerical_rank, rank_of_spectrum, refuse_no_matrix

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

    >>> singular_values_of(np.array([[3, 0], [0, 4]], np.float32))
    array([4., 3.], dtype=float32)
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

    Args:
        delta: the update, float32, (rows, columns).
        device: where large matrices are worked on; torch knows any other than ``cpu``.

    Raises:
        ValueError: not a matrix in float32, or entries that are not finite.

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
    """Return the integer of ``update_rank``, which costs less where the rest is not asked for.

    >>> rank_alone(np.diag([3.0, 4.0, 0.0]).astype(np.float32))
    2
    """
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
