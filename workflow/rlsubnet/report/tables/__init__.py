"""One function per table of the paper: a scale and its results in, a DataFrame out.

Here is what they share: which pairs feed an item, and how rows become a table.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rlsubnet.config import Pair, Scale
from rlsubnet.report import load_yaml
from rlsubnet.report.export import column
from rlsubnet.report.paired import Compared
from rlsubnet.report.results import NOT_RUN, Results, sparsity
from rlsubnet.report.style import METHODS, RL_METHODS

MEASURED = "measured"
CONTROL = "control, no reinforcement learning"
# What a row of a table with seeds is.
MEAN_OF_SEEDS = "mean of seeds"
ONE_OF_THE_SEEDS = "one of the seeds"
ONE_SEED = "one seed"

Row = dict[str, Any]
# Table, or what a figure is drawn from -> its columns
COLUMNS: dict[str, list[str]] = load_yaml("tables.yaml")


def pairs_of(scale: Scale, item: str) -> list[Pair]:
    """Return the pairs whose column `items` names the table or figure, RL first, sheet order."""
    chosen = [pair for pair in scale.pairs.values() if item in pair.items]
    return sorted(chosen, key=lambda pair: pair.method not in RL_METHODS)


def tolerance_of(scale: Scale) -> float:
    """Return the tolerance below which tables and figures call a weight unchanged."""
    return float(scale.config["measure"]["table_tolerance"])


def sparsity_percent(scale: Scale, results: Results, pair: str) -> float:
    """Return the share of a pair's weights that finetuning left unchanged, by the authors' rule."""
    return 100 * sparsity(results.updates(pair), tolerance_of(scale))


def part_of(pair: Pair) -> str:
    return MEASURED if pair.method in RL_METHODS else CONTROL


def names_of(pair: Pair) -> Row:
    return {"algorithm": METHODS[pair.method].label, "init": pair.init, "tuned": pair.tuned}


def paper_row(source: str, **values: Any) -> Row:
    """Return what the paper prints, in columns of its own; check marks become words.

    >>> paper_row("Table 1", sparsity_percent=81.4, kl=True, online=None)
    {'paper_sparsity_percent': 81.4, 'paper_kl': 'yes', 'paper_online': '', 'source': 'Table 1'}
    """
    words = {None: "", True: "yes", False: "no"}
    marks = {n: words[value] for n, value in values.items() if isinstance(value, bool | None)}
    return {f"paper_{name}": value for name, value in (values | marks).items()} | {"source": source}


def with_paper(
    ours: Sequence[tuple[Any, Row]], paper: Mapping[Any, Row], part: str = NOT_RUN
) -> list[Row]:
    """Return our (key, row) beside the paper's rows of the same key, and below them its others.

    What both have is ours; `part` is the part of the paper's others.
    """
    keys = {key for key, _ in ours}
    others = [{"part": part, **row} for key, row in paper.items() if key not in keys]
    return [paper.get(key, {}) | row for key, row in ours] + others


def compared_columns(compared: Compared) -> Row:
    """Return counts, shares in per cent with intervals, and their difference in points."""
    return {
        "n": compared.n,
        "full_correct": compared.full_correct,
        "sub_correct": compared.sub_correct,
        "full_percent": 100 * compared.full,
        "sub_percent": 100 * compared.sub,
        "full_interval": interval_text(compared.full_interval),
        "sub_interval": interval_text(compared.sub_interval),
        "delta_points": 100 * compared.delta,
        "delta_se_points": 100 * compared.se,
    }


def interval_text(ends: tuple[float, float] | None) -> str:
    """Return an interval in per cent as printed.

    >>> interval_text((0.161, 0.272))
    '16.1 to 27.2'
    """
    return "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


def p_text(p_value: float) -> str:
    """Return a p in print, never as zero.

    >>> p_text(0.21875), p_text(1e-9)
    ('0.219', '< 0.001')
    """
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def make_frame(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a table with the given columns; counts stay integers beside empty cells."""
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


def short_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table that counts the seeds of a mean: they are named in rows of their own.

    >>> short_seeds(pd.DataFrame({"seed": ["mean of 42, 7", "42"]}))["seed"].tolist()
    ['mean of 2', '42']
    """
    counted = [
        f"mean of {seed.count(',') + 1}" if seed.startswith("mean of ") else seed
        for seed in frame["seed"]
    ]
    return frame.assign(seed=counted)


def hidden(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return a table with these columns empty.

    >>> hidden(pd.DataFrame({"label": ["DPO"], "n": [500]}), ["n"])["n"].isna().tolist()
    [True]
    """
    return frame.assign(**{name: "" if column(name).digits is None else math.nan for name in names})
