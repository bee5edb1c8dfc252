"""The structure of updates: ranks of the matrices of a pair, and classes of weights along a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.formats import CHUNK
from rlsubnet.checkpoints.pair import (
    Pair,
    listed,
    pair_checkpoints,
    paired_chunks,
    read_finite,
    tensor_generator,
)
from rlsubnet.measure.parameters import Parameter, parse_parameter
from rlsubnet.measure.rank import (
    UpdateRank,
    has_rank,
    random_control,
    rank_alone,
    update_delta,
    update_rank,
)
from rlsubnet.measure.trajectory import StepCounts, trajectory_counts


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
        return min(self.shape)


def read_delta(pair: Pair, name: str, chunk: int = CHUNK) -> np.ndarray:
    """Return the authors' update of one whole tensor (``measure.rank.update_delta``), in float32.

    Raises:
        ValueError: weights are NaN or infinite.
    """
    delta, start = np.empty(pair.numel(name), np.float32), 0
    for init, tuned in paired_chunks(pair, name, chunk):
        delta[start : start + init.size] = update_delta(init, tuned)
        start += init.size
    return delta.reshape(pair.shapes[name])


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


def measure_trajectory(
    init: Checkpoint, steps: Sequence[Checkpoint], chunk: int = CHUNK
) -> list[StepCounts]:
    """Return the counts of every saved step over the whole model.

    Raises:
        ValueError: no step, or a step whose tensors or stored types are not those of ``init``.
    """
    if not steps:
        raise ValueError(f"{init.path}: a trajectory needs at least one saved step")
    for step in steps:
        if differing := pair_checkpoints(init, step).differing_dtypes:
            raise ValueError(
                f"{step.path}: stored types are not those of {init.path}: {listed(list(differing))}"
            )
    totals = [StepCounts()] * len(steps)
    for name, info in init.tensors.items():
        for start in range(0, info.numel, chunk):
            count = min(chunk, info.numel - start)
            first, *later = (
                read_finite(checkpoint, name, start, count) for checkpoint in (init, *steps)
            )
            parts = trajectory_counts(first, later)
            totals = [total + part for total, part in zip(totals, parts, strict=True)]
    return totals
