"""Packing: the delta of two checkpoints, or of one and weights in memory."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.delta_codec import (
    BLOCK,
    HEADER,
    Codes,
    as_codes,
    decode_block,
    encode_block,
)
from rlsubnet.checkpoints.delta_file import DeltaWriter, writing_delta
from rlsubnet.checkpoints.delta_init import Read, find_init, init_blocks
from rlsubnet.checkpoints.delta_manifest import (
    DeltaFile,
    DeltaTensor,
    InitTensor,
    Manifest,
    Shape,
)
from rlsubnet.checkpoints.delta_source import StoredWeights
from rlsubnet.checkpoints.differ import keep_freed_memory
from rlsubnet.checkpoints.layout import read_stored
from rlsubnet.checkpoints.safetensors_file import NUMPY_TYPES, TensorInfo
from rlsubnet.checkpoints.store import EMBEDDINGS, HEADS, Checkpoint
from rlsubnet.checkpoints.visiting import Visit
from rlsubnet.files import sha256
from rlsubnet.measure.parameters import canonical_name, natural_order

# A block under way takes a few MB; more threads than these would wait for the disk.
_MAX_THREADS = 8


def _thread_count() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MAX_THREADS, cores or 1)


def _encode_checked(before: Codes, after: Codes) -> bytes:
    """Return the encoded block, decoded once to see that nothing is lost."""
    block = encode_block(before, after)
    _, changes, escapes = HEADER.unpack_from(block)
    if not np.array_equal(decode_block(before, changes, escapes, block[HEADER.size :]), after):
        raise ValueError("a block does not decode to what was encoded; is the memory faulty?")
    return block


def _encoded(pool: Executor, pairs: Iterable[tuple[Codes, Codes]]) -> Iterator[bytes]:
    """Yield the encoded blocks in order; a bounded number is in memory."""
    waiting: deque[Future[bytes]] = deque()
    for before, after in pairs:
        waiting.append(pool.submit(_encode_checked, before, after))
        if len(waiting) > 2 * _thread_count():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Packer:
    """Writes tensors one after another, and remembers what the manifest says of them."""

    def __init__(
        self, writer: DeltaWriter, pool: Executor, init: Mapping[str, TensorInfo], read: Read
    ) -> None:
        self._writer, self._pool, self._init, self._read = writer, pool, init, read
        self.init: dict[str, InitTensor] = {}
        self.tensors: dict[str, DeltaTensor] = {}

    def add(self, stored_name: str, dtype: str, shape: Shape, blocks: Iterable[Codes]) -> None:
        """Write the change that leads to a tuned tensor, given in blocks."""
        name = canonical_name(stored_name)
        base = find_init(name, dtype, shape, self._init)
        digest, init_digest, changed = hashlib.sha256(), hashlib.sha256(), 0
        size = DeltaTensor(dtype, shape, "", "", 0, "")

        def pairs() -> Iterator[tuple[Codes, Codes]]:
            # The tuned blocks come last: init's rest is hashed after the last pair.
            befores = init_blocks(self._read, base, dtype, size.numel, init_digest.update)
            tuned = iter(blocks)
            for before in befores:
                after = next(tuned)
                digest.update(after.data)
                yield before, after

        def counted() -> Iterator[bytes]:
            nonlocal changed
            for block in _encoded(self._pool, pairs()):
                changed += HEADER.unpack_from(block)[1]
                yield block

        member = self._writer.add_blocks(counted(), size.nbytes)
        base_name = ""
        if base is not None:
            base_name = canonical_name(base.stored_name)
            self.init[base_name] = InitTensor(base.dtype, base.shape, init_digest.hexdigest())
        self.tensors[stored_name] = DeltaTensor(
            dtype, shape, digest.hexdigest(), base_name, changed, member
        )

    def add_copy(self, stored_name: str, other: str) -> None:
        """Note a tensor that has the bytes of another tuned one."""
        of = self.tensors[other]
        self.tensors[stored_name] = DeltaTensor(
            of.dtype, of.shape, of.sha256, of.init, of.changed, "", other
        )

    def removed(self) -> tuple[str, ...]:
        """Return the tensors of init that no tuned one has the name of."""
        present = {canonical_name(name) for name in self.tensors}
        return tuple(sorted(set(self._init) - present, key=natural_order))


def _parts(
    init: StoredWeights, tuned: StoredWeights, left_out: Container[str]
) -> dict[tuple[tuple[Path, ...], tuple[Path, ...]], list[str]]:
    """Return the tuned tensors by the files of the two sides that they need."""
    parts: dict[tuple[tuple[Path, ...], tuple[Path, ...]], list[str]] = {}
    bases = init.by_canonical_name()
    for name in sorted(tuned.tensors, key=natural_order):
        info = tuned.tensors[name]
        base = find_init(canonical_name(name), info.dtype, info.shape, bases)
        if name not in left_out:
            key = () if base is None else (base.file,), (info.file,)
            parts.setdefault(key, []).append(name)
    return parts


def _tied(tuned: StoredWeights) -> dict[str, str]:
    """Return head -> embedding where both are stored with the same bytes."""
    found: dict[str, str] = {}
    if tuned.side.sizes():  # they may lie in different shards of the hub
        return found
    embeddings = [name for name in tuned.tensors if canonical_name(name).endswith(EMBEDDINGS)]
    for head, a in tuned.tensors.items():
        for name in embeddings if canonical_name(head) in HEADS else ():
            b = tuned.tensors[name]
            if (a.dtype, a.shape) == (b.dtype, b.shape) and all(
                np.array_equal(x, y) for x, y in zip(tuned.blocks(a), tuned.blocks(b), strict=True)
            ):
                found[head] = name
    return found


def pack(init: StoredWeights, tuned: StoredWeights, path: Path | str) -> Manifest:
    """Write the delta between two checkpoints; return what it holds.

    Everything is read once, a block at a time, and each block is decoded again and compared. A
    tensor that init does not have, or not of this type and row length, is stored whole.
    """
    keep_freed_memory()
    with writing_delta(path) as writer, ThreadPoolExecutor(_thread_count()) as pool:
        packer = _Packer(writer, pool, init.by_canonical_name(), init.read)
        tuned.by_canonical_name()  # two tensors of one name would have one init
        copies = _tied(tuned)
        parts = _parts(init, tuned, copies)
        visit = Visit((init.side, tuned.side), list(parts))
        for place, number in enumerate(visit.order):
            visit.bring(place)
            for name in list(parts.values())[number]:
                info = tuned.tensors[name]
                packer.add(name, info.dtype, info.shape, tuned.blocks(info))
        visit.end()
        for name, other in copies.items():
            packer.add_copy(name, other)
        files, left_out = _pack_files(writer, pool, init, tuned)
        manifest = Manifest(packer.init, packer.removed(), packer.tensors, files, tuple(left_out))
        writer.finish(manifest)
    return manifest


def _pack_files(
    writer: DeltaWriter, pool: Executor, init: StoredWeights, tuned: StoredWeights
) -> tuple[dict[str, DeltaFile], list[str]]:
    """Write what makes the tuned files out of tensors; return them and what is left out."""
    files, (side, left_out) = {}, tuned.side_files()
    known = {path.name: path for path in init.side_files()[0]}
    paths = [path for path in tuned.weight_files if path.suffix == ".safetensors"]
    if len(paths) != len(tuned.weight_files):  # unpacked as safetensors, which has its own index
        left_out += [path.name for path in tuned.weight_files]
        left_out += [path.name for path in side if path.name.endswith(".bin.index.json")]
        side, paths = [path for path in side if path.name not in left_out], []
    digests = {path: pool.submit(sha256, path) for path in side}
    digests |= {path: pool.submit(tuned.file_sha256, path) for path in paths}
    for path in paths:
        inside = [info for info in tuned.tensors.values() if info.file == path]
        # A tensor without weights lies where the next one does, and comes before it.
        inside.sort(key=lambda info: (info.offset, info.nbytes))
        files[path.name] = DeltaFile(
            tuned.file_size(path),
            digests[path].result(),
            "weights",
            writer.add_bytes("headers", tuned.header(path, inside[0].offset)),
            tuple(info.stored_name for info in inside),
        )
    for path in side:
        size, digest = path.stat().st_size, digests[path].result()
        if path.name in known and sha256(known[path.name]) == digest:
            files[path.name] = DeltaFile(size, digest, "init")
        else:
            member = writer.add_bytes("files", path.read_bytes())
            files[path.name] = DeltaFile(size, digest, "stored", member)
    return files, left_out


def write_delta(
    path: Path | str, init: Checkpoint, read_tuned: Callable[[str], np.ndarray]
) -> Manifest:
    """Write the delta of weights in memory, such as those of a model that is being trained.

    Args:
        path: where the file appears once it is complete.
        init: the checkpoint before finetuning.
        read_tuned: returns a tensor after finetuning, as ``init.read`` returns the one before.

    Raises:
        ValueError: a tensor has another shape or type after finetuning.
    """

    def blocks(name: str, info: TensorInfo) -> Iterator[Codes]:
        after = read_tuned(name)
        expected = info.shape, NUMPY_TYPES[info.dtype]
        if (after.shape, after.dtype) != expected:
            raise ValueError(
                f"{path}: tensor {name}: expected {expected[1]} {list(info.shape)} as in "
                f"{init.path}, found {after.dtype} {list(after.shape)}"
            )
        codes = as_codes(after)
        for start in range(0, codes.size, BLOCK):
            yield codes[start : start + BLOCK]

    with writing_delta(path) as writer, ThreadPoolExecutor(_thread_count()) as pool:
        packer = _Packer(writer, pool, init.tensors, read_stored)
        for name in sorted(init.tensors, key=natural_order):
            info = init.tensors[name]
            packer.add(name, info.dtype, info.shape, blocks(name, info))
        manifest = Manifest(packer.init, (), packer.tensors, {})
        writer.finish(manifest)
    return manifest
