"""Files that are complete or absent: write to a temporary name, then rename."""

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What a write fails with when there is no room; unlike other errors it comes without a file name.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling of ``path``, renamed to ``path`` when the block ends well.

    Works for a file and for a folder (make it with ``mkdir`` inside the block). When the block
    raises, the temporary is removed and what stood at ``path`` before is untouched. A link stays:
    what it points to is replaced.

    Raises:
        FileNotFoundError: the block ended without making the temporary.
        ValueError: ``path`` is a device or a pipe, such as /dev/null or /dev/stdout, which a file
            would take the place of.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise ValueError(f"{path}: expected the path of a file or folder, found a device or pipe")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield temporary
        if target.is_dir() and temporary.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_csv(path: Path | str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write ``rows`` as CSV; a key that is missing or not in ``columns`` raises ValueError."""
    for number, row in enumerate(rows):
        if set(row) != set(columns):
            differing = sorted(set(row) ^ set(columns))
            raise ValueError(f"{path}, row {number}: columns differ from the header: {differing}")
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, fieldnames=list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def json_text(value: Any) -> str:
    """Return ``value`` as indented JSON with sorted keys, and a newline."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys."""
    with replacing(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def write_jsonl(path: Path | str, records: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line, one in memory at a time; return their number."""
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; raises as :func:`iterate_jsonl`."""
    return list(iterate_jsonl(path))


def iterate_jsonl(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file, one in memory at a time.

    Raises:
        ValueError: the file is not UTF-8, or a line is no JSON object; the message names file and
            line.
    """
    with Path(path).open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from error
            if not isinstance(record, dict):
                found = repr(record)
                raise ValueError(f"{path}, line {number}: expected a JSON object, found {found}")
            yield record


def read_object(source: str, text: str) -> dict[str, Any]:
    """Return the JSON object in ``text``, or in the file F if ``text`` is ``@F``.

    Raises:
        ValueError: it is none; the message begins with ``source``, and names the file.

    >>> read_object("--spec", '{"kind": "choices"}')
    {'kind': 'choices'}
    """
    if text.startswith("@"):
        source = f"{source} {text[1:]}"
        text = Path(text[1:]).read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{source}: expected a JSON object, found {text!r}")
    return value


def sha256(path: Path | str) -> str:
    """Return the hexadecimal SHA-256 digest of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
