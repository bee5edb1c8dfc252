"""Published data sets: fetching their files, reading their rows, finding a column in a row."""

import csv
import fnmatch
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from rlsubnet.checkpoints.hub import Report, Repository, link_files, make_folder
from rlsubnet.checkpoints.sources import PREFIX, RECORD
from rlsubnet.extras import how_to_install
from rlsubnet.files import iterate_jsonl

# Rows, each behind the name of its place.
RowSource = Iterable[tuple[str, Mapping[str, Any]]]
Made = TypeVar("Made")


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
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
    """Yield (``FILE, row NUMBER``, row) of a file, or of all readable files of a folder by name."""
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    # Beside what was fetched lies its record.
    readable = [path for path in files if path.suffix in READERS and path.name != RECORD]
    if not readable:
        raise ValueError(f"{source}: no file that ends in {', '.join(READERS)}")
    for path in readable:
        for number, row in enumerate(READERS[path.suffix](path), start=1):
            yield f"{path}, row {number}", row


def each_row(rows: RowSource, convert: Callable[[Mapping[str, Any]], Made]) -> Iterator[Made]:
    """Yield what becomes of each row; a fault in one names its file and number."""
    for where, row in rows:
        try:
            made = convert(row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield made


_NOUNS = {bool: "true or false", int: "number", float: "number", str: "text", NoneType: "nothing"}


def describe_value(value: Any) -> str:
    """Return what kind of value this is, with the names and lengths that tell columns apart.

    >>> describe_value([{"text": "a", "ok": True}] * 64)
    'list of 64 {text: text, ok: true or false}'
    """
    match value:
        case list():
            return f"list of {len(value)} {describe_value(value[0])}" if value else "empty list"
        case dict():
            return "{" + ", ".join(f"{k}: {describe_value(v)}" for k, v in value.items()) + "}"
    return _NOUNS.get(type(value), type(value).__name__)


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """Return what stands at ``column``; a dot goes into a mapping, or into each one of a list.

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


Message = dict[str, str]
ROLES = ("system", "user", "assistant")


def check_messages(value: Any, what: str) -> list[Message]:
    """Return a conversation with role and content alone.

    >>> check_messages([{"role": "user", "content": "2+2?", "id": 7}], "chosen")
    [{'role': 'user', 'content': '2+2?'}]
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what}: expected a list of messages, found {value!r:.80}")
    for message in value:
        fits = isinstance(message, dict) and isinstance(message.get("content"), str)
        if not fits or message.get("role") not in ROLES:
            raise ValueError(
                f"{what}: expected messages with role ({', '.join(ROLES)}) and content, "
                f"found {message!r:.80}"
            )
    return [{"role": message["role"], "content": message["content"]} for message in value]


def as_prompt(value: Any) -> list[Message]:
    """Return a prompt as a conversation: a text is what the user says.

    >>> as_prompt("2+2?")
    [{'role': 'user', 'content': '2+2?'}]
    """
    if isinstance(value, str) and value:
        return [{"role": "user", "content": value}]
    prompt = check_messages(value, "prompt")
    if prompt[-1]["role"] == "assistant":
        raise ValueError("prompt: ends with an answer, expected it to end with a question")
    return prompt


def with_answer(prompt: Sequence[Message], answer: str) -> list[Message]:
    return [*prompt, {"role": "assistant", "content": answer}]


def user_text(messages: Sequence[Message]) -> str:
    """Return what the user says in a conversation: that is what may have been an exam question.

    >>> user_text(with_answer(as_prompt("2+2?"), "4"))
    '2+2?'
    """
    return "\n".join(message["content"] for message in messages if message["role"] == "user")


def _readable(names: Sequence[str], pattern: str, where: str) -> list[str]:
    """Return the names that a pattern chooses, sorted; ``*`` also stands for folders.

    Raises where it chooses none, or one that no reader has: so no script of the repository, ever.

    >>> _readable(["data/b.parquet", "README.md", "data/a.parquet"], "*.parquet", "here")
    ['data/a.parquet', 'data/b.parquet']
    """
    chosen = sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))
    other = [name for name in chosen if Path(name).suffix not in READERS]
    if not chosen or other:
        raise ValueError(
            f"{where}: files {pattern!r}: expected files that end in {', '.join(READERS)}, found "
            f"{', '.join(other or sorted(names)) or 'no files'}"
        )
    return chosen


def _link_files(source: Path, pattern: str, partial: Path, report: Report) -> dict[str, Any]:
    root = source.parent if source.is_file() else source
    if not root.is_dir():
        raise ValueError(f"{source}: no such file or folder")
    found = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    names = [path.relative_to(root).as_posix() for path in found]
    chosen = _readable(names, source.name if source.is_file() else pattern, str(source))
    return link_files(root, chosen, partial, str(source), report)


def fetch(spec: Mapping[str, Any], out: Path, report: Report = print) -> None:
    """Make the folder ``out`` of a data set's files; do nothing where it is there already.

    A folder under its final name is complete and checked, and its ``download.json`` records commit,
    sizes and digests; work in progress lives in ``<out>.partial`` and is taken up again.

    Args:
        spec: an entry of the config's ``data``, of a kind that is fetched.
    """
    source, pattern = spec["source"], spec.get("files", "*")
    revision = spec.get("revision", "main") if source.startswith(PREFIX) else None

    def fill(partial: Path) -> dict[str, Any]:
        if revision is None:
            return _link_files(Path(source), pattern, partial, report)
        repository = Repository(source.removeprefix(PREFIX), revision, report, kind="dataset")
        report(f"{source}: revision {revision} is commit {repository.commit}")
        names = _readable(list(repository.files), pattern, f"{source} at {repository.commit}")
        return repository.fetch_all(names, partial)

    make_folder(out, {"source": source, "revision": revision, "pattern": pattern}, fill, report)
