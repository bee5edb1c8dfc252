"""The pickle inside a torch file, read without torch and without running anything it names.

A pickle is a program that names functions to call. Here the few that describe tensors stand for
descriptions, and any other name ends the reading.
"""

import pickle
from collections import OrderedDict
from io import BytesIO
from typing import Any, NamedTuple

# Storage classes by name, and the type that each one holds.
STORAGES = {
    "BFloat16Storage": "torch.bfloat16",
    "BoolStorage": "torch.bool",
    "ByteStorage": "torch.uint8",
    "CharStorage": "torch.int8",
    "DoubleStorage": "torch.float64",
    "FloatStorage": "torch.float32",
    "HalfStorage": "torch.float16",
    "IntStorage": "torch.int32",
    "LongStorage": "torch.int64",
    "ShortStorage": "torch.int16",
}
# Types that are stored as bytes and named beside them.
UNTYPED = "UntypedStorage"
NEWER_TYPES = ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")


class ForbiddenName(Exception):
    """A pickle that asks for more than tensors; the message is what it names."""


class Storage(NamedTuple):
    """Numbers in a file of their own inside the archive: its name, their type and how many."""

    key: str
    dtype: str
    numel: int


class StoredTensor(NamedTuple):
    """A view of a storage; offset and strides count numbers."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Inert:
    """A function of a pickle; without attributes, so that no pickle can change it."""

    __slots__ = ()


class _RebuildTensor(_Inert):
    __slots__ = ()

    def __call__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *_: Any,
    ) -> StoredTensor:
        return StoredTensor(storage, storage.dtype, offset, tuple(shape), tuple(strides))


class _RebuildTypedTensor(_Inert):
    __slots__ = ()

    def __call__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        requires_grad: bool,
        hooks: object,
        dtype: str,
        *_: Any,
    ) -> StoredTensor:
        return StoredTensor(storage, dtype, offset, tuple(shape), tuple(strides))


class _RebuildParameter(_Inert):
    __slots__ = ()

    def __call__(self, tensor: StoredTensor, *_: Any) -> StoredTensor:
        return tensor


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildTypedTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch.storage", UNTYPED): UNTYPED,
    **{("torch", storage): dtype for storage, dtype in STORAGES.items()},
    **{("torch", dtype): f"torch.{dtype}" for dtype in NEWER_TYPES},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return KNOWN[module, name]
        except KeyError:
            raise ForbiddenName(f"{module}.{name}") from None

    def persistent_load(self, identity: Any) -> Storage:
        kind, dtype, key, _, numel = identity
        if kind != "storage" or not isinstance(key, str) or not isinstance(numel, int):
            raise ValueError(f"unknown reference {identity!r}")
        return Storage(key, dtype, numel)


def read_pickle(program: bytes) -> Any:
    """Return what a torch pickle describes, with a ``StoredTensor`` for every tensor.

    Raises:
        ForbiddenName: it names anything that no tensor needs.
        Exception: of many kinds, where the pickle is damaged.

    >>> read_pickle(pickle.dumps({"step": 3}))
    {'step': 3}
    >>> read_pickle(pickle.dumps(print))
    Traceback (most recent call last):
    rlsubnet.checkpoints.torch_pickle.ForbiddenName: builtins.print
    """
    return _Unpickler(BytesIO(program)).load()
