"""A mask file written in any order, by several threads, and continued after an interruption."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.masks import FORMAT, Shape, packed_bytes
from rlsubnet.checkpoints.safetensors_file import encode_header

# Digests are known last, and always as long as this.
LATER = "0" * 64


class MaskFile:
    """A mask under way: its bits go to a hidden file beside it, the header comes last.

    Args:
        path: where the mask appears once it is complete.
        shapes: shape of every parameter, in the order of the file.
        metadata: what the mask comes from; values given again to ``finish`` must be as long.
        keep: whether to go on with the hidden file of an earlier run.
    """

    def __init__(
        self, path: Path, shapes: Mapping[str, Shape], metadata: Mapping[str, str], keep: bool
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self.hidden = hidden_file(path)
        self._metadata = {
            "format": FORMAT,
            "shapes": json.dumps({name: list(shape) for name, shape in shapes.items()}),
        } | dict(metadata)
        self._entries = {name: ("U8", (packed_bytes(shape),)) for name, shape in shapes.items()}
        offset = len(encode_header(self._entries, self._metadata))
        self._offsets = {}
        for name, (_, (size,)) in self._entries.items():
            self._offsets[name] = offset
            offset += size
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if keep else os.O_TRUNC)
        self._descriptor = os.open(self.hidden, flags, 0o666)
        os.ftruncate(self._descriptor, offset)

    def write(self, name: str, start: int, packed: np.ndarray) -> None:
        """Put the packed bits of a parameter from weight ``start`` (a multiple of 8) on."""
        view, offset = packed.data, self._offsets[name] + start // 8
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def flush(self) -> None:
        """Return when what was written would survive a power failure."""
        os.fsync(self._descriptor)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header and let the mask appear at its path."""
        room = len(encode_header(self._entries, self._metadata))
        header = encode_header(self._entries, self._metadata | dict(metadata))
        assert len(header) == room, "metadata given at the end are as long as those before"
        os.pwrite(self._descriptor, header, 0)
        self.close()
        self.hidden.replace(self.path)

    def close(self) -> None:
        """Close the hidden file and leave it where it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Remove the hidden file."""
        self.close()
        self.hidden.unlink(missing_ok=True)


def hidden_file(path: Path) -> Path:
    """Return where the bits of a mask wait until it is complete.

    >>> hidden_file(Path("/masks/dpo.safetensors")).as_posix()
    '/masks/.dpo.safetensors.unfinished'
    """
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.unfinished")
