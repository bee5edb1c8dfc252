"""``pytorch_model*.bin``: tensors inside a pickle, loaded without ever running its code.

The only place of the measuring core that needs torch; it is imported when a ``.bin`` is opened.
"""

import pickle
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlsubnet.checkpoints.safetensors_file import TensorInfo

if TYPE_CHECKING:
    import torch


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


@lru_cache(maxsize=4)
def _load(path: Path, modified_ns: int) -> "dict[str, torch.Tensor]":
    """Return the tensors of a file, mapped into memory; ``modified_ns`` keeps the cache honest."""
    import torch

    if not _is_zip(path):
        raise ValueError(
            f"{path}: not a complete torch file (damaged, or older than torch 1.6); "
            "save it again as safetensors"
        )
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: holds more than tensors and could run code; save it again as safetensors"
        ) from error
    # A damaged pickle can fail anywhere in the reader.
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{path}: cannot be read as a torch file: {first_line}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected a dictionary of tensors, found {type(state).__name__}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{path}: entry {name!r} is no tensor but {type(tensor).__name__}")
    return state


def _tensors(path: Path) -> "dict[str, torch.Tensor]":
    return _load(path, path.stat().st_mtime_ns)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a ``.bin`` file by stored name.

    Raises:
        ValueError: the file is damaged, holds anything but tensors, or a type we cannot measure.
    """
    tags = {"torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32"}
    infos = {}
    for name, tensor in _tensors(path).items():
        if str(tensor.dtype) not in tags:
            raise ValueError(
                f"{path}: tensor {name}: expected dtype BF16, F16 or F32, found {tensor.dtype}"
            )
        shape = tuple(tensor.shape)
        infos[name] = TensorInfo(name, tags[str(tensor.dtype)], shape, path, name)
    return infos


def read_range(tensor: TensorInfo, start: int, count: int) -> np.ndarray:
    """Return ``count`` weights from position ``start`` of the flattened tensor."""
    import torch

    flat = _tensors(tensor.file)[tensor.stored_name].detach().reshape(-1)[start : start + count]
    if tensor.dtype == "BF16":
        return flat.contiguous().view(torch.uint16).numpy().copy()
    return flat.contiguous().numpy().copy()
