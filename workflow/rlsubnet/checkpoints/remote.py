"""Checkpoints of the hub, read shard by shard: downloaded, checked, used, dropped.

``hf:organization/name@revision`` (a branch, tag or commit; ``main`` by default) stands for such a
checkpoint wherever a folder does. The headers of all shards come first, by range requests, so that
everything about its tensors is known, and what does not fit is refused, before a shard is fetched.

Why shards and not single tensors by range requests, which would need no disk: the hub lists a
digest of each file, and bytes that were compared with it are the only ones that are ever measured.
The price is the disk for the shards that are in use, one or two of each side as a rule.

Shards lie in ``$RLSUBNET_CACHE`` (``~/.cache/rlsubnet``). What a killed process leaves there is
taken up again by the next one; at the end everything but incomplete shards is removed.
"""

import fcntl
import json
import os
import sys
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlsubnet.checkpoints.checkpoint import (
    LARGEST_SIDE_FILE,
    PREFIX,
    WEIGHT_SUFFIXES,
    Checkpoint,
    StoredWeights,
)
from rlsubnet.checkpoints.formats import Reader, TensorInfo, read_header
from rlsubnet.checkpoints.hub import (
    WAITS,
    RemoteFile,
    Report,
    Repository,
    require_space,
    weight_files,
)
from rlsubnet.files import sha256

# The first request for a header; few are longer.
_HEAD_BYTES = 1 << 16
# Shards that stay when tensors are read in no planned order.
_KEPT = 2


def parse_source(source: str) -> tuple[str, str]:
    """Return name and revision.

    Raises:
        ValueError: not of the form ``hf:organization/name`` or ``hf:organization/name@revision``.

    >>> parse_source("hf:allenai/Llama-3.1-Tulu-3-8B-DPO@main")
    ('allenai/Llama-3.1-Tulu-3-8B-DPO', 'main')
    """
    name, at, revision = source.removeprefix(PREFIX).partition("@")
    if name.count("/") > 1 or not all(name.split("/")) or (at and not revision):
        raise ValueError(f"{source}: expected hf:organization/name, with or without @revision")
    return name, revision or "main"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def cache_folder() -> Path:
    """Return where shards lie while they are in use."""
    return Path(os.environ.get("RLSUBNET_CACHE") or Path.home() / ".cache" / "rlsubnet")


def _claim(folder: Path) -> tuple[Path, int]:
    """Return a folder that this process has alone, and the descriptor that holds its lock."""
    for number in range(1000):
        place = folder.with_name(f"{folder.name}-{number}")
        place.mkdir(parents=True, exist_ok=True)
        lock = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed it between these two lines.
            if place.exists() and os.path.samestat(place.stat(), os.fstat(lock)):
                return place, lock
        except BlockingIOError:
            pass
        os.close(lock)
    raise ValueError(f"{folder}: a thousand processes read this checkpoint already")


def _release(folder: Path, lock: int) -> None:
    """Remove all but shards that can be continued, and let others have the folder."""
    for path in folder.iterdir():
        if path.suffix != ".incomplete":
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
    os.close(lock)


class RemoteShards:
    """The files of one commit of the hub, of which few are on the disk.

    Attributes:
        label: ``hf:organization/name@commit``.
        folder: where files lie while they are needed.
        stored: stored name -> where the tensor lies once its shard is here.
        shards: the files of weights by the path that they get.
    """

    def __init__(
        self,
        source: str,
        endpoint: str | None = None,
        report: Report = _to_stderr,
        waits: Sequence[float] = WAITS,
    ) -> None:
        name, revision = parse_source(source)
        self.report = report
        endpoint = endpoint or os.environ.get("HF_ENDPOINT")
        self._repository = Repository(name, revision, endpoint, report, waits)
        self.listing = self._repository.listing()
        self.label = f"{PREFIX}{name}@{self.listing.commit}"
        plain = name.replace("/", "--")
        self.folder, lock = _claim(cache_folder() / f"{plain}-{self.listing.commit}")
        self.close = weakref.finalize(self, _release, self.folder, lock)
        chosen = weight_files(self.listing.files, self._read_index, source)
        if outside := [name for name in chosen if name.endswith((".bin", ".bin.index.json"))]:
            raise ValueError(
                f"{source}: holds {outside[0]} and no safetensors; bring it here with "
                "`rlsubnet download` first"
            )
        names = [name for name in chosen if name.endswith(".safetensors")]
        self.shards = {self.folder / name: self.listing.files[name] for name in names}
        self.headers = {path: self._read_header(file) for path, file in self.shards.items()}
        self.stored = self._stored_tensors()
        if "config.json" in self.listing.files:
            self.side_file("config.json")
        self._lock = threading.RLock()
        self._held: dict[Path, None] = {}
        self._planned: set[Path] = set()
        self._sha256: dict[Path, str] = {}

    def side_file(self, name: str) -> Path:
        """Return the path of a small file, which is fetched if it is not here."""
        self._repository.fetch(self.listing.files[name], self.listing.commit, self.folder)
        return self.folder / name

    def _read_index(self, name: str) -> dict[str, Any]:
        try:
            index = json.loads(self.side_file(name).read_bytes())
        except ValueError as error:
            raise ValueError(f"hf:{self._repository.name}: {name}: not JSON ({error})") from error
        if not isinstance(index, dict):
            raise ValueError(f"hf:{self._repository.name}: {name}: expected a JSON object")
        return index

    def _read_header(self, file: RemoteFile) -> bytes:
        """Return the header of a shard, with the eight bytes before it."""
        head = self._repository.read_head(
            file, self.listing.commit, max(1, min(_HEAD_BYTES, file.size))
        )
        length = 8 + int.from_bytes(head[:8], "little")
        if length > len(head):
            length = min(length, file.size)
            head = self._repository.read_head(file, self.listing.commit, length)
        return head[:length]

    def _stored_tensors(self) -> dict[str, TensorInfo]:
        """Return all tensors, read from files that hold headers and else nothing."""
        tensors: dict[str, TensorInfo] = {}
        for path, file in self.shards.items():
            stub = path.with_name(f"{path.name}.header")
            with stub.open("wb") as stream:
                stream.write(self.headers[path])
                stream.truncate(max(file.size, len(self.headers[path])))
            try:
                found = read_header(stub)[0]
            except ValueError as error:
                text = str(error).replace(str(stub), f"{self.label}/{file.name}")
                raise ValueError(text) from error
            finally:
                stub.unlink()
            if twice := sorted(set(found) & set(tensors)):
                raise ValueError(f"{self.label}: in more than one shard: {', '.join(twice)}")
            tensors |= {name: replace(info, file=path) for name, info in found.items()}
        return tensors

    def sizes(self) -> dict[Path, int]:
        """Return the size of every shard."""
        return {path: file.size for path, file in self.shards.items()}

    def announce(self, most: Collection[Path], count: int) -> None:
        """Say what the disk is needed for, and refuse where it has no room."""
        files = [self.shards[path] for path in most]
        total = sum(file.size for file in self.shards.values())
        self.report(
            f"{self.label}: {count} of {len(self.shards)} shards, {total / 1e9:.2f} GB; at most "
            f"{len(files)} ({sum(file.size for file in files) / 1e9:.2f} GB) at a time in "
            f"{self.folder}"
        )
        require_space(self.folder, files)

    def bring(self, files: Collection[Path]) -> None:
        """Fetch shards that are not here, check their digests, and keep them until dropped."""
        self._planned |= set(files)
        for path in sorted(files):
            self._fetch(path)

    def drop(self, files: Collection[Path]) -> None:
        """Remove shards."""
        for path in files:
            self._planned.discard(path)
            self._held.pop(path, None)
            path.unlink(missing_ok=True)

    def ensure(self, path: Path) -> None:
        """Fetch the shard of a tensor that is read in no planned order; few such ones stay."""
        if path in self._held:
            return
        with self._lock:
            self._make_room()
            self._fetch(path)

    def _make_room(self) -> None:
        others = [held for held in self._held if held not in self._planned]
        self.drop(others[: max(0, len(others) - _KEPT + 1)])

    def _fetch(self, path: Path) -> None:
        if path in self._held:
            return
        file = self.shards[path]
        fetched = self._repository.fetch(file, self.listing.commit, self.folder)
        with path.open("rb") as stream:
            if stream.read(len(self.headers[path])) != self.headers[path]:
                raise ValueError(f"{self.label}/{file.name}: its header is not what was sent first")
        if file.algorithm != "sha256":
            self._sha256[path] = sha256(path)
        how = "fetched" if fetched else "was here"
        self.report(f"{self.label}/{file.name}: {file.size / 1e6:.1f} MB {how}, digest matches")
        self._held[path] = None

    def sha256(self, path: Path) -> str:
        """Return the digest of a shard that was here, or that the hub lists."""
        file = self.shards[path]
        return file.digest if file.algorithm == "sha256" else self._sha256[path]


class RemoteCheckpoint(Checkpoint):
    """The weights of a checkpoint of the hub; like those of a folder, but for where they come from.

    Args:
        shards: its files.
    """

    def __init__(self, shards: RemoteShards) -> None:
        self.shards = shards
        self._digests: dict[tuple[Path, int], str] = {}
        super().__init__(shards.folder, shards.stored)
        self.path = Path(shards.label)

    def sizes(self) -> Mapping[Path, int]:
        """Return the size of every shard."""
        return self.shards.sizes()

    def announce(self, most: Collection[Path], count: int) -> None:
        """Say what the disk is needed for."""
        self.shards.announce(most, count)

    def bring(self, files: Collection[Path]) -> None:
        """Fetch shards, and take the digests of their tensors while they are here."""
        self.shards.bring(files)
        scales = [scale.stored for scale in self.scales.values()]
        for info in (*self.tensors.values(), *scales):
            if info.file in files:
                self.stored_digest(info)

    def drop(self, files: Collection[Path]) -> None:
        """Remove shards."""
        self.shards.drop(files)

    def stamp(self, file: Path) -> list[Any]:
        """Return what changes when a file does: on the hub, its digest."""
        return [self.shards.shards[file].size, self.shards.shards[file].digest]

    def read_range(self, name: str, start: int, count: int) -> np.ndarray:
        """Return weights as ``Checkpoint.read_range`` does, fetching their shard if need be."""
        self.shards.ensure(self.tensors[name].file)
        if name in self.scales:
            self.shards.ensure(self.scales[name].stored.file)
        return super().read_range(name, start, count)

    def read_with(self, reader: Reader, name: str, start: int, count: int) -> np.ndarray:
        """Return weights as ``Checkpoint.read_with`` does, fetching their shard if need be."""
        self.shards.ensure(self.tensors[name].file)
        return super().read_with(reader, name, start, count)

    def digest(self) -> str:
        """Return the digest as ``Checkpoint.digest`` does, having gone through shards in turn."""
        scales = [scale.stored for scale in self.scales.values()]
        for info in sorted((*self.tensors.values(), *scales), key=lambda info: info.file):
            self.stored_digest(info)
        return super().digest()

    def tensor_digest(self, name: str) -> str:
        """Return the digest of a tensor, taken while its shard was here."""
        return self.stored_digest(self.tensors[name])

    def stored_digest(self, info: TensorInfo) -> str:
        """Return the digest of a stored tensor, taken once."""
        key = info.file, info.offset
        if key not in self._digests or not info.numel:
            self.shards.ensure(info.file)
            self._digests[key] = super().stored_digest(info)
        return self._digests[key]


class RemoteWeights(StoredWeights):
    """All tensors and files of a checkpoint of the hub, as a delta sees them."""

    def __init__(self, shards: RemoteShards) -> None:
        self.shards = shards
        self.where, self.folder, self.tensors = shards.label, shards.folder, shards.stored
        self.weight_files = sorted(shards.shards)
        self.side = shards

    def read(self, info: TensorInfo, start: int, count: int) -> np.ndarray:
        """Return numbers as ``StoredWeights.read`` does, fetching their shard if need be."""
        self.shards.ensure(info.file)
        return super().read(info, start, count)

    def header(self, path: Path, size: int) -> bytes:
        """Return the first bytes of a weight file."""
        return self.shards.headers[path][:size]

    def file_size(self, path: Path) -> int:
        """Return the size of a weight file."""
        return self.shards.shards[path].size

    def file_sha256(self, path: Path) -> str:
        """Return the digest of a weight file that was here."""
        return self.shards.sha256(path)

    def side_files(self) -> tuple[list[Path], list[str]]:
        """Fetch the small files beside the weights; return them, and names of the others."""
        side, others = [], []
        for name, file in sorted(self.shards.listing.files.items()):
            if self.folder / name in self.shards.shards:
                continue
            inside = "/" not in name and not name.startswith(".")
            small = Path(name).suffix not in WEIGHT_SUFFIXES and file.size <= LARGEST_SIDE_FILE
            if inside and small:
                side.append(self.shards.side_file(name))
            else:
                others.append(name)
        return side, others
