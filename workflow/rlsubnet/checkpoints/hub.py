"""The Hugging Face hub: what a repository holds at one commit, and its files, checked.

``download`` makes a checkpoint folder out of them, or out of links to a folder on the disk. A
folder under its final name is complete and every byte of it was checked. Work in progress lives in
``<out>.partial`` and is taken up again by the next call, also after the process was killed:
huggingface_hub's own ``hf_hub_download`` drops what it has when its process ends.
"""

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from rlsubnet import __version__
from rlsubnet.checkpoints.sources import COMPANIONS, PREFIX, RECORD, read_tensors, weight_files
from rlsubnet.files import sha256, write_json

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Seconds to wait after each failure in a row; then the download gives up. New bytes end the row.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# How often a file is fetched in all whose bytes are not those that the hub lists.
FETCHES = 3
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)

Report = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it; ``algorithm`` is ``sha256`` (LFS) or ``git-sha1`` (others)."""

    name: str
    size: int
    algorithm: str
    digest: str

    @property
    def incomplete(self) -> str:
        """Return the name under which bytes gather: the digest says which file they belong to."""
        return f"{self.name}.{self.digest[:16]}.incomplete"


class Repository:
    """One repository of the hub at one ``commit``, and its ``files`` by name.

    ``kind`` is ``model`` or ``dataset``. The revision may be a branch or tag; it is resolved once.
    ``HF_ENDPOINT`` says where the hub is, ``HF_TOKEN`` is read by huggingface_hub.
    """

    def __init__(self, name: str, revision: str, report: Report, kind: str = "model"):
        self.name, self.kind, self.revision, self.report = name, kind, revision, report
        self.api = HfApi(
            endpoint=os.environ.get("HF_ENDPOINT"),
            library_name="rlsubnet",
            library_version=__version__,
        )
        self.commit, self.files = self._listing()

    def _listing(self) -> tuple[str, dict[str, RemoteFile]]:
        describe = self.api.dataset_info if self.kind == "dataset" else self.api.model_info
        info = self._retrying(
            lambda: describe(self.name, revision=self.revision, files_metadata=True, timeout=30.0),
            f"hf:{self.name}",
        )
        if info.sha is None:
            raise ValueError(f"hf:{self.name}: the hub names no commit for {self.revision!r}")
        files = {}
        for entry in info.siblings or []:
            digest = entry.blob_id if entry.lfs is None else entry.lfs.sha256
            if entry.size is None or digest is None:
                where = f"hf:{self.name}: {entry.rfilename}"
                raise ValueError(f"{where}: listed without size or digest")
            algorithm = "git-sha1" if entry.lfs is None else "sha256"
            files[entry.rfilename] = RemoteFile(entry.rfilename, entry.size, algorithm, digest)
        return info.sha, files

    def fetch(self, file: RemoteFile, folder: Path) -> int:
        """Make ``folder/file.name`` and check it; return the number of bytes that were fetched.

        What the user's Hugging Face cache holds is taken from there. A complete file is not fetched
        again, but its digest is computed again: the previous call may have ended with the machine.
        A partial one is continued by a range request. One with a wrong digest is fetched anew, a
        few times: it may have been damaged on its way.
        """
        path, gathered, fetched = folder / file.name, folder / file.incomplete, 0
        if not path.exists() and not gathered.exists():
            self._take_cached(file, gathered)
        for left in reversed(range(FETCHES)):
            here = path if path.exists() else gathered
            if here is gathered:
                fetched += self._gather(file, gathered)
            try:
                verify(here, file)
            except WrongDigest as error:
                if not left:
                    raise
                self.report(f"hf:{self.name}: {error}; fetched anew")
            else:
                here.rename(path)
                break
        return fetched

    def fetch_all(self, names: Sequence[str], folder: Path) -> dict[str, Any]:
        """Fill ``folder`` with these files, a line of report for each; return what to record.

        What an earlier, different attempt left there is removed.

        Raises:
            ValueError: the disk has no room for them, which is found before the first byte.
        """
        files = [self.files[name] for name in names]
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {folder / name for file in files for name in (file.name, file.incomplete)}
        for path in [path for path in folder.rglob("*") if path.is_file() and path not in wanted]:
            path.unlink()
        require_space(folder, files)
        for number, file in enumerate(files, start=1):
            self.fetch_reported(file, folder, f"[{number}/{len(files)}]")
        kept = {file.name: {k: v for k, v in vars(file).items() if k != "name"} for file in files}
        return {"commit": self.commit, "files": kept}

    def fetch_reported(self, file: RemoteFile, folder: Path, place: str) -> Path:
        start = time.monotonic()
        fetched = self.fetch(file, folder)
        rate = fetched / 1e6 / max(time.monotonic() - start, 1e-3)
        how = f"fetched at {rate:.1f} MB/s" if fetched else "was here"
        size = f"{file.size / 1e6:.1f} MB"
        self.report(f"{place} {file.name}: {size}, {how}, {file.algorithm} matches")
        return folder / file.name

    def _take_cached(self, file: RemoteFile, gathered: Path) -> None:
        """Link or copy a file out of the Hugging Face cache, whose blobs are named by digest."""
        folder = f"{self.kind}s--{self.name.replace('/', '--')}"
        blob = Path(constants.HF_HUB_CACHE) / folder / "blobs" / file.digest
        if not blob.is_file() or blob.stat().st_size != file.size:
            return
        gathered.parent.mkdir(parents=True, exist_ok=True)
        try:
            if file.algorithm != "sha256":
                raise OSError("a small file, which a user may edit")
            os.link(blob.resolve(), gathered)
        except OSError:  # or another file system
            shutil.copyfile(blob, gathered)
        self.report(f"hf:{self.name}: {file.name}: taken from the Hugging Face cache")

    def read_head(self, file: RemoteFile, count: int) -> bytes:
        """Return the first ``count`` bytes of a file, which is not kept.

        A part has no digest: what is read here must be compared with the whole file later.
        """

        def read() -> bytes:
            gathered = _Limited(count)
            self._get(file, gathered, count, Range=f"bytes=0-{count - 1}")
            return gathered.getvalue()

        return self._retrying(read, f"hf:{self.name}: {file.name}")

    def _get(
        self, file: RemoteFile, stream: BinaryIO, size: int, start: int = 0, **headers: str
    ) -> None:
        """Write a file from byte ``start`` on; a whole one has ``size`` bytes.

        hf_hub_download drops a partial file when its process ends; http_get goes on.
        """
        place = {"repo_type": self.kind, "revision": self.commit, "endpoint": self.api.endpoint}
        # Compressed replies would make sizes and ranges count something else than its bytes.
        sent = build_hf_headers(
            library_name="rlsubnet",
            library_version=__version__,
            headers={"Accept-Encoding": "identity", **headers},
        )
        http_get(
            hf_hub_url(self.name, file.name, **place),
            stream,
            resume_size=start,
            headers=sent,
            expected_size=size,
            displayed_filename=file.name,
        )

    def _gather(self, file: RemoteFile, gathered: Path) -> int:
        """Append to ``gathered`` until it has the listed size; return the number of new bytes."""

        def append() -> None:
            with gathered.open("r+b") as stream:
                start = stream.seek(0, 2)
                if start > file.size:  # the hub, or what answered for it, sent more than it lists
                    start = stream.seek(0)
                    stream.truncate()
                self._get(file, stream, file.size, start)

        gathered.parent.mkdir(parents=True, exist_ok=True)
        gathered.touch()
        start = gathered.stat().st_size
        self._retrying(append, f"hf:{self.name}: {file.name}", lambda: gathered.stat().st_size)
        return gathered.stat().st_size - start

    def _retrying(
        self, request: Callable[[], T], what: str, progress: Callable[[], int] = lambda: 0
    ) -> T:
        """Return ``request()``, tried again after transient failures.

        Failures are counted from the last one that saw ``progress()`` grow, so a large file that
        comes in many pieces is not given up.
        """
        failures, before = 0, progress()
        while True:
            try:
                return request()
            except OfflineModeIsEnabled as error:
                raise ValueError(f"{what}: HF_HUB_OFFLINE is set, nothing is fetched") from error
            except (HTTPError, OSError) as error:
                if isinstance(error, HfHubHTTPError) and not _is_transient(error):
                    raise self._refusal(error, what) from error
                if not _is_transient(error):
                    raise
                now = progress()
                failures = 1 if now > before else failures + 1
                before = now
                if failures > len(WAITS):
                    raise OSError(
                        f"{what}: gave up after {failures} failures in a row, the last: "
                        f"{_one_line(error)}; run the command again to continue"
                    ) from error
                wait = WAITS[failures - 1]
                self.report(f"{what}: {_one_line(error)}; trying again in {wait:g} s")
                time.sleep(wait)

    def _refusal(self, error: HfHubHTTPError, what: str) -> ValueError:
        folder = "datasets/" if self.kind == "dataset" else ""
        page = f"{self.api.endpoint}/{folder}{self.name}"
        status = error.response.status_code
        if isinstance(error, GatedRepoError):
            return ValueError(f"{what}: gated; accept its terms on {page} and set HF_TOKEN")
        if isinstance(error, RepositoryNotFoundError):
            return ValueError(f"{what}: no such repository at {page}; if private, set HF_TOKEN")
        if isinstance(error, RevisionNotFoundError):
            return ValueError(f"{what}: no revision {self.revision!r} at {page}")
        if status == 404:
            return ValueError(f"{what}: not found at {page}")
        if status in (401, 403):
            return ValueError(f"{what}: access refused ({status}) at {page}; check HF_TOKEN")
        return ValueError(f"{what}: {_one_line(error)}")


class _Limited(io.BytesIO):
    """Memory for a part of a file; refuses the whole of it from a server that ignores ranges."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: "ReadableBuffer", /) -> int:
        if self.tell() + len(memoryview(data)) > self._limit:
            raise ValueError(f"expected {self._limit} bytes, found more: no answer to a range")
        return super().write(data)


def _is_transient(error: Exception) -> bool:
    """Return whether asking again may help: cut connections, time-outs, 429 and 5xx.

    Errors of the operating system itself (disk full, no permission) carry an errno.
    """
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT_STATUS
    return isinstance(error, HTTPError) or getattr(error, "errno", None) is None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def git_blob_sha1(path: Path) -> str:
    """Return git's name for the content of ``path``, by which the hub lists files outside LFS.

    It is the SHA-1 of ``blob <size>``, a zero byte and the content.
    """
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class WrongDigest(OSError):
    """The bytes of a file are not those that the hub lists; like a cut, it may pass."""


def verify(path: Path, file: RemoteFile) -> None:
    """Check size and digest of ``path``; a file that fails is removed, so nothing builds on it."""
    size = path.stat().st_size
    found = sha256(path) if file.algorithm == "sha256" else git_blob_sha1(path)
    if (size, found) != (file.size, file.digest):
        path.unlink()
        raise WrongDigest(
            f"{file.name}: downloaded {size} bytes with {file.algorithm} {found}, expected "
            f"{file.size} bytes with {file.digest}; removed"
        )


def download(source: str, revision: str, out: Path, report: Report = print) -> None:
    """Make the checkpoint folder ``out`` from ``source``; do nothing where it is there already.

    Args:
        source: ``hf:organization/name``, or a checkpoint folder, whose files are linked.
        revision: branch, tag or commit hash; it is resolved once, and the hash is recorded with all
            sizes and digests in ``download.json``. Not used for a folder.
        out: the folder to make.
        report: receives one line per file.

    Raises:
        ValueError: the source does not exist, is gated, has no weights or misses a shard; a file
            has the wrong digest; or ``out`` holds something else.
        OSError: the network fails for longer than ``WAITS`` allows, or the disk is full.
    """

    def fill(partial: Path) -> dict[str, Any]:
        if not source.startswith(PREFIX):
            return _link_folder(Path(source), partial, report)
        repository = Repository(source.removeprefix(PREFIX), revision, report)
        report(f"{source}: revision {revision} is commit {repository.commit}")

        def read(index: str) -> bytes:
            file = repository.files[index]
            return repository.fetch_reported(file, partial, "[index]").read_bytes()

        small = _small_files(repository.files, source)
        weights, _ = weight_files(repository.files, read, source)
        return repository.fetch_all(small + weights, partial)

    request = {"source": source, "revision": revision if source.startswith(PREFIX) else None}
    make_folder(out, request, fill, report)


def make_folder(
    out: Path, request: dict[str, Any], fill: Callable[[Path], dict[str, Any]], report: Report
) -> None:
    """Make ``out`` by ``fill(partial folder)``, which returns what download.json is to record.

    A folder under its final name is complete; one that holds what ``request`` asks for stays.
    """
    if _is_complete(out, request):
        report(f"{out}: complete, nothing to do")
        return
    partial = out.with_name(f"{out.name}.partial")
    record = fill(partial)
    write_json(partial / RECORD, request | record)
    if out.is_dir():
        out.rmdir()
    partial.rename(out)


def _is_complete(out: Path, request: Mapping[str, Any]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        found = {key: record[key] for key in request}
        sizes = {name: int(file["size"]) for name, file in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{out}: exists, but has no readable {RECORD} of a complete download; remove it first"
        ) from error
    if found != request:
        raise ValueError(f"{out}: holds {found}, expected {dict(request)}; remove it first")
    for name, size in sizes.items():
        actual = (out / name).stat().st_size if (out / name).exists() else None
        if actual != size:
            raise ValueError(
                f"{out / name}: {'missing' if actual is None else f'{actual} bytes'}, "
                f"expected {size} bytes; remove {out} and download again"
            )
    return True


def _link_folder(folder: Path, partial: Path, report: Report) -> dict[str, Any]:
    """Fill ``partial`` with links to the files of a checkpoint folder; return the record.

    Not a link to the folder: what a workflow writes beside the files (time stamps) then does not
    end in the user's own folder, which may be read-only.
    """
    if not folder.is_dir():
        hint = f"; for the hub write hf:{folder}" if len(folder.parts) == 2 else ""
        raise ValueError(f"{folder}: no such folder{hint}")
    read_tensors(folder)  # raises where a shard is missing or cut short
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights, _ = weight_files(names, lambda name: (folder / name).read_bytes(), str(folder))
    chosen = [*_small_files(names, str(folder)), *weights]
    partial.mkdir(parents=True, exist_ok=True)
    for path in partial.iterdir():
        path.unlink()
    return link_files(folder, chosen, partial, str(folder), report)


def link_files(
    root: Path, names: Sequence[str], partial: Path, source: str, report: Report
) -> dict[str, Any]:
    """Fill ``partial`` with links to files below ``root``; return the record."""
    for name in names:
        link = partial / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((root / name).resolve())
    report(f"{source}: {len(names)} files linked")
    return {"files": {name: {"size": (root / name).stat().st_size} for name in names}}


def _small_files(names: Collection[str], where: str) -> list[str]:
    """Return config.json and the other small files that exist, in a fixed order."""
    chosen = [name for name in COMPANIONS if name in names]
    if "config.json" not in chosen:
        raise ValueError(f"{where}: no config.json; expected a transformers checkpoint")
    # Among them no Python file of the repository, ever.
    return chosen


def require_space(folder: Path, files: Iterable[RemoteFile]) -> None:
    """Raise before the first byte when the disk cannot take what is still to come."""
    here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = sum(file.size for file in files) - here
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder}: the download needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free"
        )
