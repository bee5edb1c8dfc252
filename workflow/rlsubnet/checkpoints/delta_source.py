"""A checkpoint as a delta sees it: the files of a folder, and the tensors that they store."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.delta_codec import BLOCK, Codes, as_codes
from rlsubnet.checkpoints.layout import RECORD, read_stored, read_tensors
from rlsubnet.checkpoints.safetensors_file import TensorInfo
from rlsubnet.checkpoints.visiting import Here, Side
from rlsubnet.files import sha256
from rlsubnet.measure.parameters import canonical_name

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
