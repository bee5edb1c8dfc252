"""The safetensors format, read and written by hand: which bytes of which file hold a tensor.

Eight bytes (length of the header, little-endian), a JSON header, then the tensors back to back.
https://huggingface.co/docs/safetensors
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_HEADER_BYTES = 100_000_000
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

    ``offset`` counts bytes from the start of the file; it is -1 where the numbers do not lie there
    in order (a transposed tensor of a ``.bin`` file).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    stored_name: str
    offset: int = -1

    @property
    def numel(self) -> int:
        """Return the number of weights."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the number of stored bytes."""
        return self.numel * ITEM_BYTES[self.dtype]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a key that occurs twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"names occur twice: {', '.join(twice)}")
    return result


def _read_json_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the header, the offset of the first tensor and the size of the file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"{path}: not a complete safetensors file: its header should be {length} bytes "
                f"long, the file has {size}"
            )
        try:
            header = json.loads(stream.read(length), object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: the safetensors header is not valid: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the safetensors header is not a JSON object")
    return header, 8 + length, size


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
    """Return the tensors of a safetensors file by stored name, and its metadata.

    Raises:
        ValueError: the file is cut short, or its header is damaged: overlapping tensors, bytes
            that belong to none, a shape that does not fit its bytes, a type we do not know.
    """
    header, start, size = _read_json_header(path)
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
    """Return ``count`` weights from position ``start`` of the flattened tensor."""
    offset = tensor.offset + start * ITEM_BYTES[tensor.dtype]
    array = np.fromfile(tensor.file, NUMPY_TYPES[tensor.dtype], count, offset=offset)
    if array.size != count:
        raise ValueError(f"{tensor.file}: tensor {tensor.stored_name}: the file ended while read")
    return array


def encode_header(
    entries: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str],
    size: int = 0,
) -> bytes:
    """Return the bytes before the first tensor for ``name -> (dtype, shape)``, in that order.

    They are ``size`` bytes if that is more than they need; the format allows spaces at the end.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape) in entries.items():
        end = offset + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * max(size - 8 - len(text), -len(text) % 8)
    return len(text).to_bytes(8, "little") + text
