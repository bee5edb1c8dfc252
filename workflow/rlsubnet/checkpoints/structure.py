"""The structure of updates, one piece in memory at a time.

Ranks of the matrices of a pair, what two subnetworks share, classes of weights along a run.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.differ import keep_freed_memory
from rlsubnet.checkpoints.formats import CHUNK, encode_header, pieces
from rlsubnet.checkpoints.masks import Mask, described
from rlsubnet.checkpoints.pair import (
    Pair,
    listed,
    pair_checkpoints,
    paired_chunks,
    read_finite,
    tensor_generator,
)
from rlsubnet.files import replacing
from rlsubnet.measure.kernels import choose_shared_bits
from rlsubnet.measure.overlap import (
    EXPONENTS,
    OverlapCounts,
    TensorOverlap,
    chance_overlap,
    popcount,
)
from rlsubnet.measure.parameters import Parameter, natural_order, parse_parameter
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
        shape: rows and columns.
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
    """Return the authors' update of a whole tensor (``measure.rank.update_delta``), in float32."""
    delta, start = np.empty(pair.numel(name), np.float32), 0
    for init, tuned in paired_chunks(pair, name, chunk):
        delta[start : start + init.size] = update_delta(init, tuned)
        start += init.size
    return delta.reshape(pair.shapes[name])


def matrix_ranks(pair: Pair, name: str, seed: int, device: str) -> Iterator[MatrixRank]:
    """Yield the ranks of a tensor: none for a vector, several for a stack of matrices."""
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
    """Return the counts of every saved step over the whole model."""
    if not steps:
        raise ValueError(f"{init.path}: a trajectory needs at least one saved step")
    for step in steps:
        if differing := pair_checkpoints(init, step).differing_dtypes:
            raise ValueError(
                f"{step.path}: stored types are not those of {init.path}: {listed(list(differing))}"
            )
    totals = [StepCounts()] * len(steps)
    for name, info in init.tensors.items():
        for start, count in pieces(info.numel, chunk):
            first, *later = (
                read_finite(checkpoint, name, start, count) for checkpoint in (init, *steps)
            )
            parts = trajectory_counts(first, later)
            totals = [total + part for total, part in zip(totals, parts, strict=True)]
    return totals


# Weights per read of two masks alone: a MiB of each.
MASK_CHUNK = 1 << 23


@dataclass(frozen=True)
class MaskPair:
    """Two masks of the same weights, and what both runs started from, where it is known.

    ``notes`` are what could not be checked, in words.
    """

    first: Mask
    second: Mask
    init: Checkpoint | None
    notes: tuple[str, ...]


def pair_masks(
    first: Mask, second: Mask, init: Checkpoint | None = None, common_rows: Sequence[str] = ()
) -> MaskPair:
    """Match two masks with each other and with the checkpoint that both runs started from.

    The digest of ``init`` is compared with those that the masks carry. Of ``common_rows``, masks
    may cover the first rows alone, as those of a pair with a resized vocabulary do.

    Raises:
        ValueError: parameters or shapes differ, or a digest tells that the starts do.
    """
    second.check_shapes(first.shapes, str(first.path))
    if init:
        _check_fit(first, init, common_rows)
    digests = {mask.path: mask.metadata.get("init_sha256") for mask in (first, second)}
    known = {str(path): digest for path, digest in digests.items() if digest}
    if init and known:
        known[str(init.path)] = init.digest()
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{path} {digest[:12]}" for path, digest in known.items())
        raise ValueError(
            f"{first.path} and {second.path}: an overlap needs one checkpoint that both runs "
            f"started from, found different ones (SHA-256: {listed})"
        )
    notes = [
        f"{path} does not tell what its run started from: taken to be the same"
        for path, digest in digests.items()
        if not digest
    ]
    rules = [_rule(mask) for mask in (first, second)]
    if rules[0] != rules[1]:
        notes.append(f"the masks were made by different rules: {rules[0]} and {rules[1]}")
    return MaskPair(first, second, init, tuple(notes))


def _check_fit(mask: Mask, init: Checkpoint, common_rows: Sequence[str]) -> None:
    if unknown := [name for name in common_rows if name not in init.tensors]:
        raise ValueError(f"{init.path}: no tensor for common rows: {', '.join(unknown)}")
    shapes = {name: info.shape for name, info in init.tensors.items()}
    for name in common_rows:
        stored = shapes[name]
        found = mask.shapes.get(name, stored)
        if stored and found and found[1:] == stored[1:] and found[0] < stored[0]:
            shapes[name] = found
    mask.check_shapes(shapes, str(init.path))


def _rule(mask: Mask) -> str:
    rule = mask.metadata.get("rule", "unknown")
    return rule if rule in ("bitwise", "unknown") else f"{rule} at {mask.metadata.get('atol')}"


def tensor_overlaps(
    masks: MaskPair, chunk: int | None = None, kernel: str = "auto"
) -> Iterator[tuple[str, TensorOverlap]]:
    """Yield each tensor's name and what the two subnetworks share in it, in natural order.

    Neither ``chunk``, a multiple of 8, nor ``kernel`` shows in what is counted.
    """
    chunk = chunk or (CHUNK if masks.init else MASK_CHUNK)
    assert chunk % 8 == 0, "a piece of a mask starts at a whole byte"
    keep_freed_memory()
    names = sorted(masks.first.shapes, key=natural_order)
    total = sum(map(math.prod, masks.first.shapes.values()))
    shared_bits = choose_shared_bits(kernel, total, by_exponent=masks.init is not None)
    for name in names:
        numel, start = math.prod(masks.first.shapes[name]), 0
        counts = OverlapCounts()
        by_exponent = np.zeros((EXPONENTS, 4), np.int64)
        packed = (mask.read_packed_chunks(name, chunk // 8) for mask in (masks.first, masks.second))
        for first, second in zip(*packed, strict=True):
            size = min(chunk, numel - start)
            weights = read_finite(masks.init, name, start, size) if masks.init else None
            sizes, groups = shared_bits(first, second, size, weights)
            counts += sizes
            if groups is not None:
                by_exponent += groups
            start += size
        yield name, TensorOverlap(counts, chance_overlap(by_exponent) if masks.init else None)


def unite_masks(masks: Sequence[Mask], path: Path | str) -> tuple[int, list[int]]:
    """Write the union of masks of one start, a piece at a time.

    Its metadata: ``rule`` and ``atol`` where all masks have them in common, ``init_sha256``, and
    the number of masks as ``union_of``. Returns how many weights were ever updated, and how many
    each mask holds.
    """
    first = masks[0]
    for other in masks[1:]:
        pair_masks(first, other)
    metadata = {"union_of": str(len(masks))}
    for key in ("init_sha256", "atol", "rule"):
        values = {mask.metadata.get(key, "") for mask in masks}
        if len(values) == 1 and values != {""}:
            metadata = {key: values.pop()} | metadata
    ever, sizes = 0, [0] * len(masks)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(encode_header(*described(first.shapes, metadata)))
        for name in first.shapes:
            for packed in zip(*(mask.read_packed_chunks(name) for mask in masks), strict=True):
                united = reduce(np.bitwise_or, packed)
                stream.write(united.data)
                ever += popcount(united)
                sizes = [size + popcount(p) for size, p in zip(sizes, packed, strict=True)]
    return ever, sizes
