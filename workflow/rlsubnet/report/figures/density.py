"""Figure 1: how many weights the SFT stage and the RL stage update."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlsubnet.report import style
from rlsubnet.report.published import NOT_RUN

_BAR, _ROW, _FRAME = 0.68, 0.21, 0.62  # share of a row; inches


@style.styled
def fig1(table: pd.DataFrame) -> Figure:
    """Draw update density of SFT and RL: measured here as solid bars, the paper's as hatched.

    Args:
        table: see `figures.data.densities`.
    """
    panels = {"ours": "Measured here", "paper": "Paper (Table 1, Section 3)"}
    blocks = {origin: _ordered(table[table["origin"] == origin]) for origin in panels}
    rows = max(len(block) for block in blocks.values())
    height = _FRAME + _ROW * max(rows, 4)
    figure = Figure(figsize=(style.TEXT_WIDTH, height))
    for axes, (origin, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axes.set_title(title)
        if blocks[origin].empty:
            axes.set(xticks=[], yticks=[])
            style.say_not_run(axes, NOT_RUN)
        else:
            _bars(axes, blocks[origin], hatched=origin == "paper", rows=rows)
    return figure


def _ordered(block: pd.DataFrame) -> pd.DataFrame:
    """Return SFT above RL, each in the order of the table."""
    return block.sort_values("stage", ascending=False, kind="stable")


def _bars(axes: Axes, block: pd.DataFrame, hatched: bool, rows: int) -> None:
    for height, bar in enumerate(block.itertuples()):
        color = style.method_color(bar.method)
        face = "white" if hatched else color
        # A printed range becomes a bar between its ends; a single value a bar from zero.
        start = bar.low_percent if bar.high_percent > bar.low_percent else 0.0
        axes.barh(
            height,
            bar.high_percent - start,
            left=start,
            height=_BAR,
            facecolor=face,
            edgecolor=color,
            hatch="/////" if hatched else None,
            linewidth=0.8,
        )
        axes.annotate(
            _value(bar.low_percent, bar.high_percent),
            (bar.high_percent, height),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(block)), block["label"])
    # The same room for each bar in both panels, first row at the top.
    axes.set_ylim(max(rows, 4) - 0.5, -0.5)
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("Updated weights (%)")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _value(low: float, high: float) -> str:
    """Return a bar's value in print.

    >>> _value(37.94, 37.94), _value(85, 94)
    ('37.9', '85-94')
    """
    return f"{low:.1f}" if low == high else f"{low:.0f}-{high:.0f}"
