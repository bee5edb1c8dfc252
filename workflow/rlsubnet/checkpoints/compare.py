"""Two or more checkpoints side by side: which tensors match, and their weights piece by piece."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlsubnet.checkpoints.differ import diff_tensors
from rlsubnet.checkpoints.masks import Mask, Shape
from rlsubnet.checkpoints.safetensors_file import ITEM_BYTES
from rlsubnet.checkpoints.store import CHUNK, Checkpoint, refuse_not_finite
from rlsubnet.measure.fused import Wanted
from rlsubnet.measure.rank import update_delta
from rlsubnet.measure.sparsity import (
    TABLE_TOLERANCE,
    UpdateCounts,
    bitwise_changed,
    changed,
)
from rlsubnet.measure.trajectory import StepCounts, trajectory_counts


@dataclass(frozen=True)
class Pair:
    """Two checkpoints of one architecture.

    Attributes:
        init, tuned: the checkpoints.
        shapes: what is compared: name -> shape; fewer rows than stored where a tensor was resized.
        resized: name -> (rows of init, rows of tuned) where they differ and that was allowed.
    """

    init: Checkpoint
    tuned: Checkpoint
    shapes: dict[str, Shape]
    resized: dict[str, tuple[int, int]]

    @property
    def differing_dtypes(self) -> dict[str, tuple[str, str]]:
        """Return name -> (stored type of init, of tuned) where the two are not the same.

        There, ``official`` and ``bitwise`` round both to bfloat16, ``exact`` widens to float32.
        """
        pairs = {
            name: (self.init.tensors[name].dtype, self.tuned.tensors[name].dtype)
            for name in self.shapes
        }
        return {name: (a, b) for name, (a, b) in pairs.items() if a != b}

    def numel(self, name: str) -> int:
        """Return the number of compared weights of a tensor."""
        return math.prod(self.shapes[name])

    def nbytes(self, name: str) -> int:
        """Return the number of bytes that both files hold of the compared weights of a tensor."""
        sides = (checkpoint.tensors[name].dtype for checkpoint in (self.init, self.tuned))
        return self.numel(name) * sum(ITEM_BYTES[dtype] for dtype in sides)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def pair_checkpoints(init: Checkpoint, tuned: Checkpoint, common_rows: Sequence[str] = ()) -> Pair:
    """Match the tensors of two checkpoints.

    Args:
        init: the checkpoint before finetuning.
        tuned: the checkpoint after finetuning.
        common_rows: tensors whose number of rows may differ, such as a resized vocabulary; their
            first rows, as many as both have, are compared.

    Raises:
        ValueError: a tensor is on one side only, shapes differ, or ``common_rows`` names a tensor
            that is not there; lists everything that does not match, of both sides.
    """
    between = f"{init.path} and {tuned.path}"
    known = {*init.tensors, *tuned.tensors, *init.tied, *tuned.tied}
    if unknown := [name for name in common_rows if name not in known]:
        raise ValueError(f"{between}: no tensor for common rows: {_listed(unknown)}")
    only_init = [name for name in init.tensors if name not in tuned.tensors]
    only_tuned = [name for name in tuned.tensors if name not in init.tensors]
    shapes: dict[str, Shape] = {}
    resized, differing = {}, []
    for name in init.tensors:
        if name not in tuned.tensors:
            continue
        a, b = init.tensors[name].shape, tuned.tensors[name].shape
        shapes[name] = a
        if a != b and name in common_rows and a and b and a[1:] == b[1:]:
            shapes[name] = (min(a[0], b[0]), *a[1:])
            resized[name] = (a[0], b[0])
        elif a != b:
            differing.append(f"{name} {list(a)} against {list(b)}")
    if only_init or only_tuned or differing:
        raise ValueError(
            f"{between} do not match: only in {init.path}: {_listed(only_init)}; only in "
            f"{tuned.path}: {_listed(only_tuned)}; shapes: {_listed(differing)}"
        )
    return Pair(init, tuned, shapes, resized)


def read_finite(checkpoint: Checkpoint, name: str, start: int, count: int) -> np.ndarray:
    """Return flat weights as stored, refusing NaN and Inf.

    Raises:
        ValueError: weights are NaN or infinite; names file and tensor.
    """
    weights = checkpoint.read_range(name, start, count)
    refuse_not_finite(checkpoint.tensors[name], start, weights)
    return weights


def paired_chunks(
    pair: Pair, name: str, chunk: int = CHUNK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the weights of a tensor before and after finetuning, in flat pieces as stored."""
    numel = pair.numel(name)
    for start in range(0, numel, chunk):
        count = min(chunk, numel - start)
        yield (
            read_finite(pair.init, name, start, count),
            read_finite(pair.tuned, name, start, count),
        )


def compare_tensors(
    pair: Pair, tolerances: Sequence[float], chunk: int = CHUNK
) -> Iterator[tuple[str, UpdateCounts]]:
    """Yield each tensor's name and what finetuning did to it.

    Raises:
        ValueError: a tolerance that is none, or weights that are NaN or infinite.
    """
    for name, tally in diff_tensors(pair, Wanted(tuple(tolerances)), chunk=chunk).items():
        yield name, tally.counts(tolerances)


def mask_pieces(
    pair: Pair, rule: str = "bitwise", atol: float = TABLE_TOLERANCE, chunk: int = CHUNK
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, flat bool piece) for ``write_mask``: where finetuning changed a weight."""
    for name in pair.shapes:
        for init, tuned in paired_chunks(pair, name, chunk):
            yield name, changed(init, tuned, rule, atol)


def tensor_generator(seed: int, name: str) -> np.random.Generator:
    """Return a generator that depends on seed and tensor alone, not on the tensors before it."""
    return np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()])


def random_masks(pair: Pair, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, flat bool mask) for ``write_mask``: as many weights of each tensor as changed.

    The control of a subnetwork: its size in every tensor, at positions drawn uniformly.
    """
    for name in pair.shapes:
        pieces = (int(changed(a, b, "bitwise", 0.0).sum()) for a, b in paired_chunks(pair, name))
        mask = np.zeros(pair.numel(name), np.bool_)
        mask[: sum(pieces)] = True
        tensor_generator(seed, name).shuffle(mask)
        yield name, mask


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


@dataclass(frozen=True)
class FrozenCounts:
    """Changes on both sides of a mask; ``frozen_changed`` must be 0 after masked training."""

    numel: int
    frozen: int
    frozen_changed: int
    subnetwork: int
    subnetwork_changed: int


def check_frozen(pair: Pair, mask: Mask, chunk: int = CHUNK) -> Iterator[tuple[str, FrozenCounts]]:
    """Yield, per tensor, how many weights outside and inside the mask changed a bit.

    Raises:
        ValueError: the mask does not fit, tensors were resized, or a stored type differs: then
            equal bits mean nothing.
    """
    mask.check_shapes(pair.shapes, str(pair.init.path))
    if pair.resized or pair.differing_dtypes:
        names = [*pair.resized, *pair.differing_dtypes]
        raise ValueError(
            f"{pair.tuned.path}: cannot be compared bit by bit with {pair.init.path}: "
            f"stored types or rows differ: {_listed(names)}"
        )
    for name in pair.shapes:
        subnetwork = both = outside = start = 0
        for init, tuned in paired_chunks(pair, name, chunk):
            inside = mask.read_range(name, start, init.size)
            moved = bitwise_changed(init, tuned)
            subnetwork += int(inside.sum())
            both += int((moved & inside).sum())
            outside += int((moved & ~inside).sum())
            start += init.size
        numel = pair.numel(name)
        yield name, FrozenCounts(numel, numel - subnetwork, outside, subnetwork, both)


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
                f"{step.path}: stored types are not those of {init.path}: "
                f"{_listed(list(differing))}"
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
