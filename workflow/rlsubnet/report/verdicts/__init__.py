"""For each claim of the paper: what it says, what this scale shows, and one of four words.

`rules` decides, from plain numbers alone; `numbers` brings them, `claims` puts them into words, and
here they become a table and a page of the HTML report.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from rlsubnet.config import Scale
from rlsubnet.data import Published
from rlsubnet.items import ITEMS, VERDICTS
from rlsubnet.report.export import notes_of, write_page, write_table, write_text
from rlsubnet.report.results import Results
from rlsubnet.report.verdicts.claims import lines
from rlsubnet.report.verdicts.numbers import Source
from rlsubnet.report.verdicts.rules import AGREES, DIFFERS, NOT_COMPARABLE, NOT_RUN, WORDS, Line


def verdicts(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return one row a claim: part, id, claim, where, paper, here, verdict, decided_by.

    `here` names runs and pairs; an id is stable, such as `takeaway1/sparse` or `table4/Seed`.
    """
    found = lines(Source(scale, results, published))
    return pd.DataFrame(found, columns=Line._fields).astype(object)


# Okabe and Ito's green and vermilion, and greys; the word itself stands beside its color.
_COLORS = {AGREES: "#009E73", DIFFERS: "#D55E00", NOT_COMPARABLE: "#6e6e6e", NOT_RUN: "#b8b8b8"}
_STYLE = """
table { table-layout: fixed; }
th:nth-child(1) { width: 9em; } th:nth-child(3), th:nth-child(5) { width: 17%; }
th:nth-child(4) { width: 28%; }
"""
_HEADERS = ("Verdict", "Claim", "Paper", "Here", "Decided by")


def write_verdicts(frame: pd.DataFrame, paths: dict[str, Path]) -> list[Path]:
    """Write the verdicts as a table, as a page of the report, and as CSV at the top of results."""
    title, notes = ITEMS[VERDICTS].title, notes_of(VERDICTS)
    words = ", ".join(f"{word} {(frame['verdict'] == word).sum()}" for word in WORDS)
    counts = f"{len(frame)} claims and rows: {words}."
    written = write_table(frame, paths["csv"].with_suffix(""), title, [counts, *notes])
    parts = [
        (str(part), _HEADERS, [_cells(row) for row in rows.to_dict("records")])
        for part, rows in frame.groupby("part", sort=False)
    ]
    write_page(paths["html"], title, [counts], notes, parts, _COLORS, style=_STYLE)
    write_text(paths["top"], paths["csv"].read_text(encoding="utf-8"))
    return [*written, paths["html"], paths["top"]]


def _cells(row: dict) -> Sequence[str]:
    text = {str(name): escape(str(cell)) for name, cell in row.items()}
    claim = f"{text['claim']}<br><small>{text['where']} &middot; {text['id']}</small>"
    here = text["here"].replace("; ", "<br>")
    return text["verdict"], claim, text["paper"], here, text["decided_by"]
