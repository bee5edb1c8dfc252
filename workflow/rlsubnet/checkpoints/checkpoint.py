"""A checkpoint on disk, opened without reading its weights; one piece in memory at a time."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlsubnet.checkpoints import formats
from rlsubnet.checkpoints.delta_codec import BLOCK, Codes, as_codes
from rlsubnet.checkpoints.formats import Reader, TensorInfo, open_reader, read_stored
from rlsubnet.files import sha256
from rlsubnet.measure.formats import count_not_finite, dequantize, scale_of_each
from rlsubnet.measure.parameters import canonical_name, natural_order

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
# The order in which transformers looks.
CANDIDATES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# How a source on the hub begins.
PREFIX = "hf:"

# Beside what was downloaded: where it came from, sizes and digests.
RECORD = "download.json"

# What a checkpoint needs beside its weights.
SIDE_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
# A tuned checkpoint has these from its init, byte by byte.
COMPANIONS = ("config.json", *SIDE_FILES)


class Side(Protocol):
    """What has files that may have to be brought here."""

    def bring(self, files: Collection[Path]) -> None:
        """Return when these of its files are on the disk."""

    def drop(self, files: Collection[Path]) -> None:
        """Take files that are not needed any more."""

    def announce(self, most: Collection[Path], count: int) -> None:
        """Take the files that will lie on the disk together at the worst, and how many in all."""

    def sizes(self) -> Mapping[Path, int]:
        """Return the size of every file that has to be brought."""


class Here:
    """A side all of whose files are on the disk."""

    def bring(self, files: Collection[Path]) -> None:
        """Do nothing."""

    def drop(self, files: Collection[Path]) -> None:
        """Do nothing."""

    def announce(self, most: Collection[Path], count: int) -> None:
        """Do nothing."""

    def sizes(self) -> Mapping[Path, int]:
        """Return nothing: no file has to be brought."""
        return {}

    def stamp(self, file: Path) -> list[Any]:
        """Return what changes when a file does: size, time and number on the disk."""
        status = file.stat()
        return [status.st_size, status.st_mtime_ns, status.st_ino]


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """Return every tensor of a checkpoint by stored name.

    Args:
        path: a Hugging Face folder, sharded or not, or one ``.safetensors`` or ``.bin`` file.

    Raises:
        ValueError: no checkpoint here, or its files do not fit together; names the file.
    """
    if path.is_file():
        return _read_file(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder or file; expected a Hugging Face checkpoint")
    for name in CANDIDATES:
        if (path / name).exists():
            return _read_file(path / name) if name in SINGLE_FILES else _read_index(path / name)
    if (path / "adapter_config.json").exists():
        raise ValueError(f"{path}: holds an adapter, not a whole model; merge it first")
    raise ValueError(f"{path}: no checkpoint; expected one of {', '.join(CANDIDATES)}")


def config_file(path: Path) -> Path:
    """Return where the config of a checkpoint (folder or file) lies, if it has one."""
    return (path if path.is_dir() else path.parent) / "config.json"


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config.json, empty where there is none.

    Raises:
        ValueError: it is not a JSON object.
    """
    file = config_file(path)
    if not file.exists():
        return {}
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file}: expected a JSON object")
    return config


def _read_file(path: Path) -> dict[str, TensorInfo]:
    readers: dict[str, Callable[[Path], dict[str, TensorInfo]]] = {
        ".safetensors": lambda file: formats.read_header(file)[0],
        ".bin": formats.read_torch_header,
    }
    if path.suffix not in readers:
        raise ValueError(f"{path}: expected a .safetensors or .bin file")
    return readers[path.suffix](path)


def is_shard_name(name: object) -> bool:
    """Return whether an index may name this file: a shard in the index's own folder.

    An index comes from the internet; nothing outside the folder may be opened through it.

    >>> is_shard_name("model-00001-of-00002.safetensors"), is_shard_name("../../etc/passwd")
    (True, False)
    """
    return (
        isinstance(name, str)
        and Path(name).name == name
        and name.endswith((".safetensors", ".bin"))
        and not any(character in name for character in "\\\0")
    )


def _read_weight_map(index: Path) -> dict[str, str]:
    """Return tensor name -> shard of an index file, having checked every shard's name."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{index}: expected a JSON object with weight_map ({error})") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: weight_map must be a non-empty object")
    for name, shard in weight_map.items():
        if not is_shard_name(shard):
            raise ValueError(
                f"{index}: tensor {name}: expected the name of a shard in this folder, "
                f"found {shard!r}"
            )
    return weight_map


def _read_index(index: Path) -> dict[str, TensorInfo]:
    weight_map = _read_weight_map(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise ValueError(f"{index}: shards missing from the folder: {', '.join(missing)}")
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        stored = _read_file(index.parent / shard)
        named = {name for name, file in weight_map.items() if file == shard}
        if absent := sorted(named - set(stored)):
            raise ValueError(
                f"{index.parent / shard}: lacks tensors that {index.name} places there: "
                f"{', '.join(absent)}"
            )
        for name in sorted(set(stored) - named):
            place = f"places it in {weight_map[name]}" if name in weight_map else "lacks it"
            raise ValueError(
                f"{index.parent / shard}: holds tensor {name}, but {index.name} {place}"
            )
        tensors |= stored
    return tensors


DTYPE = "F8_E4M3"
SUFFIX = "_scale_inv"


@dataclass(frozen=True)
class BlockScales:
    """The scales of one weight: ``stored`` holds one per block of ``block`` (rows, columns)."""

    stored: TensorInfo
    block: tuple[int, int]


def _block_size(config: Mapping[str, Any], config_file: Path, name: str) -> tuple[int, int]:
    """Return rows and columns of a block; ``name`` is the tensor that needs them."""
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
    """Return name -> scales of every fp8 weight among the tensors of a checkpoint.

    Args:
        tensors: all of them, scales included, by name.
        config: the content of config.json, empty where there is none.
        config_file: its path, for messages.

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


# Weights per read: half a MiB of bfloat16 stays in the cache; a multiple of 8 fills mask bytes.
CHUNK = 1 << 18
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
HEADS = ("lm_head.weight", "embed_out.weight")
DTYPES = ("BF16", "F16", "F32", DTYPE)


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
        self.scales = find_scales(self.tensors, config, config_file(self.path))
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
            return read_dequantized(info, self.scales[name], start, count)
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


# What holds weights, or what training left behind; of these a delta knows safetensors only.
WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".onnx",
    ".h5",
    ".msgpack",
    ".npz",
    ".delta",
)
# No config or tokenizer is as large; what is must be data, and a delta is no place for it.
LARGEST_SIDE_FILE = 64 << 20


class StoredWeights:
    """Every tensor that a folder (or one file) stores, whatever its type, by stored name.

    Unlike a ``Checkpoint`` it tells nothing apart: tied heads, buffers and scales are tensors.

    Attributes:
        where: the source, for messages.
        folder: the folder of its files.
        tensors: stored name -> TensorInfo.
        weight_files: the files that hold them, in order of name.
        side: brings these files to the disk before they are read.

    Raises:
        ValueError: a file is damaged, missing or unsafe; the message names it.
    """

    def __init__(self, path: Path | str) -> None:
        self.where, self.folder = str(path), Path(path)
        self.tensors = read_tensors(Path(path))
        self.weight_files = sorted({info.file for info in self.tensors.values()})
        if not self.folder.is_dir():
            self.folder = self.folder.parent
        self.side: Side = Here()

    def by_canonical_name(self) -> dict[str, TensorInfo]:
        """Return the tensors without the prefixes of trainers in their names.

        Raises:
            ValueError: two of them get one name.
        """
        tensors: dict[str, TensorInfo] = {}
        for stored_name, info in self.tensors.items():
            name = canonical_name(stored_name)
            if name in tensors:
                other = tensors[name].stored_name
                raise ValueError(f"{self.where}: tensors {other} and {stored_name} are both {name}")
            tensors[name] = info
        return tensors

    def read(self, info: TensorInfo, start: int, count: int) -> np.ndarray:
        """Return ``count`` numbers from ``start`` of the flattened tensor, as stored."""
        return read_stored(info, start, count)

    def blocks(self, info: TensorInfo) -> Iterator[Codes]:
        """Yield a tensor in blocks, as unsigned integers."""
        for start in range(0, info.numel, BLOCK):
            yield as_codes(self.read(info, start, min(BLOCK, info.numel - start)))

    def header(self, path: Path, size: int) -> bytes:
        """Return the first bytes of a weight file."""
        with path.open("rb") as stream:
            return stream.read(size)

    def file_size(self, path: Path) -> int:
        """Return the size of a weight file."""
        return path.stat().st_size

    def file_sha256(self, path: Path) -> str:
        """Return the digest of a weight file."""
        return sha256(path)

    def side_files(self) -> tuple[list[Path], list[str]]:
        """Return the files that belong to the model beside its weights, and names of the others.

        Config, tokenizer, generation settings, chat template, code, notes: what lies in the folder
        itself and is small. Left out: weights in other forms, subfolders, hidden files, our own
        record of a download.
        """
        side, others = [], []
        for path in sorted(self.folder.iterdir()):
            if path in self.weight_files:
                continue
            belongs = (
                path.is_file()
                and path.suffix not in WEIGHT_SUFFIXES
                and not path.name.startswith(".")
                and path.name != RECORD
                and path.stat().st_size <= LARGEST_SIDE_FILE
            )
            if belongs:
                side.append(path)
            else:
                others.append(path.name)
        return side, others
