"""How large an update is beside the weights that it moves."""

import math
from dataclasses import dataclass

import numpy as np

from rlsubnet.measure.bfloat16 import to_float32


@dataclass(frozen=True)
class UpdateNorms:
    """Sums of squares of some weights; those of two disjoint parts add up with ``+``.

    Attributes:
        numel: number of weights.
        init_squares: sum of ``init**2``.
        update_squares: sum of ``(tuned - init)**2``.
    """

    numel: int = 0
    init_squares: float = 0.0
    update_squares: float = 0.0

    def __add__(self, other: "UpdateNorms") -> "UpdateNorms":
        return UpdateNorms(
            self.numel + other.numel,
            self.init_squares + other.init_squares,
            self.update_squares + other.update_squares,
        )

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

    Args:
        init: weights before finetuning, as stored (uint16 codes for bfloat16), any shape.
        tuned: weights after finetuning, same shape.

    >>> norms = update_norms(np.array([3.0, 4.0], np.float32), np.array([3.0, 4.5], np.float32))
    >>> norms.init, norms.update, norms.relative
    (5.0, 0.5, 0.1)
    """
    before = to_float32(init).astype(np.float64).reshape(-1)
    moved = to_float32(tuned).astype(np.float64).reshape(-1) - before
    # Not a dot product: that is BLAS, whose own threads get in the way of those that read.
    squares = (float(np.square(values, out=values).sum()) for values in (before, moved))
    return UpdateNorms(init.size, *squares)
