"""The weights of a checkpoint, opened without reading them; one piece in memory at a time.

fp8: a matrix ``name`` of type ``F8_E4M3`` has a companion ``name_scale_inv``, the layout of
DeepSeek-V3 and R1-Zero: float32, one number per block of ``quantization_config.weight_block_size``
(128 x 128) of config.json. What is measured is the weight that the standard dequantization gives,
``bfloat16(float32(code) * scale)``: two such checkpoints are compared by dequantized values, and
``bitwise`` means the bits of these. Codes alone would say little, since an equal code under another
scale is another weight. A block scale that changes, and no code, therefore changes every weight of
its block (but zeros, and those that bfloat16 rounds back).

Differs from the paper: the authors' only public code for DeepSeek-V3-Base and R1-Zero (Table 1,
86.0) loads both models with BitsAndBytes' ``load_in_8bit``. That quantizes them a second time, to
int8, where weights that differ may share a code. It was published without its output, so 86.0 may
carry that or not.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlsubnet.checkpoints.formats import TensorInfo, read_stored
from rlsubnet.checkpoints.sources import PREFIX, FileSource, config_file, read_config
from rlsubnet.measure.formats import count_not_finite, dequantize, scale_of_each
from rlsubnet.measure.parameters import canonical_name, natural_order

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
HEADS = ("lm_head.weight", "embed_out.weight")
DTYPE = "F8_E4M3"
SUFFIX = "_scale_inv"
DTYPES = ("BF16", "F16", "F32", DTYPE)
# Returns weights (tensor, start, count) as a file holds them.
Read = Callable[[TensorInfo, int, int], np.ndarray]


@dataclass(frozen=True)
class BlockScales:
    """The scales of one weight: ``stored`` holds one per block of ``block`` (rows, columns)."""

    stored: TensorInfo
    block: tuple[int, int]


def _block_size(config: Mapping[str, Any], config_file: Path, name: str) -> tuple[int, int]:
    where = f"{config_file}: quantization_config, needed by tensor {name}"
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        raise ValueError(f"{where}: expected an object, found {settings!r}")
    for key, expected in (("quant_method", "fp8"), ("fmt", "e4m3")):
        # `fmt` may be left out, as transformers does; the stored type says the same.
        if settings.get(key, expected) != expected:
            raise ValueError(f"{where}: expected {key} {expected}, found {settings[key]!r}")
    block = settings.get("weight_block_size")
    if (
        not isinstance(block, list)
        or len(block) != 2
        or not all(type(size) is int and size > 0 for size in block)
    ):
        raise ValueError(f"{where}: expected weight_block_size [rows, columns], found {block!r}")
    return block[0], block[1]


def find_scales(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], config_file: Path
) -> dict[str, BlockScales]:
    """Return name -> scales of every fp8 weight among all tensors of a checkpoint, scales included.

    Raises:
        ValueError: an fp8 tensor has no scale, is no matrix, or its scale has another type or
            shape than the blocks need; a scale belongs to no fp8 tensor; or the config does not
            say how large a block is. Names file and tensor.
    """
    found = {}
    for name, info in tensors.items():
        where = f"{info.file}: tensor {name}"
        weight = tensors.get(name.removesuffix(SUFFIX))
        if name.endswith(SUFFIX) and (weight is None or weight.dtype != DTYPE):
            other = "no such tensor" if weight is None else weight.dtype
            raise ValueError(
                f"{where}: scales of {name.removesuffix(SUFFIX)}, expected {DTYPE}, found {other}"
            )
        if name.endswith(SUFFIX) or info.dtype != DTYPE:
            continue
        scale = tensors.get(name + SUFFIX)
        if scale is None:
            raise ValueError(f"{where}: found {DTYPE!r} without its scales {name + SUFFIX}")
        if len(info.shape) != 2:
            raise ValueError(f"{where}: expected {DTYPE} in a matrix, found {list(info.shape)}")
        block = _block_size(config, config_file, name)
        shape = tuple(-(-size // step) for size, step in zip(info.shape, block, strict=True))
        if (scale.dtype, scale.shape) != ("F32", shape):
            raise ValueError(
                f"{scale.file}: tensor {name + SUFFIX}: expected F32 {list(shape)} for "
                f"{list(info.shape)} in blocks of {list(block)}, found {scale.dtype} "
                f"{list(scale.shape)}"
            )
        found[name] = BlockScales(scale, block)
    return found


def read_dequantized(weight: TensorInfo, scales: BlockScales, start: int, count: int) -> np.ndarray:
    """Return ``count`` weights from ``start`` of the flattened matrix as bfloat16 codes.

    Only the scales of the rows touched are read; NaN codes arrive as NaN.
    """
    codes = read_stored(weight, start, count)
    if not count:
        return codes.astype(np.uint16)
    columns, per_row = weight.shape[1], scales.stored.shape[1]
    first = start // columns // scales.block[0]
    last = (start + count - 1) // columns // scales.block[0]
    needed = read_stored(scales.stored, first * per_row, (last + 1 - first) * per_row)
    by_block = needed.reshape(-1, per_row)
    return dequantize(codes, scale_of_each(by_block, scales.block, columns, start, count))


def refuse_not_finite(info: TensorInfo, start: int, weights: np.ndarray) -> None:
    """Refuse NaN and Inf, which no count of an update has room for."""
    if bad := count_not_finite(weights):
        raise ValueError(
            f"{info.file}: tensor {info.name}: {bad} of the weights {start} to "
            f"{start + weights.size - 1} are NaN or Inf"
        )


def by_canonical_name(source: FileSource) -> dict[str, TensorInfo]:
    """Return all stored tensors without the prefixes of trainers in their names.

    Unlike in a ``Checkpoint``, tied heads, buffers and scales are tensors like others.
    """
    tensors: dict[str, TensorInfo] = {}
    for stored_name, info in source.stored.items():
        name = canonical_name(stored_name)
        if name in tensors:
            other = tensors[name].stored_name
            raise ValueError(f"{source.label}: tensors {other} and {stored_name} are both {name}")
        tensors[name] = info
    return tensors


class Checkpoint:
    """The weights of a Hugging Face folder, a file, or a repository of the hub, read lazily.

    Attributes:
        path: the folder or file, or ``hf:organization/name@commit``.
        source: where its files come from.
        tensors: name -> TensorInfo of every weight, in natural order; names are without the
            prefixes of trainers (``module.``, ``_orig_mod.``, ``actor.``). ``dtype`` is the stored
            type: an ``F8_E4M3`` weight is read as the bfloat16 weight that it stands for.
        scales: name -> the block scales of every ``F8_E4M3`` weight; not weights of their own.
        tied: heads stored a second time beside the embedding they equal; counted once, not here.
        buffers: tensors that are computed and not trained (rotary frequencies); not counted.

    Raises:
        ValueError: a file is damaged, missing or unsafe; the message names it.
    """

    def __init__(self, source: Path | str | FileSource) -> None:
        self.source = FileSource(source) if isinstance(source, Path | str) else source
        self.path = Path(self.source.label)
        self.tensors: dict[str, TensorInfo] = {}
        for name, info in by_canonical_name(self.source).items():
            if info.dtype not in DTYPES:
                raise ValueError(
                    f"{info.file}: tensor {info.stored_name}: expected dtype "
                    f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]}, found {info.dtype}"
                )
            self.tensors[name] = replace(info, name=name)
        config = read_config(self.source.folder)
        self.scales = find_scales(self.tensors, config, config_file(self.source.folder))
        for name in self.scales:
            del self.tensors[name + SUFFIX]
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
        heads = [name for name in HEADS if name in self.tensors and name not in self.scales]
        others = [info for name, info in self.tensors.items() if name.endswith(EMBEDDINGS)]
        same = self.source.same_bytes
        return tuple(h for h in heads if any(same(self.tensors[h], info) for info in others))

    def read_range(self, name: str, start: int, count: int) -> np.ndarray:
        """Return ``count`` weights from ``start`` of the flattened tensor, as stored.

        bfloat16 arrives as uint16 codes, float16 and float32 as themselves, and fp8 as the uint16
        codes of the bfloat16 weights that its standard dequantization gives.
        """
        for file in self.files(name):
            self.source.ensure(file)
        if name in self.scales:
            return read_dequantized(self.tensors[name], self.scales[name], start, count)
        return read_stored(self.tensors[name], start, count)

    def files(self, name: str) -> set[Path]:
        files = {self.tensors[name].file}
        return files | {self.scales[name].stored.file} if name in self.scales else files

    def read(self, name: str) -> np.ndarray:
        info = self.tensors[name]
        return self.read_range(name, 0, info.numel).reshape(info.shape)

    def digest(self) -> str:
        """Return the SHA-256 of the weights, whatever files they are spread over.

        Hashed, per tensor in order of name: a line ``name dtype [shape]`` and the SHA-256 of the
        stored bytes; after an fp8 weight also its scales, with ``block [rows, columns]`` before the
        digest, such as ``lm_head.weight BF16 [24, 16] c0ffee...``.
        """
        scales = [scale.stored for scale in self.scales.values()]
        # File by file: those of the hub are here one after another.
        infos = sorted((*self.tensors.values(), *scales), key=lambda info: info.file)
        found = {info.name: self.tensor_sha256(info) for info in infos}
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            lines = [(self.tensors[name], found[name])]
            if name in self.scales:
                scale, block = self.scales[name].stored, self.scales[name].block
                lines.append((scale, f"block {list(block)} {found[scale.name]}"))
            for info, of_bytes in lines:
                line = f"{info.name} {info.dtype} {list(info.shape)} {of_bytes}\n"
                digest.update(line.encode())
        return digest.hexdigest()

    def tensor_sha256(self, info: TensorInfo) -> str:
        return self.source.tensor_sha256(info)


def open_source(source: Path | str) -> FileSource:
    """Return the files of a folder, a file, or ``hf:organization/name@revision``."""
    if not str(source).startswith(PREFIX):
        return FileSource(source)
    # The hub's library takes a while to import, and local files do without it.
    from rlsubnet.checkpoints.remote import RemoteShards

    return RemoteShards(str(source))
