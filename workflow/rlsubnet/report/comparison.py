"""Two results folders beside each other: verdicts, headline numbers, and where they were made.

Another CPU sums in another order. A rounding that differs in pretraining makes another start, and
all that is trained from it gets other digits; what the demo shows should keep its words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd

from rlsubnet.columns import MachineRow, names
from rlsubnet.report import load_yaml
from rlsubnet.report.export import column, notes_of, write_page, write_table

MACHINE, WORDS, NUMBERS = "Where they were made", "Verdicts", "Headline numbers"
SAME, OTHER, INSIDE, OUTSIDE, NO_INTERVAL = "same", "other", "inside", "outside", "no interval"
HERE_ONLY, REFERENCE_ONLY = "only here", "only in the reference"
COLUMNS = ("part", "what", "where", "yours", "reference", "reference_interval", "comparison")
_COLORS = {
    **dict.fromkeys((SAME, INSIDE), "#009E73"),
    **dict.fromkeys((OTHER, OUTSIDE), "#D55E00"),
    **dict.fromkeys((NO_INTERVAL, HERE_ONLY, REFERENCE_ONLY), "#6e6e6e"),
}
TITLE = "Comparison of two results folders"
_MACHINE = names(MachineRow)
SHOWN = 8  # of the numbers outside, in the summary


@dataclass(frozen=True)
class Headline:
    """A column of a table whose numbers are compared.

    `names` are the columns whose values tell its rows apart, `where` patterns of the rows that
    count, `interval` the columns with an interval's two ends, or one that holds both ("1 to 3"),
    `se` that of the standard error, where that is what is printed: 1.96 to each side.
    """

    table: str
    column: str
    names: Sequence[str]
    where: Mapping[str, str] = field(default_factory=dict)
    interval: Sequence[str] = ()
    se: str = ""


HEADLINES = [Headline(**entry) for entry in load_yaml("headlines.yaml")]


def read_table(results: Path, item: str) -> pd.DataFrame:
    path = results / "tables" / f"{item}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {item} is made by: snakemake {item}")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def headline_numbers(frame: pd.DataFrame, headline: Headline) -> dict[str, tuple[str, str]]:
    """Return (number, interval) of one column by the names of their rows; the paper's have none.

    Both are the text of the table's CSV; an interval is empty where there is none.

    >>> frame = pd.DataFrame({"label": ["DPO"], "null": ["uniform"], "lift": ["2.7"],
    ...                       "lift_ci_low": ["2.4"], "lift_ci_high": ["3.0"]})
    >>> ends = ("lift_ci_low", "lift_ci_high")
    >>> headline_numbers(frame, Headline("table4", "lift", ("label", "null"), {}, ends))
    {'DPO, uniform': ('2.7', '2.4 to 3.0')}
    """
    found: dict[str, tuple[str, str]] = {}
    if headline.column not in frame.columns:  # a scale without rows of this kind
        return found
    for row in frame.to_dict("records"):
        wanted = all(re.fullmatch(text, row[key]) for key, text in headline.where.items())
        if not (wanted and row[headline.column]):
            continue
        name = ", ".join(row[key] for key in headline.names if row[key])
        if name in found:
            raise ValueError(f"{headline.table}.csv: two rows are called {name!r}")
        found[name] = row[headline.column], _interval(row, headline)
    return found


def _interval(row: Mapping[str, str], headline: Headline) -> str:
    if headline.se and row[headline.se]:
        half = 1.96 * float(row[headline.se])
        middle = float(row[headline.column])
        return f"{middle - half:.6g} to {middle + half:.6g}"
    return " to ".join(row[name] for name in headline.interval if row[name])


def compare_number(yours: str, reference: str, interval: str = "") -> str:
    """Return how a number stands to the reference's and its interval; empty is none.

    >>> compare_number("2.7", "4.1", "3.2 to 5.0"), compare_number("2.7", "2.8")
    ('outside', 'no interval')
    """
    if not (yours and reference):
        return _alone(yours)
    if yours == reference:
        return SAME
    if not interval:
        return NO_INTERVAL
    low, high = map(float, interval.split(" to "))
    return INSIDE if low <= float(yours) <= high else OUTSIDE


def _alone(yours: str) -> str:
    return HERE_ONLY if yours else REFERENCE_ONLY


def compare(yours: Path, reference: Path) -> pd.DataFrame:
    """Return all that is compared of two results folders, one row each, as text; see `COLUMNS`."""
    rows = [*_machines(yours, reference), *_verdicts(yours, reference)]
    rows += _numbers(yours, reference)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _machines(yours: Path, reference: Path) -> Iterator[tuple[str, ...]]:
    here, there = _machine_facts(yours), _machine_facts(reference)
    for fact in _MACHINE[1:]:
        same = SAME if here[fact] == there[fact] else OTHER
        yield MACHINE, fact, "machines.csv", here[fact], there[fact], "", same


def _machine_facts(results: Path) -> dict[str, str]:
    path = results / "machines.csv"
    if not path.is_file():
        return dict.fromkeys(_MACHINE, "not recorded")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return {fact: "; ".join(dict.fromkeys(frame[fact])) for fact in _MACHINE}


def _verdicts(yours: Path, reference: Path) -> Iterator[tuple[str, ...]]:
    frames = [read_table(folder, "verdicts").set_index("id") for folder in (yours, reference)]
    here, there = (frame.to_dict("index") for frame in frames)
    for claim in dict.fromkeys([*there, *here]):
        word, other = (found[claim]["verdict"] if claim in found else "" for found in (here, there))
        same = SAME if word == other else OTHER if word and other else _alone(word)
        text = (here.get(claim) or there[claim])["claim"]
        yield WORDS, text, claim, word, other, "", same


def _numbers(yours: Path, reference: Path) -> Iterator[tuple[str, ...]]:
    items = dict.fromkeys(headline.table for headline in HEADLINES)
    tables = {item: [read_table(folder, item) for folder in (yours, reference)] for item in items}
    for headline in HEADLINES:
        here, there = (headline_numbers(frame, headline) for frame in tables[headline.table])
        for name in dict.fromkeys([*there, *here]):
            one, (other, interval) = here.get(name, ("", ""))[0], there.get(name, ("", ""))
            where = f"{headline.table}, {headline.column}"
            found = compare_number(one, other, interval)
            yield NUMBERS, name, where, one, other, interval, found


def in_print(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison as it is printed: numbers with the decimals of their table."""
    rows = frame.to_dict("records")
    for row in rows:
        if row["part"] == NUMBERS:
            item, name = row["where"].split(", ")
            kind = column(name)
            row["where"] = f"{item}: {kind.header}"
            for cell in ("yours", "reference", "reference_interval"):
                ends = (f"{float(x):,.{kind.digits or 0}f}" for x in row[cell].split(" to ") if x)
                row[cell] = " to ".join(ends)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def counted(frame: pd.DataFrame, part: str) -> dict[str, int]:
    return frame.loc[frame["part"] == part, "comparison"].value_counts().to_dict()


def sentences(frame: pd.DataFrame) -> list[str]:
    """Return what the comparison found, in two sentences: on verdicts and on numbers."""
    words, numbers = counted(frame, WORDS), counted(frame, NUMBERS)
    total, inside, outside = sum(numbers.values()), numbers.get(INSIDE, 0), numbers.get(OUTSIDE, 0)
    kept = words.get(SAME, 0)
    parts = [f"{numbers.get(SAME, 0)} of {total} headline numbers have the reference's digits"]
    if inside + outside:
        parts.append(
            f"of {inside + outside} others that it gives an interval for, {inside} lie inside and "
            f"{outside} outside"
        )
    if alone := numbers.get(NO_INTERVAL, 0):
        parts.append(f"{alone} others have no interval")
    if missing := numbers.get(HERE_ONLY, 0) + numbers.get(REFERENCE_ONLY, 0):
        parts.append(f"{missing} stand in one folder alone")
    return [
        f"{kept} of {sum(words.values())} verdicts have the reference's word.",
        f"{'; '.join(parts)}.",
    ]


def summary(frame: pd.DataFrame) -> list[str]:
    lines = []
    facts = frame[frame["part"] == MACHINE].set_index("what")
    for side in ("yours", "reference"):
        device, arithmetic, torch = facts.loc[["device", "arithmetic", "torch"], side]
        lines.append(f"  {side:<10} {device}; {arithmetic}; torch {torch}")
    lines += [f"  {sentence}" for sentence in sentences(frame)]
    printed = in_print(frame)
    other = printed[(printed["part"] == WORDS) & (printed["comparison"] != SAME)]
    lines += [
        f"    {row['where']}: {row['yours'] or 'absent'}, reference {row['reference'] or 'absent'}"
        for row in other.to_dict("records")
    ]
    outside = printed[printed["comparison"] == OUTSIDE].to_dict("records")
    lines += [
        f"    {row['what']}, {row['where'].split(': ')[1]}: {row['yours']}, "
        f"reference {row['reference']} ({row['reference_interval']})"
        for row in outside[:SHOWN]
    ]
    if len(outside) > SHOWN:
        lines.append(f"    and {len(outside) - SHOWN} more outside")
    if outside:
        lines.append(
            "  These intervals are those of one start; another CPU is another start (README.md)."
        )
    return lines


def write_comparison(frame: pd.DataFrame, stem: Path) -> list[Path]:
    printed = in_print(frame)
    notes = notes_of("comparison")
    paths = write_table(frame, stem, TITLE, [*sentences(frame), *notes], printed)
    parts = [_part(str(part), rows) for part, rows in printed.groupby("part", sort=False)]
    page = stem.with_suffix(".html")
    write_page(page, TITLE, sentences(frame), notes, parts, _COLORS, word=-1)
    return [*paths, page]


def _part(part: str, rows: pd.DataFrame) -> tuple[str, list[str], list[list[str]]]:
    """Return one part of the page; what differs comes first."""
    first = {OUTSIDE: 0, OTHER: 0, HERE_ONLY: 1, REFERENCE_ONLY: 1}
    order = rows["comparison"].map(first).fillna(2).sort_values(kind="stable").index
    shown = rows.loc[order, [name for name in COLUMNS[1:] if rows[name].any()]]
    cells = [[escape(cell) for cell in row] for row in shown.itertuples(index=False, name=None)]
    return part, [column(name).header for name in shown.columns], cells
