"""Sheets: tab-separated tables whose rows keep the line they stand on."""

from dataclasses import dataclass
from pathlib import Path
from unicodedata import category

from rlsubnet.config.faults import SheetError, unknown_name
from rlsubnet.config.schemas import describe, first_error, load_schema


@dataclass(frozen=True)
class Row:
    """One row of a sheet; ``line`` is its line number in the file, counted from 1."""

    file: str
    line: int
    name: str
    cells: dict[str, str]

    def fault(self, column: str, message: str) -> SheetError:
        """Return the error that names file, row and column."""
        return SheetError(f"{self.file}, row {self.line} ({self.name}), column {column}: {message}")

    def listed(self, column: str) -> tuple[str, ...]:
        """Return the parts of a cell that holds a comma-separated list."""
        return tuple(part.strip() for part in self.cells[column].split(",") if part.strip())


def read_sheet(path: Path | str, kind: str) -> dict[str, Row]:
    """Return the rows of a sheet by name, in the order of the file.

    The first column that the schema ``{kind}`` declares holds the names. Lines that start with
    ``#`` and empty lines are skipped; cells missing at the end of a row are empty.

    Raises:
        SheetError: no header, a missing, unknown or repeated column, too many cells, a cell that
            breaks the schema, or the same name twice.
    """
    schema = load_schema(kind)
    columns = list(schema["properties"])
    lines = _content_lines(path)
    if not lines:
        raise SheetError(f"{path}: empty, expected a header with the columns {', '.join(columns)}")
    header = _check_header(path, lines[0][1], columns)
    rows: dict[str, Row] = {}
    for number, cells in lines[1:]:
        row = _make_row(path, number, header, cells, columns[0])
        for column, cell in row.cells.items():
            if control := next((c for c in cell if category(c) == "Cc"), None):
                raise row.fault(column, f"control character {control!r} in {cell!r}")
        error = first_error(dict(row.cells), schema)
        if error is not None:
            raise row.fault(str(error.absolute_path[0]), describe(error))
        if row.name in rows:
            first = rows[row.name].line
            raise row.fault(columns[0], f"duplicate name {row.name!r}, first used in row {first}")
        rows[row.name] = row
    return rows


def _content_lines(path: Path | str) -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of every line that is neither empty nor a comment."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SheetError(f"{path}: not UTF-8 text ({error.reason})") from error
    return [
        (number, [cell.strip() for cell in line.split("\t")])
        # Not splitlines: it ends lines where no editor does, such as at U+2028 inside a label.
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.startswith("#")
    ]


def _check_header(path: Path | str, header: list[str], columns: list[str]) -> list[str]:
    for number, column in enumerate(header):
        if column not in columns:
            raise SheetError(f"{path}, header: {unknown_name('column', column, columns)}")
        if column in header[:number]:
            raise SheetError(f"{path}, header: duplicate column {column!r}")
    if missing := [column for column in columns if column not in header]:
        raise SheetError(f"{path}, header: missing column {', '.join(missing)}")
    return header


def _make_row(path: Path | str, number: int, header: list[str], cells: list[str], key: str) -> Row:
    padded = cells + [""] * (len(header) - len(cells))
    row = dict(zip(header, padded, strict=False))
    if len(cells) > len(header):
        raise SheetError(
            f"{path}, row {number} ({row[key]}): {len(cells)} cells, "
            f"expected at most {len(header)} as in the header"
        )
    return Row(file=str(path), line=number, name=row[key], cells=row)
