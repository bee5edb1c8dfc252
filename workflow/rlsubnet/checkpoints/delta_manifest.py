"""What a delta file says about its tensors and files, as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rlsubnet.checkpoints.delta_codec import BLOCK
from rlsubnet.checkpoints.safetensors_file import ITEM_BYTES

FORMAT = "rlsubnet-delta-2"
KINDS = ("weights", "init", "stored")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InitTensor:
    """A tensor of init that a delta builds on; ``sha256`` is that of its stored bytes."""

    dtype: str
    shape: Shape
    sha256: str


@dataclass(frozen=True)
class DeltaTensor:
    """A tensor of the tuned checkpoint.

    Attributes:
        dtype, shape, sha256: of the tuned tensor, as stored.
        init: name of the tensor of init that it is stored against, empty for none (zeros).
        changed: weights whose bits are not those of ``init``; further rows are changes of zeros.
        member: the zip member that holds its blocks, empty where nothing changed.
        same_as: another tensor of the tuned checkpoint with the same bytes (a tied head).
    """

    dtype: str
    shape: Shape
    sha256: str
    init: str
    changed: int
    member: str
    same_as: str = ""

    @property
    def numel(self) -> int:
        """Return the number of weights."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the whole tensor."""
        return self.numel * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class DeltaFile:
    """A file of the tuned checkpoint.

    Attributes:
        size, sha256: of the file.
        kind: ``weights`` (``member`` holds its header, ``tensors`` what follows, in order),
            ``init`` (init has the same file) or ``stored`` (``member`` holds it).
    """

    size: int
    sha256: str
    kind: str
    member: str = ""
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Everything about a delta but its blocks; names map to what they stand for.

    Attributes:
        init: the tensors of init that are built on.
        removed: tensors of init that the tuned checkpoint lacks.
        tensors: the tuned tensors.
        files: the tuned files; those of weights are missing when weights in memory or ``.bin``
            files were packed: then they are unpacked into one safetensors file.
        left_out: files of the tuned folder that the delta does not hold.
    """

    init: Mapping[str, InitTensor]
    removed: tuple[str, ...]
    tensors: Mapping[str, DeltaTensor]
    files: Mapping[str, DeltaFile]
    left_out: tuple[str, ...] = ()


def _records(kind: type, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return dataclasses from their JSON objects, lists made tuples."""
    return {
        str(name): kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})
        for name, entry in entries.items()
    }


def parse_manifest(text: bytes) -> tuple[str, Manifest]:
    """Return the format and the manifest of what ``encode_manifest`` wrote.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is damaged.
    """
    data = json.loads(text)
    if data["block"] != BLOCK:
        raise ValueError(f"expected blocks of {BLOCK} weights, found {data['block']!r}")
    manifest = Manifest(
        init=_records(InitTensor, data["init"]),
        removed=tuple(map(str, data["removed"])),
        tensors=_records(DeltaTensor, data["tensors"]),
        files=_records(DeltaFile, data["files"]),
        left_out=tuple(map(str, data["left_out"])),
    )
    return str(data["format"]), manifest


def encode_manifest(manifest: Manifest) -> str:
    """Return the JSON that ``parse_manifest`` reads."""
    return json.dumps({"format": FORMAT, "block": BLOCK, **asdict(manifest)}, indent=1)
