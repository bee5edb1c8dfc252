"""Weights stored as fp8 codes with one scale per block, the layout of DeepSeek-V3 and R1-Zero.

A matrix ``name`` of type ``F8_E4M3`` has a companion ``name_scale_inv``: float32, one number per
block of ``quantization_config.weight_block_size`` (128 x 128) of config.json. What is measured is
the weight that the standard dequantization gives, ``bfloat16(float32(code) * scale)``: two such
checkpoints are compared by dequantized values, and ``bitwise`` means the bits of these. Codes alone
would say little, since an equal code under another scale is another weight. A block scale that
changes, and no code, therefore changes every weight of its block (but zeros, and those that
bfloat16 rounds back).

Differs from the paper: the authors' only public code for DeepSeek-V3-Base and R1-Zero (Table 1,
86.0) loads both models with BitsAndBytes' ``load_in_8bit``. That quantizes them a second time, to
int8, where weights that differ may share a code. It was published without its output, so 86.0 may
carry that or not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlsubnet.checkpoints.layout import read_stored
from rlsubnet.checkpoints.safetensors_file import TensorInfo
from rlsubnet.measure.float8 import dequantize, scale_of_each

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
