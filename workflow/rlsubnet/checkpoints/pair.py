"""Two checkpoints side by side: which tensors match, and their weights piece by piece."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.checkpoint import Checkpoint, refuse_not_finite
from rlsubnet.checkpoints.formats import CHUNK, ITEM_BYTES, encode_header, pieces
from rlsubnet.checkpoints.masks import Mask, Shape
from rlsubnet.checkpoints.sources import config_file, copy_companions
from rlsubnet.files import replacing
from rlsubnet.measure.sparsity import bitwise_changed


@dataclass(frozen=True)
class Pair:
    """Two checkpoints of one architecture.

    Attributes:
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
        return math.prod(self.shapes[name])

    def nbytes(self, name: str) -> int:
        sides = (checkpoint.tensors[name].dtype for checkpoint in (self.init, self.tuned))
        return self.numel(name) * sum(ITEM_BYTES[dtype] for dtype in sides)


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def pair_checkpoints(init: Checkpoint, tuned: Checkpoint, common_rows: Sequence[str] = ()) -> Pair:
    """Match the tensors of two checkpoints.

    The number of rows of ``common_rows`` may differ, as of a resized vocabulary; their first rows,
    as many as both have, are compared.

    Raises:
        ValueError: a tensor is on one side only, shapes differ, or ``common_rows`` names a tensor
            that is not there; lists everything that does not match, of both sides.
    """
    between = f"{init.path} and {tuned.path}"
    known = {*init.tensors, *tuned.tensors, *init.tied, *tuned.tied}
    if unknown := [name for name in common_rows if name not in known]:
        raise ValueError(f"{between}: no tensor for common rows: {listed(unknown)}")
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
            f"{between} do not match: only in {init.path}: {listed(only_init)}; only in "
            f"{tuned.path}: {listed(only_tuned)}; shapes: {listed(differing)}"
        )
    return Pair(init, tuned, shapes, resized)


def read_finite(checkpoint: Checkpoint, name: str, start: int, count: int) -> np.ndarray:
    """Return flat weights as stored, refusing NaN and Inf."""
    weights = checkpoint.read_range(name, start, count)
    refuse_not_finite(checkpoint.tensors[name], start, weights)
    return weights


def paired_chunks(
    pair: Pair, name: str, chunk: int = CHUNK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the weights of a tensor before and after finetuning, in flat pieces as stored."""
    for start, count in pieces(pair.numel(name), chunk):
        init = read_finite(pair.init, name, start, count)
        yield init, read_finite(pair.tuned, name, start, count)


def tensor_generator(seed: int, name: str) -> np.random.Generator:
    """Return a generator that depends on seed and tensor alone, not on the tensors before it."""
    return np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()])


def random_masks(pair: Pair, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, flat bool mask) for ``write_mask``: as many weights of each tensor as changed.

    The control of a subnetwork: its size in every tensor, at positions drawn uniformly.
    """
    for name in pair.shapes:
        mask = np.zeros(pair.numel(name), np.bool_)
        changed = sum(int(bitwise_changed(*piece).sum()) for piece in paired_chunks(pair, name))
        mask[:changed] = True
        tensor_generator(seed, name).shuffle(mask)
        yield name, mask


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
            f"stored types or rows differ: {listed(names)}"
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


def pair_notes(pair: Pair) -> list[str]:
    """Return in words: resized tensors, differing types, fp8, tied heads, buffers."""
    notes = []
    for name, (before, after) in pair.resized.items():
        notes.append(f"{name} has {before} and {after} rows: the first {min(before, after)} count")
    if differing := pair.differing_dtypes:
        kinds = sorted({f"{a} against {b}" for a, b in differing.values()})
        notes.append(
            f"stored types differ in {len(differing)} tensors ({', '.join(kinds)}): official and "
            "bitwise round both to bfloat16, exact compares in float32, where a change of type "
            "alone moves weights"
        )
    for side, checkpoint in (("init", pair.init), ("tuned", pair.tuned)):
        if quantized := [name for name in pair.shapes if name in checkpoint.scales]:
            notes.append(
                f"{side}: {len(quantized)} tensors are fp8 codes with block scales: the bfloat16 "
                "weights that they stand for are compared"
            )
        for name in checkpoint.tied:
            notes.append(f"{side}: {name} equals the embedding it is tied to and counts once")
        if checkpoint.buffers:
            notes.append(f"{side}: {len(checkpoint.buffers)} rotary buffers are no weights")
    return notes


def export_trained(init: Path, trained: Path, folder: Path) -> None:
    """Fill the existing ``folder`` with trained weights and all else from ``init``.

    The weights are one safetensors file, under the names that ``init`` has, with one piece in
    memory at a time. A head that is stored beside the embedding it is tied to is left out, as
    transformers ties it again.

    Raises:
        ValueError: ``init`` has no configuration; names or shapes are not those of ``init`` (a
            resized embedding, for one), or a weight is NaN, infinite or not bfloat16.
    """
    if not config_file(init).is_file():
        raise ValueError(f"{init}: no config.json; expected a transformers checkpoint")
    pair = pair_checkpoints(Checkpoint(init), Checkpoint(trained))
    weights = pair.tuned.tensors
    if other := [name for name, info in weights.items() if info.dtype != "BF16"]:
        found = f"{weights[other[0]].dtype} in {other[0]}"
        raise ValueError(f"{trained}: expected weights in BF16, found {found}")
    entries = {pair.init.tensors[n].stored_name: ("BF16", pair.shapes[n]) for n in pair.shapes}
    with replacing(folder / "model.safetensors") as file, file.open("wb") as stream:
        stream.write(encode_header(entries, {"format": "pt"}))
        for name in pair.shapes:
            for start, count in pieces(pair.numel(name), CHUNK):
                stream.write(read_finite(pair.tuned, name, start, count).tobytes())
    copy_companions(init, folder)
