"""Pages of the HTML report that need no other file: a heading, sentences, tables of words."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

import pandas as pd

from rlsubnet.report.verdicts.rules import AGREES, DIFFERS, NOT_COMPARABLE, NOT_RUN

_STYLE = """
body { font: 14px/1.45 sans-serif; color: #222; margin: 1.5em; max-width: 90em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4em .7em; border-top: 1px solid #ddd;
  overflow-wrap: anywhere; }
th { font-weight: 600; border-top: 0; white-space: nowrap; }
.word { color: #fff; border-radius: .3em; padding: .1em .5em; white-space: nowrap; }
small { color: #666; }
"""


def document(
    title: str,
    lead: Sequence[str],
    notes: Sequence[str],
    body: Iterable[str],
    colors: Mapping[str, str],
    style: str = "",
) -> str:
    """Return one HTML page.

    Args:
        title: heading of the page.
        lead: what it says first, a paragraph each.
        notes: what its words mean and what to read beside them.
        body: lines of HTML.
        colors: of the words that :func:`table` sets off.
        style: CSS beside what all pages share.
    """
    words = "".join(
        f".{_class(word)} {{ background: {color}; }}\n" for word, color in colors.items()
    )
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{_STYLE}{style}{words}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *(f"<p>{escape(sentence)}</p>" for sentence in lead),
            "<ul>",
            *(f"<li>{escape(note)}</li>" for note in notes),
            "</ul>",
            *body,
            "</body></html>",
            "",
        ]
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], word: int = 0) -> Iterator[str]:
    """Yield the lines of a table; cells are HTML, that of column ``word`` is set off in color."""
    yield f"<table><tr>{''.join(f'<th>{escape(header)}</th>' for header in headers)}</tr>"
    for row in rows:
        cells = list(row)
        cells[word] = f'<span class="word {_class(cells[word])}">{cells[word]}</span>'
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</table>"


def _class(word: str) -> str:
    return word.replace(" ", "-")


# Okabe and Ito's green and vermilion, and greys; the word itself stands beside its color.
_COLORS = {AGREES: "#009E73", DIFFERS: "#D55E00", NOT_COMPARABLE: "#6e6e6e", NOT_RUN: "#b8b8b8"}
_VERDICTS_STYLE = """
table { table-layout: fixed; }
th:nth-child(1) { width: 9em; } th:nth-child(3), th:nth-child(5) { width: 17%; }
th:nth-child(4) { width: 28%; }
"""
_HEADERS = ("Verdict", "Claim", "Paper", "Here", "Decided by")


def verdicts_page(frame: pd.DataFrame, title: str, counts: str, notes: Sequence[str]) -> str:
    """Return the page of the verdicts.

    Args:
        frame: the verdicts.
        title: heading of the page.
        counts: how often each word is said, in a sentence.
        notes: what the words mean and what to read beside them.
    """
    return document(title, [counts], notes, _tables(frame), _COLORS, _VERDICTS_STYLE)


def _tables(frame: pd.DataFrame) -> Iterator[str]:
    for part, rows in frame.groupby("part", sort=False):
        yield f"<h2>{escape(str(part))}</h2>"
        yield from table(_HEADERS, map(_cells, rows.to_dict("records")))


def _cells(row: dict) -> Sequence[str]:
    text = {str(name): escape(str(cell)) for name, cell in row.items()}
    claim = f"{text['claim']}<br><small>{text['where']} &middot; {text['id']}</small>"
    here = text["here"].replace("; ", "<br>")
    return text["verdict"], claim, text["paper"], here, text["decided_by"]
