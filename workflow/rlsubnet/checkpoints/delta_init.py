"""The side of init in a delta: what a tuned tensor builds on, and whether it is the right one."""

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from rlsubnet.checkpoints.delta_codec import BLOCK, Codes, as_codes
from rlsubnet.checkpoints.delta_manifest import Manifest, Shape
from rlsubnet.checkpoints.delta_source import StoredWeights
from rlsubnet.checkpoints.safetensors_file import NUMPY_TYPES, TensorInfo
from rlsubnet.checkpoints.store import EMBEDDINGS, HEADS
from rlsubnet.measure.bfloat16 import to_bfloat16

Read = Callable[[TensorInfo, int, int], np.ndarray]
# A message names as many tensors and says how many more there are.
_NAMED = 5


def _fits(info: TensorInfo, dtype: str, shape: Shape) -> bool:
    rounded = dtype == "BF16" and info.dtype in ("F16", "F32")
    same_rows = len(info.shape) == len(shape) and info.shape[1:] == shape[1:]
    return (info.dtype == dtype or rounded) and same_rows


def find_init(
    name: str, dtype: str, shape: Shape, tensors: Mapping[str, TensorInfo]
) -> TensorInfo | None:
    """Return the tensor of init that a tuned one is stored against, None if none will do.

    That of the same name; for a head that init ties to its embedding and does not store, the
    embedding. The number of rows may differ (a resized vocabulary). A bfloat16 tensor may build on
    a float16 or float32 one, rounded to nearest even.
    """
    candidates = [name]
    if name in HEADS and name not in tensors:
        candidates += [other for other in tensors if other.endswith(EMBEDDINGS)]
    for candidate in candidates:
        if candidate in tensors and _fits(tensors[candidate], dtype, shape):
            return tensors[candidate]
    return None


def init_block(read: Read, info: TensorInfo | None, dtype: str, start: int, count: int) -> Codes:
    """Return ``count`` weights of init from ``start`` as a tuned tensor of ``dtype`` has them.

    Zeros where init has no such weights.
    """
    kind = NUMPY_TYPES[dtype]
    present = 0 if info is None else max(0, min(count, info.numel - start))
    if info is None or not present:
        return np.zeros(count, f"u{kind.itemsize}")
    weights = read(info, start, present)
    codes = as_codes(weights if info.dtype == dtype else to_bfloat16(weights))
    return np.concatenate([codes, np.zeros(count - present, codes.dtype)])


def init_blocks(
    read: Read,
    info: TensorInfo | None,
    dtype: str,
    numel: int,
    update: Callable[[memoryview], None],
) -> Iterator[Codes]:
    """Yield init's weights for a tuned tensor of ``numel``; ``update`` sees all of its bytes."""

    def hashing(tensor: TensorInfo, start: int, count: int) -> np.ndarray:
        weights = read(tensor, start, count)
        update(weights.data.cast("B") if weights.size else memoryview(b""))
        return weights

    for start in range(0, numel, BLOCK):
        yield init_block(hashing, info, dtype, start, min(BLOCK, numel - start))
    if info is not None:  # rows that the tuned tensor has no more
        for start in range(numel, info.numel, BLOCK):
            hashing(info, start, min(BLOCK, info.numel - start))


class InitDigests:
    """SHA-256 of the stored bytes of init's tensors, each computed when first asked for."""

    def __init__(self, init: StoredWeights) -> None:
        self._init = init
        self.tensors = init.by_canonical_name()
        self._known: dict[str, str] = {}

    def sha256(self, name: str) -> str:
        """Return the digest of a tensor."""
        if name not in self._known:
            digest = hashlib.sha256()
            for block in self._init.blocks(self.tensors[name]):
                digest.update(block.data)
            self._known[name] = digest.hexdigest()
        return self._known[name]

    def check(self, manifest: Manifest, path: object) -> None:
        """Check that this is the init that a delta was packed against.

        Raises:
            ValueError: naming the tensors that are not.
        """
        differing = check_shapes(self.tensors, manifest)
        differing += [
            f"{name} (expected digest {tensor.sha256[:12]}, found {self.sha256(name)[:12]})"
            for name, tensor in manifest.init.items()
            if not differing and self.sha256(name) != tensor.sha256
        ]
        refuse_init(path, self._init.where, differing)


def check_shapes(tensors: Mapping[str, TensorInfo], manifest: Manifest) -> list[str]:
    """Return what of a manifest's init is missing, or of another shape or type."""
    faults = []
    for name, expected in manifest.init.items():
        info = tensors.get(name)
        if info is None:
            faults.append(f"{name} (missing)")
        elif (info.dtype, info.shape) != (expected.dtype, expected.shape):
            faults.append(
                f"{name} (expected {expected.dtype} {list(expected.shape)}, found {info.dtype} "
                f"{list(info.shape)})"
            )
    return faults


def refuse_init(path: object, where: str, differing: list[str]) -> None:
    """Raise if anything differs, naming the first few tensors."""
    if differing:
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise ValueError(
            f"{path}: a delta of another init than {where}: tensors differ: "
            f"{', '.join(differing[:_NAMED])}{more}"
        )
