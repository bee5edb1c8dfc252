"""``pytorch_model*.bin``: a zip archive of tensors and a pickle that describes them.

torch stores the numbers uncompressed, so that they are read in place: where in the file a tensor
lies is all that the archive is asked for. Neither torch nor the pickle's own code is ever run.
"""

import math
import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rlsubnet.checkpoints.safetensors_file import (
    ITEM_BYTES,
    MAX_HEADER_BYTES,
    NUMPY_TYPES,
    TensorInfo,
)
from rlsubnet.checkpoints.torch_pickle import ForbiddenName, StoredTensor, read_pickle

TAGS = {"torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32"}
# What stands before the bytes of a member of a zip archive, and where in it lengths are told.
LOCAL_HEADER, NAME_LENGTH, EXTRA_LENGTH = 30, slice(26, 28), slice(28, 30)


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path}: cannot be read as a torch file: {what}")


def _member_offset(stream: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Return where in the file the bytes of a member start."""
    stream.seek(member.header_offset)
    header = stream.read(LOCAL_HEADER)
    name, extra = (int.from_bytes(header[place], "little") for place in (NAME_LENGTH, EXTRA_LENGTH))
    return member.header_offset + LOCAL_HEADER + name + extra


def _described(path: Path, archive: zipfile.ZipFile) -> tuple[str, object]:
    """Return the folder inside an archive and what its pickle describes."""
    found = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise _damaged(path, f"expected one data.pkl inside, found {len(found)}")
    folder = found[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise _damaged(path, f"expected byte order little, found {archive.read(order)!r}")
    if archive.getinfo(found[0]).file_size > MAX_HEADER_BYTES:
        raise _damaged(path, f"data.pkl has more than {MAX_HEADER_BYTES} bytes")
    try:
        return folder, read_pickle(archive.read(found[0]))
    except ForbiddenName as error:
        raise ValueError(
            f"{path}: holds more than tensors and could run code ({error}); save it again as "
            "safetensors"
        ) from error
    # A damaged pickle can fail anywhere in the reader.
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OverflowError) as error:
        raise _damaged(path, str(error)) from error
    except (LookupError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise _damaged(path, f"its pickle is damaged ({error})") from error


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a tensor whose numbers lie in order.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def _in_order(tensor: StoredTensor) -> bool:
    """Return whether the numbers of a tensor lie in order, whatever the stride of a side of 1."""
    expected = row_major(tensor.shape)
    sides = zip(tensor.shape, tensor.strides, expected, strict=True)
    return all(size == 1 or stride == wanted for size, stride, wanted in sides)


def _check(path: Path, name: str, tensor: StoredTensor, stored_bytes: int) -> None:
    """Refuse a tensor that does not lie in its storage.

    Raises:
        ValueError: naming file and tensor.
    """
    where = f"{path}: tensor {name}"
    if tensor.dtype not in TAGS:
        raise ValueError(f"{where}: expected dtype BF16, F16 or F32, found {tensor.dtype}")
    numbers = [tensor.offset, *tensor.shape, *tensor.strides]
    if len(tensor.shape) != len(tensor.strides) or not all(
        type(number) is int and number >= 0 for number in numbers
    ):
        raise ValueError(f"{where}: its place is damaged: {tensor[2:]}")
    sides = zip(tensor.shape, tensor.strides, strict=True)
    end = tensor.offset + sum((size - 1) * stride for size, stride in sides) + 1
    numel = math.prod(tensor.shape)
    # An expanded view claims more numbers than there are.
    needed = max(end, numel) * ITEM_BYTES[TAGS[tensor.dtype]] if numel else 0
    if needed > stored_bytes:
        raise ValueError(f"{where}: needs {needed} bytes, the file holds {stored_bytes} of it")


# A tensor, and where in the file its storage starts.
_Placed = tuple[StoredTensor, int]


@lru_cache(maxsize=4)
def _load(path: Path, modified_ns: int) -> Mapping[str, _Placed]:
    """Return the tensors of a file by name; ``modified_ns`` keeps the cache honest."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path}: not a complete torch file (damaged, or older than torch 1.6); "
            "save it again as safetensors"
        ) from error
    with archive, path.open("rb") as stream:
        folder, state = _described(path, archive)
        if not isinstance(state, dict):
            raise ValueError(
                f"{path}: expected a dictionary of tensors, found {type(state).__name__}"
            )
        members = {member.filename: member for member in archive.infolist()}
        size = os.fstat(stream.fileno()).st_size
        placed: dict[str, _Placed] = {}
        for name, tensor in state.items():
            if not isinstance(name, str) or not isinstance(tensor, StoredTensor):
                raise ValueError(f"{path}: entry {name!r} is no tensor but {type(tensor).__name__}")
            member = members.get(f"{folder}data/{tensor.storage.key}")
            if member is None or member.compress_type != zipfile.ZIP_STORED:
                found = "nothing" if member is None else "compressed bytes"
                raise ValueError(f"{path}: tensor {name}: expected stored numbers, found {found}")
            offset = _member_offset(stream, member)
            _check(path, name, tensor, min(member.file_size, max(size - offset, 0)))
            placed[name] = tensor, offset
    return placed


def _tensors(path: Path) -> Mapping[str, _Placed]:
    return _load(path, path.stat().st_mtime_ns)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a ``.bin`` file by stored name.

    Those that do not lie in order, such as a transposed view, have offset -1: ``read_range`` is for
    them.

    Raises:
        ValueError: the file is damaged, holds anything but tensors, or a type we cannot measure.
    """
    infos = {}
    for name, (tensor, start) in _tensors(path).items():
        tag = TAGS[tensor.dtype]
        offset = start + tensor.offset * ITEM_BYTES[tag] if _in_order(tensor) else -1
        infos[name] = TensorInfo(name, tag, tensor.shape, path, name, offset)
    return infos


def read_range(info: TensorInfo, start: int, count: int) -> np.ndarray:
    """Return ``count`` weights from position ``start`` of a flattened tensor in any order."""
    tensor, place = _tensors(info.file)[info.stored_name]
    kind = NUMPY_TYPES[info.dtype]
    if not count or not tensor.shape:
        return np.fromfile(info.file, kind, count, offset=place + tensor.offset * kind.itemsize)
    stored = np.memmap(info.file, np.uint8, "r")[place + tensor.offset * kind.itemsize :]
    view: np.ndarray = np.ndarray(
        tensor.shape, kind, stored, strides=[stride * kind.itemsize for stride in tensor.strides]
    )
    # Of the first side only what holds the range is brought in order.
    per_row = math.prod(tensor.shape[1:])
    first, last = start // per_row, (start + count - 1) // per_row
    skipped = start - first * per_row
    return np.ascontiguousarray(view[first : last + 1]).reshape(-1)[skipped : skipped + count]
