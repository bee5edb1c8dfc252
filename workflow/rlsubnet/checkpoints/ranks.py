"""Ranks of the update matrices of a pair, each beside a random control."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rlsubnet.checkpoints.compare import Pair, read_delta, tensor_generator
from rlsubnet.measure.parameters import Parameter, parse_parameter
from rlsubnet.measure.rank import UpdateRank, has_rank, random_control, rank_alone, update_rank


@dataclass(frozen=True)
class MatrixRank:
    """The rank of one update matrix.

    Attributes:
        tensor: its name; a matrix of a stack (experts in one tensor) has its index behind it.
        place: layer and matrix kind.
        shape: rows and columns.
        measured: what was found.
        control: rank of as many changes of the same sizes at random positions.
    """

    tensor: str
    place: Parameter
    shape: tuple[int, int]
    measured: UpdateRank
    control: int

    @property
    def max_rank(self) -> int:
        """Return the largest rank that a matrix of this shape can have."""
        return min(self.shape)


def matrix_ranks(pair: Pair, name: str, seed: int, device: str) -> Iterator[MatrixRank]:
    """Yield the ranks of a tensor: none for a vector, several for a stack of matrices.

    Args:
        pair: the two checkpoints.
        name: of the tensor.
        seed: of the random control.
        device: where large matrices are worked on.

    Raises:
        ValueError: weights are NaN or infinite.
    """
    shape = pair.shapes[name]
    if not has_rank(name, shape) or not pair.numel(name):
        return
    whole = read_delta(pair, name)
    for index in np.ndindex(shape[:-2]):
        label = name + "".join(f"[{i}]" for i in index)
        delta = whole[index]
        measured = update_rank(delta, device)
        control = rank_alone(random_control(delta, tensor_generator(seed, label)), device)
        rows, columns = delta.shape
        yield MatrixRank(label, parse_parameter(name), (rows, columns), measured, control)
