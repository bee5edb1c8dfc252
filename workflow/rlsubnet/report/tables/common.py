"""What the tables share: which pairs feed an item, and how rows become a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rlsubnet.report.columns import column
from rlsubnet.report.published import Published, model_name
from rlsubnet.report.style import RL_METHODS, method_label
from rlsubnet.report.waist import Results
from rlsubnet.sheets import Pair, Scale

MEASURED = "measured"
CONTROL = "control, no reinforcement learning"

__all__ = ["CONTROL", "MEASURED", "Published", "Results", "Row", "Scale"]

Row = dict[str, Any]


def pairs_of(scale: Scale, item: str) -> list[Pair]:
    """Return the pairs whose column `items` names the table or figure, RL first, sheet order."""
    chosen = [pair for pair in scale.pairs.values() if item in pair.items]
    return sorted(chosen, key=lambda pair: pair.method not in RL_METHODS)


def part_of(pair: Pair) -> str:
    """Return the part of a table in which a pair stands."""
    return MEASURED if pair.method in RL_METHODS else CONTROL


def names_of(pair: Pair) -> Row:
    """Return the columns that say which two checkpoints a row compares."""
    return {"algorithm": method_label(pair.method), "init": pair.init, "tuned": pair.tuned}


def paper_row(
    rows: Mapping[str, Mapping[str, Any]], pair: Pair
) -> tuple[str, Mapping[str, Any] | None]:
    """Return the paper's model beside a pair and its row, or None when this table lacks it."""
    name = model_name(pair.paper_model) if pair.paper_model else ""
    return name, rows.get(name)


def make_frame(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a table with the given columns; counts stay integers beside empty cells.

    Raises:
        ValueError: a row holds a column that is not in `columns`.
    """
    for row in rows:
        if unknown := set(row) - set(columns):
            raise ValueError(f"columns not declared: {sorted(unknown)}")
    frame = pd.DataFrame(list(rows), columns=list(columns))
    for name in columns:
        digits = column(name).digits
        if digits is None:
            frame[name] = frame[name].astype(object).where(frame[name].notna(), "")
        else:
            frame[name] = frame[name].astype("Int64" if digits == 0 else "float64")
    return frame
