"""Pack what ``day.sh`` has made so far into few small files, and unpack it where it is kept.

usage: python -m benchmarks.device.results pack OUT
       python -m benchmarks.device.results unpack OUT... [--results DIR] [--page FILE]
"""

import argparse
import csv
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlsubnet.files import write_csv

RESULTS, TIMES = Path("results/short"), Path("work/short/benchmarks")
LOGS = (Path("logs/short"), Path(".snakemake/log"))
ARCHIVE = "results.tar.gz"
# Of the 8 MiB that such a machine gives back, what the archive may take.
MOST = 7 << 20


def archive_of(folders: Iterable[Path]) -> bytes:
    """Return a compressed archive of the folders that are there."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for folder in folders:
            for file in sorted(folder.rglob("*")):
                # A job may be about to replace it.
                with suppress(FileNotFoundError):
                    archive.add(file, recursive=False)
    return stream.getvalue()


def pack(out: Path) -> None:
    """Write the archive, which is always whole; logs stay behind where they do not fit."""
    for folders in ((RESULTS, TIMES, *LOGS), (RESULTS, TIMES)):
        content = archive_of(folders)
        if len(content) <= MOST:
            break
    unfinished = out / f".{ARCHIVE}"
    unfinished.write_bytes(content)
    unfinished.replace(out / ARCHIVE)


def unpack(outs: Sequence[Path], results: Path, page: Path) -> None:
    """Put tables, figures and times into ``results``, and what was measured onto ``page``.

    Args:
        outs: folders that ``day.sh`` wrote to, the latest last.
        results: folder, made where it is not there.
        page: Markdown file.

    Raises:
        FileNotFoundError: a folder holds no archive.
    """
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for out in outs:
            with tarfile.open(out / ARCHIVE) as archive:
                archive.extractall(folder, filter="data")
        if (Path(folder) / RESULTS).is_dir():
            shutil.copytree(Path(folder) / RESULTS, results, dirs_exist_ok=True)
        write_csv(results / "times.csv", times(Path(folder) / TIMES), ("job", "seconds"))
    page.write_text("\n".join(page_of(outs)) + "\n", encoding="utf-8")


def times(folder: Path) -> list[dict[str, str]]:
    """Return the seconds of every job, from Snakemake's benchmark files."""
    found = []
    for file in sorted(folder.rglob("*.tsv")):
        with file.open(newline="", encoding="utf-8") as stream:
            (row,) = csv.DictReader(stream, delimiter="\t")
        job = file.relative_to(folder).with_suffix("").as_posix()
        found.append({"job": job, "seconds": row["s"]})
    return found


def findings(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of checks or limits; none where the part did not begin."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def page_of(outs: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of a page of benchmarks, limits and checks."""
    yield from ("# One GPU", "", "Made by `benchmarks/device/day.sh` (docs/GPU.md).", "")
    for file in (out / "bench.md" for out in outs):
        yield file.read_text(encoding="utf-8") if file.exists() else ""
    for what in ("limits", "checks"):
        yield from (f"## {what.capitalize()}", "", "| part | found |", "|---|---|")
        for line in (line for out in outs for line in findings(out / f"{what}.jsonl")):
            part = line.pop("part")
            yield f"| {part} | {', '.join(f'{k} {v}' for k, v in line.items() if v != '')} |"
        yield ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack or unpack."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device.results")
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("out", type=Path, nargs="+", help="folder that day.sh writes to")
    parser.add_argument("--results", type=Path, default=Path("results/reference/gpu"))
    parser.add_argument("--page", type=Path, default=Path("benchmarks/results-gpu.md"))
    options = parser.parse_args(arguments)
    if options.action == "pack":
        pack(*options.out)
    else:
        unpack(options.out, options.results, options.page)


if __name__ == "__main__":
    main()
