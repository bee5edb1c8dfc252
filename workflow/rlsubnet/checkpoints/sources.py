"""Where the files of a checkpoint come from, and in which order to go through those of a pair.

Which files of a folder make up a checkpoint is decided as transformers decides it. Local files stay
where they are; those of the hub (``checkpoints.remote``) are fetched when their first tensor is
looked at and released after the last one. Every file is fetched once, whatever the layouts of the
two checkpoints.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlsubnet.checkpoints.formats import (
    TensorInfo,
    read_header,
    read_stored,
    read_torch_header,
    stored_sha256,
)
from rlsubnet.files import sha256

# How a source on the hub begins.
PREFIX = "hf:"
# The order in which transformers looks.
CANDIDATES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Beside what was downloaded: where it came from, sizes and digests.
RECORD = "download.json"
# What a checkpoint needs beside its weights; a tuned one has it from its init, byte by byte.
COMPANIONS = (
    "config.json",
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
# What holds weights, or what training left behind; of these a delta knows safetensors only.
WEIGHT_SUFFIXES = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack"),
    *(".npz", ".delta"),
)


def copy_companions(init: Path, folder: Path) -> None:
    """Copy configuration and tokenizer of ``init``, byte by byte."""
    for name in COMPANIONS:
        if (init / name).is_file():
            shutil.copyfile(init / name, folder / name)


def read_object(file: str, text: bytes) -> dict[str, Any]:
    """Return the JSON object in a file that comes with a checkpoint."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's config.json, empty where there is none."""
    file = config_file(path)
    return read_object(str(file), file.read_bytes()) if file.exists() else {}


def config_file(path: Path) -> Path:
    """Return where the config of a checkpoint (folder or file) lies, if it has one."""
    return (path if path.is_dir() else path.parent) / "config.json"


def read_weight_map(index: str, text: bytes) -> dict[str, str]:
    """Return tensor name -> shard of an index file.

    An index comes from the internet: nothing outside its own folder may be opened through it.

    >>> read_weight_map("i.json", b'{"weight_map": {"w": "../etc/passwd"}}')
    Traceback (most recent call last):
    ValueError: i.json: tensor w: expected the name of a shard in this folder, found '../etc/passwd'
    """
    weight_map = read_object(index, text).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: weight_map must be a non-empty object")
    for name, shard in weight_map.items():
        if not (
            isinstance(shard, str)
            and Path(shard).name == shard
            and shard.endswith((".safetensors", ".bin"))
            and not any(character in shard for character in "\\\0")
        ):
            raise ValueError(
                f"{index}: tensor {name}: expected the name of a shard in this folder, "
                f"found {shard!r}"
            )
    return weight_map


def weight_files(
    names: Collection[str], read: Callable[[str], bytes], where: str
) -> tuple[list[str], dict[str, str]]:
    """Return the names of the weight files, an index first, and what the index says.

    Safetensors are preferred, and ``.bin`` files are taken only where no safetensors exist. Copies
    in other layouts (``original/``, ``consolidated*``, ``*.pth``, ONNX, GGUF) are never chosen.

    Args:
        names: all file names of the checkpoint, relative to its root.
        read: returns the content of the index of that name.
        where: the folder or repository, for messages.

    >>> index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    >>> names = ["model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"]
    >>> weight_files([*names, "consolidated.pth"], lambda name: index, "here")[0] == names
    True
    """
    chosen = next((name for name in CANDIDATES if name in names), None)
    if chosen is None:
        if "adapter_config.json" in names:
            raise ValueError(f"{where}: holds an adapter, not a whole model; merge it first")
        raise ValueError(
            f"{where}: no checkpoint; expected one of {', '.join(CANDIDATES)}, "
            f"found {', '.join(sorted(names)) or 'no files'}"
        )
    if not chosen.endswith(".index.json"):
        return [chosen], {}
    weight_map = read_weight_map(f"{where}/{chosen}", read(chosen))
    shards = sorted(set(weight_map.values()))
    if missing := [shard for shard in shards if shard not in names]:
        raise ValueError(
            f"{where}/{chosen}: names {len(shards)} files, {len(missing)} missing: "
            f"{', '.join(missing)}"
        )
    return [chosen, *shards], weight_map


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """Return every tensor by stored name of a Hugging Face folder, or of one file."""
    if path.is_file():
        return _read_file(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder or file; expected a Hugging Face checkpoint")
    names = {entry.name for entry in path.iterdir()}
    files, weight_map = weight_files(names, lambda name: (path / name).read_bytes(), str(path))
    if not weight_map:
        return _read_file(path / files[0])
    return _read_shards(path, files[0], weight_map)


def _read_file(path: Path) -> dict[str, TensorInfo]:
    if path.suffix == ".safetensors":
        return read_header(path)[0]
    if path.suffix == ".bin":
        return read_torch_header(path)
    raise ValueError(f"{path}: expected a .safetensors or .bin file")


def _read_shards(folder: Path, index: str, weight_map: Mapping[str, str]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        stored = _read_file(folder / shard)
        named = {name for name, file in weight_map.items() if file == shard}
        if absent := sorted(named - set(stored)):
            raise ValueError(
                f"{folder / shard}: lacks tensors that {index} places there: {', '.join(absent)}"
            )
        for name in sorted(set(stored) - named):
            place = f"places it in {weight_map[name]}" if name in weight_map else "lacks it"
            raise ValueError(f"{folder / shard}: holds tensor {name}, but {index} {place}")
        tensors |= stored
    return tensors


class FileSource:
    """The files of a checkpoint: of a folder or file on the disk, where nothing has to be fetched.

    Attributes:
        label: the source, for messages.
        folder: the folder of the files.
        stored: all tensors, whatever their type, by stored name.
    """

    def __init__(self, path: Path | str) -> None:
        self.path, self.label = Path(path), str(path)
        self.folder = self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def stored(self) -> dict[str, TensorInfo]:
        return read_tensors(self.path)

    def sizes(self) -> Mapping[Path, int]:
        """Return the size of every file that has to be fetched."""
        return {}

    def plan(self, most: Collection[Path], count: int) -> None:
        """Take the files that will lie on the disk together at the worst, and how many in all."""

    def fetch(self, files: Collection[Path]) -> None:
        """Return when these files are on the disk, to stay until released."""

    def release(self, files: Collection[Path]) -> None:
        """Take files that are not needed any more."""

    def ensure(self, file: Path) -> None:
        """Return when a file that is read in no planned order is on the disk."""

    def read(self, info: TensorInfo, start: int, count: int) -> np.ndarray:
        """Return ``count`` numbers from ``start`` of the flattened tensor, as stored."""
        self.ensure(info.file)
        return read_stored(info, start, count)

    def tensor_sha256(self, info: TensorInfo) -> str:
        """Return the SHA-256 of the stored bytes of a tensor."""
        return stored_sha256(info)

    def same_bytes(self, a: TensorInfo, b: TensorInfo) -> bool:
        """Return whether two tensors are stored with the same bytes, as a tied head may be."""
        alike = (a.dtype, a.shape) == (b.dtype, b.shape)
        return alike and self.tensor_sha256(a) == self.tensor_sha256(b)

    def fingerprint(self, file: Path) -> list[Any]:
        """Return what changes when a file does."""
        status = file.stat()
        return [status.st_size, status.st_mtime_ns, status.st_ino]

    def header(self, file: Path, size: int) -> bytes:
        """Return the first bytes of a weight file."""
        with file.open("rb") as stream:
            return stream.read(size)

    def size_and_sha256(self, file: Path) -> tuple[int, str]:
        """Return size and SHA-256 of a weight file, which has been read."""
        return file.stat().st_size, sha256(file)

    def side_files(self) -> tuple[list[Path], list[str]]:
        """Return the files that belong to the model beside its weights, and names of the others.

        Config, tokenizer, generation settings, chat template, code, notes: what lies in the folder
        itself and is small. Left out: weights in other forms, subfolders, hidden files, our own
        record of a download.
        """
        weights = {info.file for info in self.stored.values()}
        files = sorted(set(self.folder.iterdir()) - weights)
        side = [
            path
            for path in files
            if path.is_file() and path.name != RECORD and is_side(path.name, path.stat().st_size)
        ]
        return side, [path.name for path in files if path not in side]


def is_side(name: str, size: int) -> bool:
    """Return whether a file that holds no weights belongs to the model, by its name and size."""
    hidden_or_deeper = name.startswith(".") or "/" in name
    # No config or tokenizer is as large; what is must be data, and a delta is no place for it.
    small = size <= 64 << 20
    return not hidden_or_deeper and Path(name).suffix not in WEIGHT_SUFFIXES and small


def fetch_order(parts: Sequence[Collection[Path]], sizes: Mapping[Path, int]) -> list[int]:
    """Return the order of parts in which as little as possible is fetched for the next one.

    Args:
        parts: the files that each part needs.
        sizes: of the files that have to be fetched; others cost nothing.

    >>> a1, a2, b1, b2 = map(Path, ("a1", "a2", "b1", "b2"))
    >>> parts = [(a1, b1), (a2, b2), (a1, b2), (a2, b1)]
    >>> fetch_order(parts, {a1: 5, a2: 5, b1: 4, b2: 4})  # a1 b1, then b2, then a2
    [0, 2, 1, 3]
    """
    order: list[int] = []
    left, held = list(range(len(parts))), set[Path]()
    while left:
        costs = {i: sum(sizes.get(file, 0) for file in parts[i] if file not in held) for i in left}
        best = min(left, key=lambda i: (costs[i], i))
        order.append(best)
        left.remove(best)
        held = (held | set(parts[best])) & {file for i in left for file in parts[i]}
    return order


def fetched_parts(
    sources: Sequence[FileSource], parts: Sequence[Sequence[Collection[Path]]]
) -> Iterator[int]:
    """Yield the number of each part of a pair once its files are on the disk, with few at a time.

    ``parts`` are, per part, the files of each source that it needs. No file is left at the end.
    """
    sizes = {file: size for source in sources for file, size in source.sizes().items()}
    order = fetch_order([[*before, *after] for before, after in parts], sizes)
    held: list[list[set[Path]]] = []
    for side, source in enumerate(sources):
        needed = [set[Path](parts[number][side]) for number in order]
        # What a place of the order or an earlier one needs, and it or a later one.
        places = [
            set[Path]().union(*needed[: place + 1]) & set[Path]().union(*needed[place:])
            for place in range(len(order))
        ]
        most = max(places, key=lambda files: sum(sizes.get(f, 0) for f in files), default=set())
        source.plan(most, len(set[Path]().union(*needed)))
        held.append([*places, set()])
    for place, number in enumerate(order):
        with ThreadPoolExecutor(len(sources)) as pool:
            here = [files[place] for files in held]
            list(pool.map(lambda source, files: source.fetch(files), sources, here))
        yield number
        for source, files in zip(sources, held, strict=True):
            source.release(files[place] - files[place + 1])
