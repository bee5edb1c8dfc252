"""Masks on disk: one bit per weight, set where the weight belongs to the subnetwork.

A safetensors file with one U8 tensor of packed bits (``np.packbits(bitorder="little")`` of the
flattened mask) per parameter. Its metadata: ``format``, ``shapes`` (JSON: parameter -> shape), and
what the mask came from: ``rule``, ``atol``, ``init_sha256``, ``tuned_sha256``.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.formats import encode_header, pieces, read_header, read_range
from rlsubnet.files import replacing

FORMAT = "rlsubnet-mask-1"
Shape = tuple[int, ...]


def packed_bytes(shape: Shape) -> int:
    return (math.prod(shape) + 7) // 8


def described(
    shapes: Mapping[str, Shape], metadata: Mapping[str, str]
) -> tuple[dict[str, tuple[str, Shape]], dict[str, str]]:
    """Return type and shape of every tensor of a mask file, and its metadata."""
    shapes_text = json.dumps({name: list(shape) for name, shape in shapes.items()})
    entries: dict[str, tuple[str, Shape]] = {
        name: ("U8", (packed_bytes(shape),)) for name, shape in shapes.items()
    }
    return entries, {"format": FORMAT, "shapes": shapes_text, **metadata}


def write_mask(
    path: Path | str,
    shapes: Mapping[str, Shape],
    masks: Iterable[tuple[str, np.ndarray]],
    metadata: Mapping[str, str],
) -> None:
    """Write a mask from (name, bool array), in the order of ``shapes``, one in memory at a time.

    ``metadata`` says what the mask came from. Masks that do not fit the shapes, or come in another
    order, are refused.
    """
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(encode_header(*described(shapes, metadata)))
        for (name, shape), (found, mask) in zip(shapes.items(), masks, strict=True):
            if (found, mask.dtype, mask.size) != (name, np.bool_, math.prod(shape)):
                raise ValueError(
                    f"{path}: expected a bool mask of {name} {list(shape)}, found {mask.dtype} "
                    f"{list(mask.shape)} of {found}"
                )
            stream.write(np.packbits(mask.reshape(-1), bitorder="little").tobytes())


def save_mask(
    path: Path | str, masks: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    write_mask(path, {name: mask.shape for name, mask in masks.items()}, masks.items(), metadata)


class Mask:
    """A mask file, opened; one parameter's bits are read at a time.

    ``shapes`` are those of the parameters. ``metadata`` has ``rule``, ``atol``, ``init_sha256``,
    ``tuned_sha256`` and what else was saved.

    Raises:
        ValueError: the file is no mask, or its tensors do not fit their shapes.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such mask file")
        self._tensors, self.metadata = read_header(self.path)
        if self.metadata.get("format") != FORMAT:
            found = self.metadata.get("format", "a file without format")
            raise ValueError(f"{self.path}: not a mask: expected format {FORMAT}, found {found}")
        try:
            shapes = {n: tuple(map(int, s)) for n, s in json.loads(self.metadata["shapes"]).items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path}: metadata `shapes` is damaged ({error})") from error
        if differing := sorted(set(shapes) ^ set(self._tensors)):
            raise ValueError(f"{self.path}: shapes and tensors differ: {', '.join(differing)}")
        for name, shape in shapes.items():
            tensor = self._tensors[name]
            if tensor.dtype != "U8" or tensor.shape != (packed_bytes(shape),):
                raise ValueError(
                    f"{self.path}: mask of {name}: shape {list(shape)} needs U8 "
                    f"[{packed_bytes(shape)}], found {tensor.dtype} {list(tensor.shape)}"
                )
        self.shapes: dict[str, Shape] = shapes

    def read_packed_chunks(self, name: str, chunk: int = 1 << 17) -> Iterator[np.ndarray]:
        """Yield the packed bits of a parameter in pieces of at most ``chunk`` bytes.

        Raises:
            ValueError: bits beyond the last weight are set, so that counts would be wrong.
        """
        total, numel = packed_bytes(self.shapes[name]), math.prod(self.shapes[name])
        for start, count in pieces(total, chunk):
            piece = read_range(self._tensors[name], start, count)
            if numel % 8 and start + piece.size == total and piece[-1] >> (numel % 8):
                raise ValueError(f"{self.path}: mask of {name}: bits set beyond the last weight")
            yield piece

    def read_range(self, name: str, start: int, count: int) -> np.ndarray:
        """Return bits as bool; only the bytes that hold them are read."""
        first, skip = divmod(start, 8)
        packed = read_range(self._tensors[name], first, (skip + count + 7) // 8)
        bits = np.unpackbits(packed, count=skip + count, bitorder="little")
        return bits[skip:].view(np.bool_)

    def is_empty(self) -> bool:
        chunks = (chunk for name in self.shapes for chunk in self.read_packed_chunks(name))
        return not any(chunk.any() for chunk in chunks)

    def read(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        return self.read_range(name, 0, math.prod(shape)).reshape(shape)

    def check_shapes(self, shapes: Mapping[str, Shape], owner: str) -> None:
        """Refuse ``shapes`` of ``owner`` that are not those of this mask, with the full list."""
        faults = [f"{name} only in the mask" for name in self.shapes if name not in shapes]
        faults += [f"{name} only in {owner}" for name in shapes if name not in self.shapes]
        faults += [
            f"{name} is {list(self.shapes[name])} in the mask, {list(shape)} in {owner}"
            for name, shape in shapes.items()
            if name in self.shapes and self.shapes[name] != tuple(shape)
        ]
        if faults:
            raise ValueError(f"{self.path}: does not fit {owner}: {'; '.join(faults)}")


# Stands for a digest, which is known last and as long as this.
PLACEHOLDER = "0" * 64


class MaskFile:
    """A mask under way: its bits go to a hidden file beside it, the header comes last.

    ``metadata`` given again to ``finish`` must be as long. ``keep`` goes on with the hidden file of
    an earlier run.
    """

    def __init__(
        self, path: Path, shapes: Mapping[str, Shape], metadata: Mapping[str, str], keep: bool
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self.hidden = hidden_beside(path, "unfinished")
        self._entries, self._metadata = described(shapes, metadata)
        offset = len(encode_header(self._entries, self._metadata))
        self._offsets = {}
        for name, (_, (size, *_)) in self._entries.items():
            self._offsets[name] = offset
            offset += size
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self.hidden.open("r+b" if keep else "wb")
        self._stream.truncate(offset)

    def write(self, name: str, start: int, packed: np.ndarray) -> None:
        """Put the packed bits of a parameter from weight ``start`` (a multiple of 8) on."""
        view, offset = packed.data, self._offsets[name] + start // 8
        while view:
            written = os.pwrite(self._stream.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def flush(self) -> None:
        os.fsync(self._stream.fileno())

    def finish(self, metadata: Mapping[str, str]) -> None:
        room = len(encode_header(self._entries, self._metadata))
        header = encode_header(self._entries, self._metadata | dict(metadata))
        assert len(header) == room, "metadata given at the end are as long as those before"
        os.pwrite(self._stream.fileno(), header, 0)
        self.close()
        self.hidden.replace(self.path)

    def close(self) -> None:
        self._stream.close()

    def discard(self) -> None:
        self.close()
        self.hidden.unlink(missing_ok=True)


def hidden_beside(path: Path, what: str) -> Path:
    """Return where parts or bits of a result wait until it is complete.

    >>> hidden_beside(Path("/masks/dpo.safetensors"), "unfinished").as_posix()
    '/masks/.dpo.safetensors.unfinished'
    """
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.{what}")
