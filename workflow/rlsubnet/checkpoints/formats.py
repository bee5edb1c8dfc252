"""The two formats of weights: safetensors, and the ``.bin`` files of torch.

safetensors: eight bytes (length of the header, little-endian), a JSON header, then the tensors back
to back (https://huggingface.co/docs/safetensors). It is read and written by hand, since flat ranges
and raw bytes of bfloat16 are what we need and its library does not give. A ``.bin`` file is mapped
by ``torch.load``, and torch is imported for nothing else.
"""

import hashlib
import json
import math
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

MAX_HEADER_BYTES = 100_000_000
# Weights per read: half a MiB of bfloat16 stays in the cache; a multiple of 8 fills mask bytes.
CHUNK = 1 << 18
# bfloat16 and fp8 arrive as their codes; numpy has no such types.
NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
}
ITEM_BYTES = {name: kind.itemsize for name, kind in NUMPY_TYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor: ``name`` without a trainer's prefixes, ``stored_name`` as in the file.

    ``offset`` counts bytes from the start of the file; -1 in a ``.bin`` file or a delta.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    stored_name: str
    offset: int = -1

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"names occur twice: {', '.join(twice)}")
    return result


def _parse_json(head: bytes, size: int, path: Path) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(head[:8], "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise ValueError(
            f"{path}: not a complete safetensors file: its header should be {length} bytes "
            f"long, the file has {size}"
        )
    try:
        header = json.loads(head[8 : 8 + length], object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the safetensors header is not valid: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the safetensors header is not a JSON object")
    return header, 8 + length


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _parse_entry(path: Path, name: str, entry: object, start: int) -> tuple[TensorInfo, int]:
    """Return one tensor of a header and the offset of its end, both in bytes of the file."""
    where = f"{path}: tensor {name}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{where}: needs dtype, shape and data_offsets, found {entry!r}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise ValueError(f"{where}: shape must be a list of sizes, found {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ValueError(f"{where}: data_offsets must be two numbers of bytes, found {offsets!r}")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{where}: expected dtype {', '.join(ITEM_BYTES)}, found {dtype!r}")
    tensor = TensorInfo(name, dtype, tuple(shape), path, name, start + offsets[0])
    if offsets[1] - offsets[0] != tensor.nbytes:
        raise ValueError(
            f"{where}: {dtype} of shape {shape} needs {tensor.nbytes} bytes, "
            f"data_offsets hold {offsets[1] - offsets[0]}"
        )
    return tensor, start + offsets[1]


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors of a safetensors file by stored name, and its metadata."""
    with path.open("rb") as stream:
        head = stream.read(8)
        head += stream.read(min(int.from_bytes(head, "little"), MAX_HEADER_BYTES))
        return parse_header(head, os.fstat(stream.fileno()).st_size, path)


def parse_header(
    head: bytes, size: int, path: Path
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors and metadata of a safetensors file that begins with ``head``.

    Args:
        head: the header, and the eight bytes before it.
        size: of the whole file.
        path: the file that the tensors are said to lie in.

    Raises:
        ValueError: the file is cut short, or its header is damaged: overlapping tensors, bytes
            that belong to none, a shape that does not fit its bytes, a type we do not know.
    """
    header, start = _parse_json(head, size, path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: __metadata__ must be an object, found {metadata!r}")
    parsed = [_parse_entry(path, name, entry, start) for name, entry in header.items()]
    reached = start
    for tensor, end in sorted(parsed, key=lambda item: (item[0].offset, item[1])):
        if tensor.offset != reached:
            fault = "overlaps the tensor before it" if tensor.offset < reached else "leaves a gap"
            raise ValueError(f"{path}: tensor {tensor.name}: its place in the file {fault}")
        reached = end
    if reached != size:
        raise ValueError(
            f"{path}: the header describes {reached} bytes, the file has {size} "
            f"({'cut short' if reached > size else 'unknown bytes at the end'})"
        )
    return {tensor.name: tensor for tensor, _ in parsed}, metadata


def read_range(tensor: TensorInfo, start: int, count: int) -> np.ndarray:
    array = np.empty(count, NUMPY_TYPES[tensor.dtype])
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset + start * array.itemsize)
        if stream.readinto(array.data) != array.nbytes:
            raise ValueError(
                f"{tensor.file}: tensor {tensor.stored_name}: the file ended while read"
            )
    return array


def encode_header(
    entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Return the bytes before the first tensor for ``name -> (dtype, shape)``, in that order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape) in entries.items():
        end = offset + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


TORCH_TYPES = {"torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32"}


def _refuse_damaged(path: Path) -> int:
    """Return the bytes of numbers in a torch file; refuse one that cannot be mapped as it lies.

    torch maps the file and takes the numbers from where the archive says that they start.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(
            f"{path}: not a complete torch file (damaged, or older than torch 1.6); "
            "save it again as safetensors"
        ) from error
    numbers = [member for member in members if "/data/" in member.filename]
    if any(member.compress_type != zipfile.ZIP_STORED for member in numbers):
        raise ValueError(f"{path}: cannot be read as a torch file: its numbers are compressed")
    return sum(member.file_size for member in numbers)


def _torch_state(path: Path) -> Any:
    from rlsubnet.extras import how_to_install

    try:
        import torch
    except ImportError as error:
        raise ValueError(f"{path}: a torch file, needs torch; {how_to_install('torch')}") from error
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    # A damaged pickle can fail anywhere in the reader.
    except Exception as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named and isinstance(error, pickle.UnpicklingError):
            raise ValueError(
                f"{path}: holds more than tensors and could run code ({named[1]}); save it again "
                "as safetensors"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path}: cannot be read as a torch file: {reason}") from error


@lru_cache(maxsize=4)
def _mapped(path: Path, modified_ns: int) -> Mapping[str, tuple[str, np.ndarray]]:
    """Return name -> (type, numbers where they lie); ``modified_ns`` keeps the cache honest."""
    stored_bytes = _refuse_damaged(path)
    state = _torch_state(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected a dictionary of tensors, found {type(state).__name__}")
    arrays, storages = {}, {}
    for name, tensor in state.items():
        if not isinstance(name, str) or type(tensor).__name__ not in ("Tensor", "Parameter"):
            raise ValueError(f"{path}: entry {name!r} is no tensor but {type(tensor).__name__}")
        tag = TORCH_TYPES.get(str(tensor.dtype))
        if tag is None:
            raise ValueError(
                f"{path}: tensor {name}: expected dtype BF16, F16 or F32, found {tensor.dtype}"
            )
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        # numpy has no bfloat16, but codes of the same width.
        codes = tensor.detach().view(getattr(sys.modules["torch"], f"int{8 * tensor.itemsize}"))
        arrays[name] = tag, codes.numpy().view(NUMPY_TYPES[tag])
    if sum(storages.values()) > stored_bytes:
        raise ValueError(
            f"{path}: damaged: its tensors need {sum(storages.values())} bytes, the file holds "
            f"{stored_bytes} of them"
        )
    return arrays


def _torch_arrays(path: Path) -> Mapping[str, tuple[str, np.ndarray]]:
    return _mapped(path, path.stat().st_mtime_ns)


def read_torch_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a ``.bin`` file by stored name, as ``torch.load`` gives them.

    The file is mapped, not read, and no code in it runs (``weights_only``).
    """
    return {
        name: TensorInfo(name, tag, array.shape, path, name)
        for name, (tag, array) in _torch_arrays(path).items()
    }


def _read_torch_range(info: TensorInfo, start: int, count: int) -> np.ndarray:
    array = _torch_arrays(info.file)[info.stored_name][1]
    if not count or not info.shape:
        return np.array(array.reshape(-1)[start : start + count])
    # Of the first side only what holds the range is brought in order.
    per_row = math.prod(info.shape[1:])
    first, last = start // per_row, (start + count - 1) // per_row
    skipped = start - first * per_row
    return np.array(array[first : last + 1].reshape(-1)[skipped : skipped + count])


def read_stored(tensor: TensorInfo, start: int, count: int) -> np.ndarray:
    """Return ``count`` numbers from ``start`` of the flattened tensor, as its file holds them."""
    if tensor.offset < 0:
        return _read_torch_range(tensor, start, count)
    return read_range(tensor, start, count)


def pieces(numel: int, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Yield start and length of the pieces of a flat tensor.

    >>> list(pieces(5, 2))
    [(0, 2), (2, 2), (4, 1)]
    """
    for start in range(0, numel, size):
        yield start, min(size, numel - start)


def stored_sha256(tensor: TensorInfo) -> str:
    digest = hashlib.sha256()
    for start, count in pieces(tensor.numel):
        digest.update(read_stored(tensor, start, count).data)
    return digest.hexdigest()
