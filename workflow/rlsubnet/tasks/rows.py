"""Rows of published data sets: files of four formats, and columns that a config names."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlsubnet.checkpoints.layout import RECORD
from rlsubnet.extras import how_to_install
from rlsubnet.files import iterate_jsonl

RowSource = Iterator[tuple[str, dict[str, Any]]]


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a .json file: a list of them, or one a line."""
    with path.open(encoding="utf-8") as stream:
        first = stream.read(64).lstrip()[:1]
    if first != "[":
        yield from iterate_jsonl(path)
        return
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise ValueError(f"{path}, entry {number}: expected a JSON object, found {value!r}")
        yield value


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        yield from csv.DictReader(stream)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(
            f"{path}: reading Parquet needs pyarrow; {how_to_install('pyarrow')}"
        ) from error
    try:
        for batch in ParquetFile(path).iter_batches(batch_size=1000):
            yield from batch.to_pylist()
    except ArrowException as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error


READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    ".parquet": _parquet_rows,
    ".jsonl": iterate_jsonl,
    ".json": _json_rows,
    ".csv": _csv_rows,
}


def read_rows(source: Path) -> RowSource:
    """Yield (``FILE, row NUMBER``, row) of a file, or of all readable files of a folder by name.

    Raises:
        ValueError: there is no such file, or one is damaged; names it.
    """
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    # Beside what was fetched lies its record.
    readable = [path for path in files if path.suffix in READERS and path.name != RECORD]
    if not readable:
        raise ValueError(f"{source}: no file that ends in {', '.join(READERS)}")
    for path in readable:
        for number, row in enumerate(READERS[path.suffix](path), start=1):
            yield f"{path}, row {number}", row


def describe_value(value: Any) -> str:
    """Return what kind of value this is, with the names and lengths that tell columns apart.

    >>> describe_value([{"text": "a", "ok": True}] * 64)
    'list of 64 {text: text, ok: true or false}'
    """
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list():
            return f"list of {len(value)} {describe_value(value[0])}" if value else "empty list"
        case dict():
            return "{" + ", ".join(f"{k}: {describe_value(v)}" for k, v in value.items()) + "}"
        case None:
            return "nothing"
        case _:
            return type(value).__name__


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """Return what stands at ``column``; a dot goes into a mapping, or into each one of a list.

    Raises:
        ValueError: there is no such column; the message describes the row.

    >>> value_at({"answers": [{"text": "4"}, {"text": "5"}]}, "answers.text")
    ['4', '5']
    >>> value_at({"question": "2+2"}, "prompt")
    Traceback (most recent call last):
    ValueError: no column 'prompt'; the row is {question: text}
    """

    def inside(value: Any, parts: list[str]) -> Any:
        if not parts:
            return value
        if isinstance(value, list):
            return [inside(part, parts) for part in value]
        if not isinstance(value, Mapping) or parts[0] not in value:
            raise ValueError(f"no column {column!r}; the row is {describe_value(dict(row))}")
        return inside(value[parts[0]], parts[1:])

    # A name with a dot in it is a name first.
    return row[column] if column in row else inside(row, column.split("."))
