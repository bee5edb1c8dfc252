"""Checkpoints of the hub, read shard by shard: downloaded, checked, used and deleted.

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
import os
import sys
import threading
import weakref
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlsubnet.checkpoints.formats import TensorInfo, parse_header, stored_sha256
from rlsubnet.checkpoints.hub import RemoteFile, Report, Repository, require_space
from rlsubnet.checkpoints.sources import PREFIX, FileSource, is_side, weight_files
from rlsubnet.files import sha256

# The first request for a header; few are longer.
_HEAD_BYTES = 1 << 16
# Shards that stay when tensors are read in no planned order.
_KEPT = 2


def parse_source(source: str) -> tuple[str, str]:
    """Return name and revision.

    >>> parse_source("hf:allenai/Llama-3.1-Tulu-3-8B-DPO@main")
    ('allenai/Llama-3.1-Tulu-3-8B-DPO', 'main')
    """
    name, at, revision = source.removeprefix(PREFIX).partition("@")
    if name.count("/") > 1 or not all(name.split("/")) or (at and not revision):
        raise ValueError(f"{source}: expected hf:organization/name, with or without @revision")
    return name, revision or "main"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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


class RemoteShards(FileSource):
    """The files of one commit of the hub, of which few are on the disk.

    Attributes:
        label: ``hf:organization/name@commit``.
        stored: stored name -> where the tensor lies once its shard is here.
        shards: the files of weights by the path that they get.
    """

    stored: dict[str, TensorInfo]

    def __init__(self, source: str, report: Report = _to_stderr) -> None:
        name, revision = parse_source(source)
        self.report = report
        self._repository = Repository(name, revision, report)
        self._listed, commit = self._repository.files, self._repository.commit
        self.label = f"{PREFIX}{name}@{commit}"
        cache = Path(os.environ.get("RLSUBNET_CACHE") or Path.home() / ".cache" / "rlsubnet")
        self.folder, lock = _claim(cache / f"{name.replace('/', '--')}-{commit}")
        self.close = weakref.finalize(self, _release, self.folder, lock)
        self.shards = {self.folder / name: self._listed[name] for name in self._names(source)}
        self.headers = {path: self._read_header(file) for path, file in self.shards.items()}
        self.stored = self._stored_tensors()
        if "config.json" in self._listed:
            self._side_file("config.json")
        self._lock = threading.RLock()
        self._here: dict[Path, None] = {}
        self._planned: set[Path] = set()
        self._sha256: dict[Path, str] = {}
        self._digests: dict[Path, dict[str, str]] = {}

    def _names(self, source: str) -> list[str]:
        chosen, _ = weight_files(
            self._listed, lambda name: self._side_file(name).read_bytes(), source
        )
        if outside := [name for name in chosen if name.endswith((".bin", ".bin.index.json"))]:
            raise ValueError(
                f"{source}: holds {outside[0]} and no safetensors; bring it here with "
                "`rlsubnet download` first"
            )
        return [name for name in chosen if name.endswith(".safetensors")]

    def _side_file(self, name: str) -> Path:
        self._repository.fetch(self._listed[name], self.folder)
        return self.folder / name

    def _read_header(self, file: RemoteFile) -> bytes:
        head = self._repository.read_head(file, max(1, min(_HEAD_BYTES, file.size)))
        length = 8 + int.from_bytes(head[:8], "little")
        if length > len(head):
            length = min(length, file.size)
            head = self._repository.read_head(file, length)
        return head[:length]

    def _stored_tensors(self) -> dict[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        for path, file in self.shards.items():
            named = Path(f"{self.label}/{file.name}")
            found, _ = parse_header(self.headers[path], file.size, named)
            if twice := sorted(set(found) & set(tensors)):
                raise ValueError(f"{self.label}: in more than one shard: {', '.join(twice)}")
            tensors |= {name: replace(info, file=path) for name, info in found.items()}
        return tensors

    def sizes(self) -> dict[Path, int]:
        return {path: file.size for path, file in self.shards.items()}

    def plan(self, most: Collection[Path], count: int) -> None:
        files = [self.shards[path] for path in most]
        total = sum(file.size for file in self.shards.values())
        self.report(
            f"{self.label}: {count} of {len(self.shards)} shards, {total / 1e9:.2f} GB; at most "
            f"{len(files)} ({sum(file.size for file in files) / 1e9:.2f} GB) at a time in "
            f"{self.folder}"
        )
        require_space(self.folder, files)

    def fetch(self, files: Collection[Path]) -> None:
        self._planned |= set(files)
        for path in sorted(files):
            self._fetch(path)
            self._tensor_digests(path)  # which may be asked for at the end

    def release(self, files: Collection[Path]) -> None:
        for path in files:
            self._planned.discard(path)
            self._here.pop(path, None)
            path.unlink(missing_ok=True)

    def ensure(self, file: Path) -> None:
        """Fetch the shard of a tensor that is read in no planned order; few such ones stay."""
        if file in self._here:
            return
        with self._lock:
            others = [path for path in self._here if path not in self._planned]
            self.release(others[: max(0, len(others) - _KEPT + 1)])
            self._fetch(file)

    def _fetch(self, path: Path) -> None:
        if path in self._here:
            return
        file = self.shards[path]
        fetched = self._repository.fetch(file, self.folder)
        with path.open("rb") as stream:
            if stream.read(len(self.headers[path])) != self.headers[path]:
                raise ValueError(f"{self.label}/{file.name}: its header is not what was sent first")
        self._sha256[path] = file.digest if file.algorithm == "sha256" else sha256(path)
        how = "fetched" if fetched else "was here"
        self.report(f"{self.label}/{file.name}: {file.size / 1e6:.1f} MB {how}, digest matches")
        self._here[path] = None

    def tensor_sha256(self, info: TensorInfo) -> str:
        return self._tensor_digests(info.file)[info.stored_name]

    def _tensor_digests(self, path: Path) -> dict[str, str]:
        if path not in self._digests:
            self.ensure(path)
            inside = [info for info in self.stored.values() if info.file == path]
            self._digests[path] = {info.stored_name: stored_sha256(info) for info in inside}
        return self._digests[path]

    def fingerprint(self, file: Path) -> list[Any]:
        return [self.shards[file].size, self.shards[file].digest]

    def header(self, file: Path, size: int) -> bytes:
        return self.headers[file][:size]

    def size_and_sha256(self, file: Path) -> tuple[int, str]:
        return self.shards[file].size, self._sha256[file]

    def side_files(self) -> tuple[list[Path], list[str]]:
        listed = sorted(self._listed.items())
        files = [file for name, file in listed if self.folder / name not in self.shards]
        side = [file.name for file in files if is_side(file.name, file.size)]
        others = [file.name for file in files if file.name not in side]
        return [self._side_file(name) for name in side], others
