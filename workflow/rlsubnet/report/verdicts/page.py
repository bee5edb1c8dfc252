"""The verdicts as a page of the HTML report: one table a part, the word in front, in color."""

from collections.abc import Iterator, Sequence
from html import escape

import pandas as pd

from rlsubnet.report.page import document, table
from rlsubnet.report.verdicts.rules import AGREES, DIFFERS, NOT_COMPARABLE, NOT_RUN

# Okabe and Ito's green and vermilion, and greys; the word itself stands beside its color.
_COLORS = {AGREES: "#009E73", DIFFERS: "#D55E00", NOT_COMPARABLE: "#6e6e6e", NOT_RUN: "#b8b8b8"}
_STYLE = """
table { table-layout: fixed; }
th:nth-child(1) { width: 9em; } th:nth-child(3), th:nth-child(5) { width: 17%; }
th:nth-child(4) { width: 28%; }
"""
_HEADERS = ("Verdict", "Claim", "Paper", "Here", "Decided by")


def page(frame: pd.DataFrame, title: str, counts: str, notes: Sequence[str]) -> str:
    """Return one HTML page that needs no other file.

    Args:
        frame: the verdicts.
        title: heading of the page.
        counts: how often each word is said, in a sentence.
        notes: what the words mean and what to read beside them.
    """
    return document(title, [counts], notes, _tables(frame), _COLORS, _STYLE)


def _tables(frame: pd.DataFrame) -> Iterator[str]:
    for part, rows in frame.groupby("part", sort=False):
        yield f"<h2>{escape(str(part))}</h2>"
        yield from table(_HEADERS, map(_cells, rows.to_dict("records")))


def _cells(row: dict) -> Sequence[str]:
    text = {str(name): escape(str(cell)) for name, cell in row.items()}
    claim = f"{text['claim']}<br><small>{text['where']} &middot; {text['id']}</small>"
    here = text["here"].replace("; ", "<br>")
    return text["verdict"], claim, text["paper"], here, text["decided_by"]
