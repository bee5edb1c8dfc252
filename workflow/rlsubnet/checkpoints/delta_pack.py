"""Packing: the delta of two checkpoints, or of one and weights in memory."""

import hashlib
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.checkpoint import (
    EMBEDDINGS,
    HEADS,
    Checkpoint,
    Read,
    by_canonical_name,
)
from rlsubnet.checkpoints.delta_file import (
    BLOCK,
    HEADER,
    Codes,
    DeltaFile,
    DeltaTensor,
    DeltaWriter,
    InitTensor,
    Manifest,
    Shape,
    as_codes,
    decode_block,
    encode_block,
    writing_delta,
)
from rlsubnet.checkpoints.differ import keep_freed_memory
from rlsubnet.checkpoints.formats import NUMPY_TYPES, TensorInfo, pieces, read_stored
from rlsubnet.checkpoints.sources import FileSource, fetched_parts
from rlsubnet.files import sha256
from rlsubnet.measure.formats import to_bfloat16
from rlsubnet.measure.parameters import canonical_name, natural_order
from rlsubnet.threads import default_threads

# A message names as many tensors and says how many more there are.
_NAMED = 5


def find_init(
    name: str, dtype: str, shape: Shape, tensors: Mapping[str, TensorInfo]
) -> TensorInfo | None:
    """Return the tensor of init that a tuned one is stored against, None if none will do.

    That of the same name; for a head that init ties to its embedding and does not store, the
    embedding. The number of rows may differ (a resized vocabulary). A bfloat16 tensor may build on
    a float16 or float32 one, rounded to nearest even.
    """
    candidates = [name]
    if name in HEADS and name not in tensors:
        candidates += [other for other in tensors if other.endswith(EMBEDDINGS)]
    for candidate in candidates:
        info = tensors.get(candidate)
        if info is None or (len(info.shape), info.shape[1:]) != (len(shape), shape[1:]):
            continue
        if info.dtype == dtype or (dtype == "BF16" and info.dtype in ("F16", "F32")):
            return info
    return None


def init_block(read: Read, info: TensorInfo | None, dtype: str, start: int, count: int) -> Codes:
    """Return ``count`` weights of init from ``start`` as a tuned tensor of ``dtype`` has them.

    Zeros where init has no such weights.
    """
    kind = NUMPY_TYPES[dtype]
    present = 0 if info is None else max(0, min(count, info.numel - start))
    if info is None or not present:
        return np.zeros(count, f"u{kind.itemsize}")
    weights = read(info, start, present)
    codes = as_codes(weights if info.dtype == dtype else to_bfloat16(weights))
    return np.concatenate([codes, np.zeros(count - present, codes.dtype)])


def init_blocks(
    read: Read,
    info: TensorInfo | None,
    dtype: str,
    numel: int,
    update: Callable[[memoryview], None],
) -> Iterator[Codes]:
    """Yield init's weights for a tuned tensor of ``numel``; ``update`` sees all of its bytes."""

    def hashing(tensor: TensorInfo, start: int, count: int) -> np.ndarray:
        weights = read(tensor, start, count)
        update(weights.data.cast("B") if weights.size else memoryview(b""))
        return weights

    for start, count in pieces(numel, BLOCK):
        yield init_block(hashing, info, dtype, start, count)
    if info is not None:  # rows that the tuned tensor has no more
        for start, count in pieces(info.numel - numel, BLOCK):
            hashing(info, numel + start, count)


class InitDigests:
    """SHA-256 of the stored bytes of init's tensors, each computed when first asked for."""

    def __init__(self, init: FileSource) -> None:
        self._init = init
        self.tensors = by_canonical_name(init)
        self.sha256 = cache(lambda name: init.tensor_sha256(self.tensors[name]))

    def check(self, manifest: Manifest, path: object) -> None:
        """Refuse an init that a delta was not packed against, naming the tensors that differ."""
        self.check_shapes(manifest, path)
        self._refuse(
            path,
            [
                f"{name} (expected digest {tensor.sha256[:12]}, found {self.sha256(name)[:12]})"
                for name, tensor in manifest.init.items()
                if self.sha256(name) != tensor.sha256
            ],
        )

    def check_shapes(self, manifest: Manifest, path: object) -> None:
        """Do as much of ``check`` as needs no digest."""
        faults = []
        for name, expected in manifest.init.items():
            info = self.tensors.get(name)
            if info is None:
                faults.append(f"{name} (missing)")
            elif (info.dtype, info.shape) != (expected.dtype, expected.shape):
                faults.append(
                    f"{name} (expected {expected.dtype} {list(expected.shape)}, found "
                    f"{info.dtype} {list(info.shape)})"
                )
        self._refuse(path, faults)

    def _refuse(self, path: object, faults: list[str]) -> None:
        if faults:
            more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
            raise ValueError(
                f"{path}: a delta of another init than {self._init.label}: tensors differ: "
                f"{', '.join(faults[:_NAMED])}{more}"
            )


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
        if len(waiting) > 2 * default_threads():
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

    def add(self, stored_name: str, dtype: str, shape: Shape, codes: Iterable[Codes]) -> None:
        name = canonical_name(stored_name)
        base = find_init(name, dtype, shape, self._init)
        digest, init_digest = hashlib.sha256(), hashlib.sha256()
        size = DeltaTensor(dtype, shape, "", "", 0, "")

        def pairs() -> Iterator[tuple[Codes, Codes]]:
            # The tuned blocks come last: init's rest is hashed after the last pair.
            befores = init_blocks(self._read, base, dtype, size.numel, init_digest.update)
            tuned = iter(codes)
            for before in befores:
                after = next(tuned)
                digest.update(after.data)
                yield before, after

        member, changed = self._writer.add_blocks(_encoded(self._pool, pairs()), size.nbytes)
        base_name = ""
        if base is not None:
            base_name = canonical_name(base.stored_name)
            self.init[base_name] = InitTensor(base.dtype, base.shape, init_digest.hexdigest())
        self.tensors[stored_name] = DeltaTensor(
            dtype, shape, digest.hexdigest(), base_name, changed, member
        )

    def add_copy(self, stored_name: str, other: str) -> None:
        self.tensors[stored_name] = replace(self.tensors[other], member="", same_as=other)


def _parts(
    init: FileSource, tuned: FileSource, left_out: Container[str]
) -> dict[tuple[tuple[Path, ...], tuple[Path, ...]], list[str]]:
    parts: dict[tuple[tuple[Path, ...], tuple[Path, ...]], list[str]] = {}
    bases = by_canonical_name(init)
    for name in sorted(tuned.stored, key=natural_order):
        info = tuned.stored[name]
        base = find_init(canonical_name(name), info.dtype, info.shape, bases)
        if name not in left_out:
            key = () if base is None else (base.file,), (info.file,)
            parts.setdefault(key, []).append(name)
    return parts


def _tied(tuned: FileSource) -> dict[str, str]:
    """Return head -> embedding where both are stored with the same bytes."""
    if tuned.sizes():  # they may lie in different shards of the hub
        return {}
    names = {name: canonical_name(name) for name in tuned.stored}
    embeddings = [name for name in names if names[name].endswith(EMBEDDINGS)]
    return {
        head: name
        for head in names
        for name in embeddings
        if names[head] in HEADS and tuned.same_bytes(tuned.stored[head], tuned.stored[name])
    }


def pack(init: FileSource, tuned: FileSource, path: Path | str) -> Manifest:
    """Write the delta between two checkpoints; return what it holds.

    Everything is read once, a block at a time, and each block is decoded again and compared. A
    tensor that init does not have, or not of this type and row length, is stored whole.
    """
    keep_freed_memory()
    with writing_delta(path) as writer, ThreadPoolExecutor(default_threads()) as pool:
        bases = by_canonical_name(init)
        packer = _Packer(writer, pool, bases, init.read)
        by_canonical_name(tuned)  # two tensors of one name would have one init
        copies = _tied(tuned)
        parts = _parts(init, tuned, copies)
        for number in fetched_parts((init, tuned), list(parts)):
            for name in list(parts.values())[number]:
                info = tuned.stored[name]
                read = (tuned.read(info, *piece) for piece in pieces(info.numel, BLOCK))
                packer.add(name, info.dtype, info.shape, map(as_codes, read))
        for name, other in copies.items():
            packer.add_copy(name, other)
        files, left_out = _pack_files(writer, pool, init, tuned)
        gone = set(bases) - set(map(canonical_name, packer.tensors))
        removed = tuple(sorted(gone, key=natural_order))
        manifest = Manifest(packer.init, removed, packer.tensors, files, tuple(left_out))
        writer.finish(manifest)
    return manifest


def _pack_files(
    writer: DeltaWriter, pool: Executor, init: FileSource, tuned: FileSource
) -> tuple[dict[str, DeltaFile], list[str]]:
    """Write what makes the tuned files out of tensors; return them and what is left out."""
    files, (side, left_out) = {}, tuned.side_files()
    known = {path.name: path for path in init.side_files()[0]}
    weights = sorted({info.file for info in tuned.stored.values()})
    paths = [path for path in weights if path.suffix == ".safetensors"]
    if len(paths) != len(weights):  # unpacked as safetensors, which has its own index
        left_out += [path.name for path in weights]
        left_out += [path.name for path in side if path.name.endswith(".bin.index.json")]
        side, paths = [path for path in side if path.name not in left_out], []
    digests = {path: pool.submit(sha256, path) for path in side}
    weighed = {path: pool.submit(tuned.size_and_sha256, path) for path in paths}
    for path in paths:
        inside = [info for info in tuned.stored.values() if info.file == path]
        # A tensor without weights lies where the next one does, and comes before it.
        inside.sort(key=lambda info: (info.offset, info.nbytes))
        files[path.name] = DeltaFile(
            *weighed[path].result(),
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

    ``read_tuned`` returns a tensor after finetuning, as ``init.read`` returns the one before.

    Raises:
        ValueError: a tensor has another shape or type after finetuning.
    """

    def tuned_blocks(name: str, info: TensorInfo) -> Iterator[Codes]:
        after = read_tuned(name)
        expected = info.shape, NUMPY_TYPES[info.dtype]
        if (after.shape, after.dtype) != expected:
            raise ValueError(
                f"{path}: tensor {name}: expected {expected[1]} {list(info.shape)} as in "
                f"{init.path}, found {after.dtype} {list(after.shape)}"
            )
        codes = as_codes(after)
        for start, count in pieces(codes.size, BLOCK):
            yield codes[start : start + count]

    with writing_delta(path) as writer, ThreadPoolExecutor(default_threads()) as pool:
        packer = _Packer(writer, pool, init.tensors, read_stored)
        for name in sorted(init.tensors, key=natural_order):
            info = init.tensors[name]
            packer.add(name, info.dtype, info.shape, tuned_blocks(name, info))
        manifest = Manifest(packer.init, (), packer.tensors, {})
        writer.finish(manifest)
    return manifest
