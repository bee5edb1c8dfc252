"""Pieces of a checkpoint read into one small buffer, over and over.

A read at a position of its own (``preadv``) shares no file position, so that every thread reads
where it likes; half a MiB that is reused stays in the cache, which a fresh array or a mapped file
does not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.safetensors_file import ITEM_BYTES, NUMPY_TYPES, TensorInfo


class Reader:
    """Reads stored tensors piece by piece; for one thread.

    Args:
        chunk: the most weights of a piece.
    """

    def __init__(self, chunk: int) -> None:
        self._buffer = np.empty(chunk * max(ITEM_BYTES.values()), np.uint8)
        self._path: Path | None = None
        self._descriptor = -1

    def read(self, tensor: TensorInfo, start: int, count: int) -> np.ndarray:
        """Return ``count`` numbers from ``start`` of the flattened tensor, as its file holds them.

        The array is valid until the next call.

        Raises:
            ValueError: the file ended; names it and the tensor.
        """
        if tensor.file != self._path:
            self.close()
            self._descriptor = os.open(tensor.file, os.O_RDONLY | os.O_CLOEXEC)
            self._path = tensor.file
        size = count * ITEM_BYTES[tensor.dtype]
        piece = self._buffer[:size]
        view, done = piece.data, 0
        offset = tensor.offset + start * ITEM_BYTES[tensor.dtype]
        while done < size:
            got = os.preadv(self._descriptor, [view[done:]], offset + done)
            if got == 0:
                raise ValueError(
                    f"{tensor.file}: tensor {tensor.stored_name}: the file ended while read"
                )
            done += got
        return piece.view(NUMPY_TYPES[tensor.dtype])

    def close(self) -> None:
        """Close the file that was read last."""
        if self._path is not None:
            os.close(self._descriptor)
            self._path = None


@contextmanager
def open_reader(chunk: int) -> Iterator[Reader]:
    """Yield a reader that is closed at the end of the block."""
    reader = Reader(chunk)
    try:
        yield reader
    finally:
        reader.close()
