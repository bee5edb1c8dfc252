"""A checkpoint on disk, opened without reading its weights; one piece in memory at a time."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlsubnet.checkpoints import block_fp8
from rlsubnet.checkpoints.layout import config_file, read_config, read_stored, read_tensors
from rlsubnet.checkpoints.reader import Reader, open_reader
from rlsubnet.checkpoints.safetensors_file import TensorInfo
from rlsubnet.checkpoints.visiting import Here
from rlsubnet.measure.bfloat16 import count_not_finite
from rlsubnet.measure.parameters import canonical_name, natural_order

# Weights per read: half a MiB of bfloat16 stays in the cache; a multiple of 8 fills mask bytes.
CHUNK = 1 << 18
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
HEADS = ("lm_head.weight", "embed_out.weight")
DTYPES = ("BF16", "F16", "F32", block_fp8.DTYPE)


def refuse_not_finite(info: TensorInfo, start: int, weights: np.ndarray) -> None:
    """Refuse NaN and Inf among the weights of a tensor from ``start`` on.

    No count of an update has room for them.

    Raises:
        ValueError: naming file, tensor and place.
    """
    if bad := count_not_finite(weights):
        raise ValueError(
            f"{info.file}: tensor {info.name}: {bad} of the weights {start} to "
            f"{start + weights.size - 1} are NaN or Inf"
        )


def digest_line(info: TensorInfo, found: str) -> bytes:
    """Return what :meth:`Checkpoint.digest` hashes of a tensor whose bytes have a digest.

    >>> digest_line(TensorInfo("lm_head.weight", "BF16", (24, 16), Path(), ""), "c0ffee")
    b'lm_head.weight BF16 [24, 16] c0ffee\\n'
    """
    return f"{info.name} {info.dtype} {list(info.shape)} {found}\n".encode()


class Checkpoint(Here):
    """The weights of a Hugging Face folder (or of one file), read when asked for.

    Attributes:
        path: the folder or file.
        tensors: name -> TensorInfo of every weight, in natural order; names are without the
            prefixes of trainers (``module.``, ``_orig_mod.``, ``actor.``). ``dtype`` is the stored
            type: an ``F8_E4M3`` weight is read as the bfloat16 weight that it stands for.
        scales: name -> the block scales of every ``F8_E4M3`` weight; not weights of their own.
        tied: heads stored a second time beside the embedding they equal; counted once, not here.
        buffers: tensors that are computed and not trained (rotary frequencies); not counted.

    Args:
        path: the folder or file.
        stored: its tensors by stored name, where they are known already.

    Raises:
        ValueError: a file is damaged, missing or unsafe; the message names it.
    """

    def __init__(self, path: Path | str, stored: Mapping[str, TensorInfo] | None = None) -> None:
        self.path = Path(path)
        self.tensors: dict[str, TensorInfo] = {}
        self.buffers: tuple[str, ...] = ()
        self.tied: tuple[str, ...] = ()
        for stored_name, info in (stored or read_tensors(self.path)).items():
            name = canonical_name(stored_name)
            if name in self.tensors:
                other = self.tensors[name].stored_name
                raise ValueError(f"{info.file}: tensors {other} and {stored_name} are both {name}")
            if info.dtype not in DTYPES:
                raise ValueError(
                    f"{info.file}: tensor {stored_name}: expected dtype "
                    f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]}, found {info.dtype}"
                )
            self.tensors[name] = TensorInfo(
                name, info.dtype, info.shape, info.file, stored_name, info.offset
            )
        config = read_config(self.path)
        self.scales = block_fp8.find_scales(self.tensors, config, config_file(self.path))
        for name in self.scales:
            del self.tensors[name + block_fp8.SUFFIX]
        # Older Llama files keep the rotary frequencies; they follow from the config.
        self.buffers = tuple(name for name in self.tensors if name.endswith("rotary_emb.inv_freq"))
        self.tied = self._find_tied(config)
        counted = set(self.tensors) - set(self.buffers) - set(self.tied)
        self.tensors = {name: self.tensors[name] for name in sorted(counted, key=natural_order)}
        if not self.tensors:
            raise ValueError(f"{self.path}: the checkpoint holds no weights")

    def _find_tied(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Return heads that the config ties to the embedding and that are stored with equal bytes.

        A head that differs is a weight of its own, whatever the config says; transformers loads it.
        """
        if not config.get("tie_word_embeddings"):
            return ()
        heads = [name for name in self.tensors if name in HEADS]
        embeddings = [name for name in self.tensors if name.endswith(EMBEDDINGS)]
        return tuple(h for h in heads if any(self._equal_bytes(h, e) for e in embeddings))

    def _equal_bytes(self, name: str, other: str) -> bool:
        a, b = self.tensors[name], self.tensors[other]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        pairs = zip(self.read_chunks(name), self.read_chunks(other), strict=True)
        return all(x.tobytes() == y.tobytes() for x, y in pairs)

    def read_range(self, name: str, start: int, count: int) -> np.ndarray:
        """Return ``count`` weights from ``start`` of the flattened tensor, as stored.

        bfloat16 arrives as uint16 codes, float16 and float32 as themselves, and fp8 as the uint16
        codes of the bfloat16 weights that its standard dequantization gives (``block_fp8``).
        """
        info = self.tensors[name]
        if name in self.scales:
            return block_fp8.read_dequantized(info, self.scales[name], start, count)
        return read_stored(info, start, count)

    def is_plain(self, name: str) -> bool:
        """Return whether the bytes in the file are the weights, in order."""
        return name not in self.scales and self.tensors[name].offset >= 0

    def read_with(self, reader: Reader, name: str, start: int, count: int) -> np.ndarray:
        """Return what ``read_range`` does, valid until the reader's next call.

        A reader has a buffer and a file of its own, which makes it fast; what has to be computed
        first (fp8, a delta, a transposed tensor of a ``.bin`` file) comes from ``read_range``.
        """
        if self.is_plain(name):
            return reader.read(self.tensors[name], start, count)
        return self.read_range(name, start, count)

    def files(self, name: str) -> set[Path]:
        """Return the files that hold a tensor and what it is read with."""
        infos = [self.tensors[name]]
        if name in self.scales:
            infos.append(self.scales[name].stored)
        return {info.file for info in infos}

    def read_chunks(self, name: str, chunk: int = CHUNK) -> Iterator[np.ndarray]:
        """Yield a tensor in flat pieces of at most ``chunk`` weights."""
        numel = self.tensors[name].numel
        for start in range(0, numel, chunk):
            yield self.read_range(name, start, min(chunk, numel - start))

    def read(self, name: str) -> np.ndarray:
        """Return one whole tensor in its shape, as ``read_range`` gives it."""
        info = self.tensors[name]
        return self.read_range(name, 0, info.numel).reshape(info.shape)

    def digest(self) -> str:
        """Return the SHA-256 of the weights, whatever files they are spread over.

        Hashed, per tensor in order of name: a line ``name dtype [shape]`` and the SHA-256 of the
        stored bytes; after an fp8 weight also its scales, with ``block [rows, columns]`` before the
        digest. A digest per tensor can be taken in any order, as shards come.
        """
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            digest.update(digest_line(self.tensors[name], self.tensor_digest(name)))
            if name in self.scales:
                scale, block = self.scales[name].stored, self.scales[name].block
                found = self.stored_digest(scale)
                digest.update(digest_line(scale, f"block {list(block)} {found}"))
        return digest.hexdigest()

    def tensor_digest(self, name: str) -> str:
        """Return the SHA-256 of a tensor's bytes, of fp8 codes as they are stored."""
        info = self.tensors[name]
        if name in self.scales:
            return self.stored_digest(info)
        digest = hashlib.sha256()
        with open_reader(CHUNK) as reader:
            for start in range(0, info.numel, CHUNK):
                piece = self.read_with(reader, name, start, min(CHUNK, info.numel - start))
                digest.update(np.ascontiguousarray(piece).data)
        return digest.hexdigest()

    def stored_digest(self, info: TensorInfo) -> str:
        """Return the SHA-256 of what a file holds of a tensor."""
        digest = hashlib.sha256()
        for start in range(0, info.numel, CHUNK):
            digest.update(read_stored(info, start, min(CHUNK, info.numel - start)).data)
        return digest.hexdigest()
