"""Two masks side by side, and the weights they are about, one piece in memory at a time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.differ import keep_freed_memory
from rlsubnet.checkpoints.formats import CHUNK
from rlsubnet.checkpoints.masks import Mask, MaskFile
from rlsubnet.checkpoints.pair import read_finite
from rlsubnet.measure.kernels import choose_shared_bits
from rlsubnet.measure.overlap import (
    EXPONENTS,
    OverlapCounts,
    TensorOverlap,
    chance_overlap,
    popcount,
)
from rlsubnet.measure.parameters import natural_order

# Weights per read of two masks alone: a MiB of each.
MASK_CHUNK = 1 << 23


@dataclass(frozen=True)
class MaskPair:
    """Two masks of the same weights.

    Attributes:
        first, second: the masks.
        init: what both runs started from, where it is known.
        notes: what could not be checked, in words.
    """

    first: Mask
    second: Mask
    init: Checkpoint | None
    notes: tuple[str, ...]


def pair_masks(
    first: Mask, second: Mask, init: Checkpoint | None = None, common_rows: Sequence[str] = ()
) -> MaskPair:
    """Match two masks with each other and with the checkpoint that both runs started from.

    Args:
        first, second: the masks.
        init: the start; its digest is compared with those that the masks carry.
        common_rows: tensors of which the masks may cover the first rows alone, as masks of a pair
            with a resized vocabulary do.

    Raises:
        ValueError: parameters or shapes differ, or a digest tells that the starts do.
    """
    second.check_shapes({name: first.shape(name) for name in first.names}, str(first.path))
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
        found = mask.shape(name) if name in mask.names else stored
        if stored and found and found[1:] == stored[1:] and found[0] < stored[0]:
            shapes[name] = found
    mask.check_shapes(shapes, str(init.path))


def _rule(mask: Mask) -> str:
    """Return how a mask was made, as its metadata tell."""
    rule = mask.metadata.get("rule", "unknown")
    return rule if rule in ("bitwise", "unknown") else f"{rule} at {mask.metadata.get('atol')}"


def tensor_overlaps(
    masks: MaskPair, chunk: int | None = None, kernel: str = "auto"
) -> Iterator[tuple[str, TensorOverlap]]:
    """Yield each tensor's name and what the two subnetworks share in it, in natural order.

    Args:
        masks: the pair.
        chunk: weights read at a time, a multiple of 8; neither this nor the kernel shows in what is
            counted.
        kernel: see ``measure.kernels``.

    Raises:
        ValueError: bits beyond a mask's last weight are set, or weights of the start are NaN or
            Inf; names file and tensor.
    """
    chunk = chunk or (CHUNK if masks.init else MASK_CHUNK)
    assert chunk % 8 == 0, "a piece of a mask starts at a whole byte"
    keep_freed_memory()
    names = sorted(masks.first.names, key=natural_order)
    total = sum(math.prod(masks.first.shape(name)) for name in names)
    shared_bits = choose_shared_bits(kernel, total, by_exponent=masks.init is not None)
    for name in names:
        numel, start = math.prod(masks.first.shape(name)), 0
        counts = OverlapCounts()
        by_exponent = np.zeros((EXPONENTS, 4), np.int64)
        pieces = (mask.read_packed_chunks(name, chunk // 8) for mask in (masks.first, masks.second))
        for first, second in zip(*pieces, strict=True):
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
    the number of masks as ``union_of``.

    Args:
        masks: at least one.
        path: where the union appears once it is complete.

    Returns:
        How many weights were ever updated, and how many each mask holds.

    Raises:
        ValueError: the masks are of different parameters or starts, or damaged.
    """
    first = masks[0]
    for other in masks[1:]:
        pair_masks(first, other)
    metadata = {"union_of": str(len(masks))}
    for key in ("init_sha256", "atol", "rule"):
        values = {mask.metadata.get(key, "") for mask in masks}
        if len(values) == 1 and values != {""}:
            metadata = {key: values.pop()} | metadata
    shapes = {name: first.shape(name) for name in first.names}
    file = MaskFile(Path(path), shapes, metadata, keep=False)
    ever, sizes = 0, [0] * len(masks)
    try:
        for name in shapes:
            start = 0
            for pieces in zip(*(mask.read_packed_chunks(name) for mask in masks), strict=True):
                united = reduce(np.bitwise_or, pieces)
                file.write(name, start, united)
                ever += popcount(united)
                sizes = [size + popcount(p) for size, p in zip(sizes, pieces, strict=True)]
                start += 8 * united.size
        file.finish({})
    except BaseException:
        file.discard()
        raise
    return ever, sizes
