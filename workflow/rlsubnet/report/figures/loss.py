"""Figure 4: training loss of the full run and of the run in its subnetwork."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlsubnet.report import style
from rlsubnet.report.published import NOT_RUN


@style.styled
def fig4(table: pd.DataFrame) -> Figure:
    """Draw both losses (light: each step, line: moving mean) and their difference below.

    Args:
        table: see `figures.data.losses`.
    """
    labels = list(dict.fromkeys(table["label"]))
    columns = max(len(labels), 1)
    width = style.COLUMN_WIDTH if columns == 1 else style.TEXT_WIDTH
    figure = Figure(figsize=(width, 3.2))
    grid = figure.subplots(2, columns, sharex="col", squeeze=False, height_ratios=[2, 1])
    if not labels:
        for axes, text in zip(grid[:, 0], ("Training loss", "Difference"), strict=True):
            axes.set(xticks=[], yticks=[])
            style.say_not_run(axes, f"{text}: {NOT_RUN}")
        return figure
    for (top, bottom), label in zip(grid.T, labels, strict=True):
        run = table[table["label"] == label]
        _losses(top, run)
        _difference(bottom, run)
        top.set_title(label)
    grid[0, 0].set_ylabel("Training loss")
    grid[1, 0].set_ylabel("Sub - full")
    figure.align_ylabels(grid[:, 0])
    return figure


def _losses(axes: Axes, run: pd.DataFrame) -> None:
    color = style.method_color(run["method"].iloc[0])
    looks = (
        ("full", "full finetuning", color, 2.2, "-"),
        ("sub", "subnetwork only", style.darker(color, 0.6), 1.0, (0, (4, 2))),
    )
    for name, label, shade, width, line in looks:
        axes.plot(run["step"], run[name], color=shade, alpha=0.25, linewidth=0.6)
        axes.plot(
            run["step"],
            run[f"{name}_smooth"],
            color=shade,
            linewidth=width,
            linestyle=line,
            label=label,
        )
    axes.legend(loc="upper right")


def _difference(axes: Axes, run: pd.DataFrame) -> None:
    color = style.darker(style.method_color(run["method"].iloc[0]), 0.6)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.plot(run["step"], run["difference"], color=color, alpha=0.25, linewidth=0.6)
    axes.plot(run["step"], run["difference_smooth"], color=color)
    mean, lower = run["mean_difference"].iloc[0], run["share_lower_percent"].iloc[0]
    axes.set_title(f"mean {mean:+.2g}; sub lower in {lower:.0f} % of steps", fontsize=7)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.set_xlabel("Optimizer step")
