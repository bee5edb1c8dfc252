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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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
from rlsubnet.checkpoints.sources import COMPANIONS, RECORD, read_tensors, weight_files
from rlsubnet.files import sha256, write_json

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Seconds to wait after each failure in a row; then the download gives up. New bytes end the row.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# How often a file is fetched in all whose bytes are not those that the hub lists.
FETCHES = 3
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
LISTING_TIMEOUT = 30.0

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


@dataclass(frozen=True)
class Listing:
    """All files of a repository at one commit, by name."""

    commit: str
    files: Mapping[str, RemoteFile]


class Repository:
    """One repository of the hub at one revision; reads ``HF_TOKEN`` through huggingface_hub.

    ``kind`` is ``model`` or ``dataset``; the hub keeps them apart.
    """

    def __init__(
        self,
        name: str,
        revision: str,
        endpoint: str | None = None,
        report: Report = print,
        waits: Sequence[float] = WAITS,
        kind: str = "model",
    ):
        self.name = name
        self.kind = kind
        self.revision = revision
        self.report = report
        self.waits = waits
        self.api = HfApi(endpoint=endpoint, library_name="rlsubnet", library_version=__version__)

    def listing(self) -> Listing:
        """Return commit, sizes and digests.

        Raises:
            ValueError: no such repository or revision, no access, or a file without a digest.
            OSError: the hub cannot be reached.
        """
        describe = self.api.dataset_info if self.kind == "dataset" else self.api.model_info
        info = self._retrying(
            lambda: describe(
                self.name, revision=self.revision, files_metadata=True, timeout=LISTING_TIMEOUT
            ),
            f"hf:{self.name}",
        )
        if info.sha is None:
            raise ValueError(f"hf:{self.name}: the hub names no commit for {self.revision!r}")
        files = {}
        for entry in info.siblings or []:
            digest = entry.blob_id if entry.lfs is None else entry.lfs.sha256
            if entry.size is None or digest is None:
                raise ValueError(
                    f"hf:{self.name}: {entry.rfilename}: listed without size or digest"
                )
            algorithm = "git-sha1" if entry.lfs is None else "sha256"
            files[entry.rfilename] = RemoteFile(entry.rfilename, entry.size, algorithm, digest)
        return Listing(info.sha, files)

    def fetch(self, file: RemoteFile, commit: str, folder: Path) -> int:
        """Make ``folder/file.name`` and check it; return the number of bytes that were fetched.

        What the user's Hugging Face cache holds is taken from there. A complete file is not fetched
        again, but its digest is computed again: the previous call
        may have ended with the machine. A partial one is continued by a range request. One with a
        wrong digest is fetched anew, a few times: it may have been damaged on its way.

        Raises:
            ValueError: the hub refuses the file.
            OSError: the network failed too often in a row, the digest was wrong every time
                (``WrongDigest``), or the disk is full.
        """
        path, gathered, fetched = folder / file.name, folder / file.incomplete, 0
        if not path.exists() and not gathered.exists():
            self._take_cached(file, gathered)
        for left in reversed(range(FETCHES)):
            here = path if path.exists() else gathered
            if here is gathered:
                fetched += self._gather(file, commit, gathered)
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

    def read_head(self, file: RemoteFile, commit: str, count: int) -> bytes:
        """Return the first ``count`` bytes of a file, which is not kept.

        A part has no digest: what is read here must be compared with the whole file later.

        Raises:
            ValueError: the hub refuses the file, or does not answer ranges.
            OSError: the network failed too often in a row.
        """
        gathered = _Limited(count)

        def read() -> None:
            gathered.seek(0)
            gathered.truncate()
            http_get(
                self._address(file, commit),
                gathered,
                headers=_headers({"Range": f"bytes=0-{count - 1}"}),
                expected_size=count,
                displayed_filename=file.name,
            )

        self._retrying(read, f"hf:{self.name}: {file.name}")
        return gathered.getvalue()

    def _address(self, file: RemoteFile, commit: str) -> str:
        return hf_hub_url(
            self.name,
            file.name,
            repo_type=self.kind,
            revision=commit,
            endpoint=self.api.endpoint,
        )

    def _gather(self, file: RemoteFile, commit: str, gathered: Path) -> int:
        """Append to ``gathered`` until it has the listed size; return the number of new bytes."""
        url, headers = self._address(file, commit), _headers()

        def append() -> None:
            with gathered.open("r+b") as stream:
                start = stream.seek(0, 2)
                if start > file.size:  # the hub, or what answered for it, sent more than it lists
                    start = stream.seek(0)
                    stream.truncate()
                # hf_hub_download drops a partial file when its process ends; http_get goes on.
                http_get(
                    url,
                    stream,
                    resume_size=start,
                    headers=headers,
                    expected_size=file.size,
                    displayed_filename=file.name,
                )

        gathered.parent.mkdir(parents=True, exist_ok=True)
        gathered.touch()
        start = gathered.stat().st_size
        self._retrying(
            append, f"hf:{self.name}: {file.name}", progress=lambda: gathered.stat().st_size
        )
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
                if failures > len(self.waits):
                    raise OSError(
                        f"{what}: gave up after {failures} failures in a row, the last: "
                        f"{_one_line(error)}; run the command again to continue"
                    ) from error
                wait = self.waits[failures - 1]
                self.report(f"{what}: {_one_line(error)}; trying again in {wait:g} s")
                time.sleep(wait)

    def _refusal(self, error: HfHubHTTPError, what: str) -> ValueError:
        """Return the error for an answer that will be the same when asked again."""
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


def _headers(more: Mapping[str, str] | None = None) -> dict[str, str]:
    # Compressed replies would make sizes and ranges count something else than the file's bytes.
    headers: dict[str, str] = build_hf_headers(
        library_name="rlsubnet",
        library_version=__version__,
        headers={"Accept-Encoding": "identity", **(more or {})},
    )
    return headers


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

    It is the SHA-1 of ``blob <size>``, a zero byte and the content. These files are small
    (configs, tokenizers), so the file is read in one piece.
    """
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class WrongDigest(OSError):
    """The bytes of a file are not those that the hub lists; like a cut, it may pass."""


def verify(path: Path, file: RemoteFile) -> None:
    """Check size and digest of ``path``; a file that fails is removed, so nothing builds on it.

    Raises:
        WrongDigest: with what was found and what the hub lists.
    """
    size = path.stat().st_size
    found = sha256(path) if file.algorithm == "sha256" else git_blob_sha1(path)
    if (size, found) != (file.size, file.digest):
        path.unlink()
        raise WrongDigest(
            f"{file.name}: downloaded {size} bytes with {file.algorithm} {found}, expected "
            f"{file.size} bytes with {file.digest}; removed"
        )


def download(
    source: str,
    revision: str,
    out: Path,
    *,
    endpoint: str | None = None,
    report: Report = print,
    waits: Sequence[float] = WAITS,
) -> None:
    """Make the checkpoint folder ``out`` from ``source``; do nothing where it is there already.

    Args:
        source: ``hf:organization/name``, or the path of a checkpoint folder, whose files are
            linked.
        revision: branch, tag or commit hash; it is resolved once, and the hash is recorded with all
            sizes and digests in ``download.json``. Not used for a folder.
        out: the folder to make.
        endpoint: address of the hub; default ``$HF_ENDPOINT``, else huggingface.co.
        report: receives one line per file.
        waits: seconds to wait after consecutive failures.

    Raises:
        ValueError: the source does not exist, is gated, has no weights or misses a shard; a file
            has the wrong digest; or ``out`` holds something else.
        OSError: the network fails for longer than ``waits`` allows, or the disk is full.
    """
    request = {"source": source, "revision": revision if source.startswith("hf:") else None}
    if is_complete(out, request):
        report(f"{out}: complete, nothing to do")
        return
    partial = out.with_name(f"{out.name}.partial")
    if source.startswith("hf:"):
        record = _fetch_repository(source, revision, partial, endpoint, report, waits)
    else:
        record = _link_folder(Path(source), partial, report)
    write_json(partial / RECORD, request | record)
    if out.is_dir():
        out.rmdir()
    partial.rename(out)


def is_complete(out: Path, request: Mapping[str, Any]) -> bool:
    """Return whether ``out`` holds what ``request`` asks for; raise if it holds something else."""
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

    The files are linked, not the folder: what a workflow writes beside them (time stamps) then
    does not end in the user's own folder, which may be read-only.
    """
    if not folder.is_dir():
        hint = f"; for the hub write hf:{folder}" if len(folder.parts) == 2 else ""
        raise ValueError(f"{folder}: no such folder{hint}")
    read_tensors(folder)  # raises where a shard is missing or cut short
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights, _ = weight_files(names, lambda name: (folder / name).read_bytes(), str(folder))
    chosen = [*_side_files(names, str(folder)), *weights]
    partial.mkdir(parents=True, exist_ok=True)
    _remove_others(partial, keep=())
    for name in chosen:
        (partial / name).symlink_to((folder / name).resolve())
    report(f"{folder}: {len(chosen)} files linked")
    return {"files": {name: {"size": (folder / name).stat().st_size} for name in chosen}}


def _fetch_repository(
    source: str,
    revision: str,
    partial: Path,
    endpoint: str | None,
    report: Report,
    waits: Sequence[float],
) -> dict[str, Any]:
    """Fill ``partial`` with the checked files of a hub repository; return the record."""
    repository = Repository(source.removeprefix("hf:"), revision, endpoint, report, waits)
    listing = repository.listing()
    report(f"{source}: revision {revision} is commit {listing.commit}")

    def fetch(name: str, position: str) -> Path:
        partial.mkdir(parents=True, exist_ok=True)
        file = listing.files[name]
        start = time.monotonic()
        fetched = repository.fetch(file, listing.commit, partial)
        rate = fetched / 1e6 / max(time.monotonic() - start, 1e-3)
        how = f"fetched at {rate:.1f} MB/s" if fetched else "was here"
        report(f"{position} {name}: {file.size / 1e6:.1f} MB, {how}, {file.algorithm} matches")
        return partial / name

    side_files = _side_files(listing.files, source)
    weights, _ = weight_files(
        listing.files.keys(), lambda name: fetch(name, "[index]").read_bytes(), source
    )
    chosen = side_files + weights
    files = [listing.files[name] for name in chosen]
    partial.mkdir(parents=True, exist_ok=True)
    _remove_others(partial, keep=[*chosen, *(file.incomplete for file in files)])
    require_space(partial, files)
    for number, name in enumerate(chosen, start=1):
        fetch(name, f"[{number}/{len(chosen)}]")
    return {
        "commit": listing.commit,
        "files": {file.name: without_name(file) for file in files},
    }


def _side_files(names: Collection[str], where: str) -> list[str]:
    """Return config.json and the other small files that exist, in a fixed order."""
    chosen = [name for name in COMPANIONS if name in names]
    if "config.json" not in chosen:
        raise ValueError(f"{where}: no config.json; expected a transformers checkpoint")
    # Among them no Python file of the repository, ever.
    return chosen


def without_name(file: RemoteFile) -> dict[str, Any]:
    """Return what the record keeps of a file under its name."""
    return {key: value for key, value in asdict(file).items() if key != "name"}


def _remove_others(folder: Path, keep: Iterable[str]) -> None:
    """Remove what an earlier, different attempt left behind."""
    for path in set(folder.iterdir()) - {folder / name for name in keep}:
        path.unlink()


def require_space(folder: Path, files: Iterable[RemoteFile]) -> None:
    """Raise before the first byte when the disk cannot take what is still to come."""
    here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = sum(file.size for file in files) - here
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder}: the download needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free"
        )
