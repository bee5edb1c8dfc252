"""A checkpoint on disk, opened without reading its weights; one piece in memory at a time."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints import pytorch_file, safetensors_file
from rlsubnet.checkpoints.layout import read_tensors
from rlsubnet.checkpoints.safetensors_file import TensorInfo
from rlsubnet.measure.parameters import canonical_name, natural_order

# Weights per read: half a MiB of bfloat16 stays in the cache; a multiple of 8 fills mask bytes.
CHUNK = 1 << 18
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
HEADS = ("lm_head.weight", "embed_out.weight")


class Checkpoint:
    """The weights of a Hugging Face folder (or of one file), read when asked for.

    Attributes:
        path: the folder or file.
        tensors: name -> TensorInfo of every weight, in natural order; names are without the
            prefixes of trainers (``module.``, ``_orig_mod.``, ``actor.``).
        tied: heads stored a second time beside the embedding they equal; counted once, not here.
        buffers: tensors that are computed and not trained (rotary frequencies); not counted.

    Raises:
        ValueError: a file is damaged, missing or unsafe; the message names it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.tensors: dict[str, TensorInfo] = {}
        self.buffers: tuple[str, ...] = ()
        self.tied: tuple[str, ...] = ()
        for stored_name, info in read_tensors(self.path).items():
            name = canonical_name(stored_name)
            if name in self.tensors:
                other = self.tensors[name].stored_name
                raise ValueError(f"{info.file}: tensors {other} and {stored_name} are both {name}")
            if info.dtype not in ("BF16", "F16", "F32"):
                raise ValueError(
                    f"{info.file}: tensor {stored_name}: expected dtype BF16, F16 or F32, "
                    f"found {info.dtype}"
                )
            self.tensors[name] = TensorInfo(
                name, info.dtype, info.shape, info.file, stored_name, info.offset
            )
        # Older Llama files keep the rotary frequencies; they follow from the config.
        self.buffers = tuple(name for name in self.tensors if name.endswith("rotary_emb.inv_freq"))
        self.tied = self._find_tied()
        counted = set(self.tensors) - set(self.buffers) - set(self.tied)
        self.tensors = {name: self.tensors[name] for name in sorted(counted, key=natural_order)}
        if not self.tensors:
            raise ValueError(f"{self.path}: the checkpoint holds no weights")

    def _find_tied(self) -> tuple[str, ...]:
        """Return heads that the config ties to the embedding and that are stored with equal bytes.

        A head that differs is a weight of its own, whatever the config says; transformers loads it.
        """
        config_file = (self.path if self.path.is_dir() else self.path.parent) / "config.json"
        if not config_file.exists():
            return ()
        try:
            config = json.loads(config_file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{config_file}: not JSON ({error})") from error
        if not isinstance(config, dict):
            raise ValueError(f"{config_file}: expected a JSON object")
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

        bfloat16 arrives as uint16 codes, float16 and float32 as themselves.
        """
        info = self.tensors[name]
        reader = pytorch_file if info.file.suffix == ".bin" else safetensors_file
        return reader.read_range(info, start, count)

    def read_chunks(self, name: str, chunk: int = CHUNK) -> Iterator[np.ndarray]:
        """Yield a tensor in flat pieces of at most ``chunk`` weights."""
        numel = self.tensors[name].numel
        for start in range(0, numel, chunk):
            yield self.read_range(name, start, min(chunk, numel - start))

    def read(self, name: str) -> np.ndarray:
        """Return one whole tensor in its shape, as stored (uint16 codes for bfloat16)."""
        info = self.tensors[name]
        return self.read_range(name, 0, info.numel).reshape(info.shape)

    def digest(self) -> str:
        """Return the SHA-256 of the weights, whatever files they are spread over.

        Hashed, per tensor in order of name: a line ``name dtype [shape]``, then the stored bytes.
        """
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            info = self.tensors[name]
            digest.update(f"{name} {info.dtype} {list(info.shape)}\n".encode())
            for piece in self.read_chunks(name):
                digest.update(piece.tobytes())
        return digest.hexdigest()
