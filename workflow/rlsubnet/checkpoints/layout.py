"""Which files of a folder make up a checkpoint, as transformers chooses them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlsubnet.checkpoints import pytorch_file, safetensors_file
from rlsubnet.checkpoints.safetensors_file import TensorInfo

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
# The order in which transformers looks.
CANDIDATES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

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
        ".safetensors": lambda file: safetensors_file.read_header(file)[0],
        ".bin": pytorch_file.read_header,
    }
    if path.suffix not in readers:
        raise ValueError(f"{path}: expected a .safetensors or .bin file")
    return readers[path.suffix](path)


def read_stored(tensor: TensorInfo, start: int, count: int) -> np.ndarray:
    """Return ``count`` numbers from ``start`` of the flattened tensor, as its file holds them."""
    reader = safetensors_file if tensor.offset >= 0 else pytorch_file
    return reader.read_range(tensor, start, count)


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
