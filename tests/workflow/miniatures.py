"""Configurations in a small size: some rows of their sheets, and a file that makes them smaller."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlsubnet.config.read import merged, read_yaml

SCALE = "miniature"


def make_miniature(root: Path, config: str, smaller: Path, runs: Collection[str]) -> None:
    """Write ``config/miniature`` into a project and leave ``runs`` and what is made of them.

    Args:
        root: of the project, which has the configuration and its sheets.
        config: file of the configuration, relative to the project.
        smaller: file that is laid over it.
        runs: to keep, and models that pairs start from.
    """
    settings = merged(read_yaml(root / config), read_yaml(smaller))
    (root / "config" / SCALE).mkdir()
    written = yaml.safe_dump(settings, allow_unicode=True)
    (root / "config" / SCALE / "config.yaml").write_text(written, encoding="utf-8")
    keep_runs(root, settings, runs)


def keep_runs(root: Path, settings: Mapping[str, Any], runs: Collection[str]) -> None:
    """Leave in a configuration's sheets ``runs`` and what is made of them."""
    pairs = _keep_rows(root / settings["pairs"], ("init", "tuned"), runs)
    _keep_rows(root / settings["runs"], ("run",), runs)
    _keep_rows(root / settings["comparisons"], ("pair1", "pair2"), pairs)


def _keep_rows(sheet: Path, columns: tuple[str, ...], names: Collection[str]) -> list[str]:
    """Leave the rows whose ``columns`` are among ``names``; return their own names."""
    header, *rows = _cells(sheet)
    places = [header.index(column) for column in columns]
    kept = [row for row in rows if all(row[place] in names for place in places)]
    text = "".join("\t".join(row) + "\n" for row in [header, *kept])
    sheet.write_text(text, encoding="utf-8")
    return [row[0] for row in kept]


def set_cell(sheet: Path, name: str, column: str, value: str) -> None:
    """Put ``value`` into a column of the row whose first cell is ``name``."""
    header, *rows = _cells(sheet)
    (row,) = (row for row in rows if row[0] == name)
    row[header.index(column)] = value
    text = "".join("\t".join(cells) + "\n" for cells in [header, *rows])
    sheet.write_text(text, encoding="utf-8")


def _cells(sheet: Path) -> list[list[str]]:
    """Return the header and the rows of a sheet, without comments."""
    lines = sheet.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line[:1] != "#"]
