"""One function per figure of the paper; `figure_data` computes its tidy table, here it is drawn."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from rlsubnet.config import Scale
from rlsubnet.data import Published
from rlsubnet.report import figure_data, style
from rlsubnet.report.figure_data import CONTROL_STAGE, LOSS, MEAN, RL_STAGE, SFT_STAGE
from rlsubnet.report.results import NOT_RUN, Results

_LEGEND_ROW = 0.16  # inches
# Column of the table, words in the legend, color of the part that is not an algorithm's.
_PARTS = (
    ("never_percent", "never updated", "#e3e3e3"),
    ("cancelled_percent", "updated, then cancelled", "#9a9a9a"),
)


@style.paper_style()
def fig2(scale: Scale, results: Results, published: Published) -> Figure:
    """Draw the shares of weights never updated, updated but cancelled, and in the subnetwork."""
    table, paper = _trajectories("fig2", scale, results, published)
    last = table.sort_values("step").groupby("label", sort=False).tail(1)
    printed = {
        "label": f"Paper ({paper['algo']})",
        "method": paper["algo"],
        "never_percent": paper["never_updated"],
        "cancelled_percent": paper["cancelled"],
        "subnetwork_percent": paper["subnetwork"],
    }
    bars = [printed, *last.to_dict("records")]
    rows = len(bars) + (0 if len(bars) > 1 else 1)
    figure = Figure(figsize=(style.TEXT_WIDTH, 0.95 + 0.3 * rows))
    axes = figure.subplots()
    for height, bar in enumerate(bars):
        _stack(axes, height, bar, hatched=height == 0)
    labels = [bar["label"] for bar in bars]
    if len(bars) == 1:
        axes.text(50, 1, NOT_RUN, ha="center", va="center")
        labels.append("Here")
    axes.set_yticks(range(rows), labels)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("Share of all weights (%)")
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    handles = [Patch(facecolor=color, label=words) for _, words, color in _PARTS]
    handles.append(
        Patch(facecolor="white", edgecolor="black", label="subnetwork (algorithm's color)")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@style.paper_style()
def fig5(scale: Scale, results: Results, published: Published) -> Figure:
    """Draw update sparsity of the saved steps against the start."""
    table, paper = _trajectories("fig5", scale, results, published)
    figure, axes = _single()
    _curves(axes, table, "sparsity_percent")
    _paper_line(
        axes, paper["converges_to"], f"paper ({paper['algo']}): about {paper['converges_to']} %"
    )
    axes.set_ylabel("Sparsity against the start (%)")
    _finish(axes)
    return figure


@style.paper_style()
def fig6(scale: Scale, results: Results, published: Published) -> Figure:
    """Draw the share of all weights updated by a step and outside the final subnetwork.

    The legend gives the share ever updated outside, which is what Figure 2 calls cancelled.
    """
    table, paper = _trajectories("fig6", scale, results, published)
    figure, axes = _single(2.7)
    last = table.sort_values("step").groupby("label")["cancelled_percent"].last()
    ever = {label: f"{label}: {share:.1f} % ever updated outside" for label, share in last.items()}
    _curves(axes, table.replace({"label": ever}), "outside_percent")
    # Not a line: shares at single steps would lie flat below it.
    value = paper["ever_updated_outside_final"]
    words = f"paper: {paper['trend']};\nabout {value} % ever updated outside"
    axes.set_title(words, fontsize=7, color=style.PAPER_GREY)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Outside final subnetwork (%)")
    if ever:
        # A curve that rises and falls to 0 leaves no corner free.
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
    return figure


@style.paper_style()
def fig7(scale: Scale, results: Results, published: Published) -> Figure:
    """Draw saved steps: (a) sparsity against the start, with accuracy; (b) against the step before.

    Without accuracies their panel is left out.
    """
    table, paper = _trajectories("fig7", scale, results, published)
    accuracies = figure_data.step_accuracies(scale, results)
    evaluated = not accuracies.empty
    # A line of the legend for the two ways of decoding each suite.
    taller = 1.3 + _LEGEND_ROW * accuracies["suite"].nunique() if evaluated else 0.0
    figure = Figure(figsize=(style.TEXT_WIDTH, 2.4 + taller))
    # One letter a panel, each line a row: sparsity above accuracy, consecutive steps beside both.
    panels = figure.subplot_mosaic("sc;ac" if evaluated else "sc")
    sparsity, consecutive = panels["s"], panels["c"]
    _curves(sparsity, table, "sparsity_percent")
    sparsity.set_title("(a) against the start")
    sparsity.set_ylabel("Sparsity (%)")
    moved = table.dropna(subset="step_sparsity_percent")
    _curves(consecutive, moved, "step_sparsity_percent")
    updated = paper["mean_updated_per_consecutive_pair"]
    _paper_line(consecutive, 100 - updated, f"paper: {updated} % updated, mean")
    consecutive.set_title("(b) consecutive saved steps")
    if evaluated:
        handles = _accuracies(panels["a"], accuracies)
        figure.legend(handles=handles, loc="outside lower left", ncols=2)
        sparsity.sharex(panels["a"])
        sparsity.set_xlabel("")
        sparsity.tick_params(labelbottom=False)
        figure.align_ylabels([sparsity, panels["a"]])
    for axes in (sparsity, consecutive):
        _finish(axes)
    return figure


def _trajectories(
    item: str, scale: Scale, results: Results, published: Published
) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    return figure_data.trajectories(item, scale, results), published["figures"][item]


def _single(height: float = 2.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(style.COLUMN_WIDTH, height))
    return figure, figure.subplots()


def _stack(axes: Axes, height: int, bar: Mapping[str, Any], hatched: bool) -> None:
    color = style.METHODS[bar["method"]].color
    parts: list[tuple[float, str, str | None]]
    parts = [(bar[column], shade, None) for column, _, shade in _PARTS]
    parts.append((bar["subnetwork_percent"], color, "/////" if hatched else None))
    left = 0.0
    for share, shade, hatch in parts:
        face = "white" if hatch else shade
        axes.barh(
            height, share, left=left, height=0.7, facecolor=face, edgecolor=shade, hatch=hatch
        )
        text = axes.text(
            left + share / 2, height, f"{share:.1f}", ha="center", va="center", fontsize=7
        )
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8})
        left += share


def _curves(axes: Axes, table: pd.DataFrame, column: str) -> None:
    if table.empty:
        # The whole range, so that the paper's line does not run through the words.
        axes.set(xticks=[], ylim=(0, 100))
        style.say_not_run(axes, NOT_RUN, height=0.4)
        return
    for label in dict.fromkeys(table["label"]):
        run = table[table["label"] == label].sort_values("step")
        method = run["method"].iloc[0]
        axes.plot(
            run["step"],
            run[column],
            color=style.METHODS[method].color,
            marker=style.METHODS[method].marker,
            label=label,
            clip_on=False,
        )
    axes.set_xlabel("Optimizer step")


def _accuracies(axes: Axes, table: pd.DataFrame) -> list[Line2D]:
    """Draw sampled accuracy with its 95 % interval as a band, greedy accuracy as a lighter line."""
    lines = dict(zip(dict.fromkeys(table["suite"]), ("-", (0, (4, 2)), ":"), strict=False))
    handles = {}
    for (_, suite, decoding), rows in table.groupby(["label", "suite", "decoding"], sort=False):
        run = rows.sort_values("step")
        color = style.METHODS[run["method"].iloc[0]].color
        sampled = decoding == "sampled"
        if sampled:
            band = (run["low_percent"], run["high_percent"])
            axes.fill_between(run["step"], *band, color=color, alpha=0.15, linewidth=0)
        look = {"linestyle": lines.get(suite, "-."), "linewidth": 1.2 if sampled else 0.9}
        shade = color if sampled else style.mixed(color, "white")
        axes.plot(run["step"], run["accuracy_percent"], color=shade, **look)
        words = f"{suite}, {decoding}" + (" (95 % interval)" if sampled else "")
        black = "black" if sampled else style.mixed("black", "white")
        one = table["method"].nunique() == 1
        handles[words] = Line2D([], [], color=shade if one else black, label=words, **look)
    axes.set_xlim(left=0)
    axes.set_xlabel("Optimizer step")
    axes.set_ylabel("Accuracy (%)")
    return list(handles.values())


def _paper_line(axes: Axes, value: float, words: str) -> None:
    axes.axhline(value, color=style.PAPER_GREY, linestyle=(0, (4, 2)), linewidth=1.0, label=words)


def _finish(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


_BAR, _ROW, _FRAME = 0.68, 0.21, 0.62  # share of a row; inches
_LABEL_WIDTH = 34  # characters
# stage -> heading of its bars
_GROUPS = {SFT_STAGE: "SFT", RL_STAGE: "RL", CONTROL_STAGE: "Controls"}


@style.paper_style()
def fig1(scale: Scale, results: Results, published: Published) -> Figure:
    """Draw update density of SFT and RL: measured here as solid bars, the paper's as hatched."""
    table = figure_data.densities(scale, results, published)
    panels = {"ours": "Measured here", "paper": "Paper (Table 1, Section 3)"}
    blocks = {origin: _ordered(table[table["origin"] == origin]) for origin in panels}
    places = {origin: _places(block) for origin, block in blocks.items()}
    lowest = (max(labels.values(), default=0.0) for _, labels in places.values())
    rows = max(3.0, *lowest) + 1.0
    figure = Figure(figsize=(style.TEXT_WIDTH, _FRAME + _ROW * rows))
    for axes, (origin, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axes.set_title(title, fontweight="bold")
        if blocks[origin].empty:
            axes.set(xticks=[], yticks=[])
            style.say_not_run(axes, NOT_RUN)
        else:
            _bars(axes, blocks[origin], *places[origin], hatched=origin == "paper", rows=rows)
    return figure


def _ordered(block: pd.DataFrame) -> pd.DataFrame:
    order = list(_GROUPS)
    return block.sort_values("stage", key=lambda stages: stages.map(order.index), kind="stable")


def _places(block: pd.DataFrame) -> tuple[dict[str, float], dict[str, float]]:
    """Return how many rows below the top each heading and each label stands.

    A heading takes a row, a label half a row more for each line.

    >>> block = pd.DataFrame({"stage": ["SFT", "RL"], "label": ["base to SFT", "SFT to DPO"]})
    >>> _places(block)
    ({'SFT': 0.0, 'RL': 2.3}, {'base to SFT': 1.0, 'SFT to DPO': 3.3})
    """
    headings, places, height = {}, {}, 0.0
    for stage, heading in _GROUPS.items():
        labels = block[block["stage"] == stage]["label"]
        if labels.empty:
            continue
        headings[heading] = height
        height += 1.0
        for label in labels:
            extra = 0.25 * (len(_wrapped(label)) - 1)
            places[label] = height + extra
            height += 1.0 + 2 * extra
        height += 0.3
    return headings, places


def _wrapped(label: str) -> list[str]:
    return textwrap.wrap(label, _LABEL_WIDTH)


def _bars(
    axes: Axes,
    block: pd.DataFrame,
    headings: Mapping[str, float],
    places: Mapping[str, float],
    hatched: bool,
    rows: float,
) -> None:
    for bar in block.itertuples():
        color = style.METHODS[bar.method].color
        face = "white" if hatched else color
        # A printed range becomes a bar between its ends; a single value a bar from zero.
        low, high = bar.low_percent, bar.high_percent
        start = low if high > low else 0.0
        axes.barh(
            places[bar.label],
            high - start,
            left=start,
            height=_BAR,
            facecolor=face,
            edgecolor=color,
            hatch="/////" if hatched else None,
            linewidth=0.8,
        )
        axes.annotate(
            f"{low:.1f}" if low == high else f"{low:.0f}-{high:.0f}",
            (high, places[bar.label]),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    for heading, height in headings.items():
        axes.text(1.5, height + 0.1, heading, va="center", fontstyle="italic")
    axes.set_yticks(list(places.values()), ["\n".join(_wrapped(label)) for label in places])
    # The same room for each bar in both panels, first row at the top.
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("Updated weights (%)")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


AVERAGE = "average"
_COLUMNS = 3
_TITLE_WIDTH = {1: 60, 2: 44, 3: 30}  # characters


@dataclass(frozen=True)
class Family:
    """Kinds of matrices that share a hue and a line: members differ in shade and marker."""

    members: tuple[str, ...]
    colors: tuple[str, ...]
    markers: str
    line: str


# None of these hues belongs to an algorithm.
_ATTENTION = Family(
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("#1B6B6F", "#2E9498", "#63BCBE", "#0E4346"),
    "os^v",
    "-",
)
_MLP = Family(("gate_proj", "up_proj", "down_proj"), ("#7B4A12", "#A9713A", "#CFA173"), "Dv^", "-")
_NORMS = Family((), ("#6A4C93", "#A58BC4", "#3F2A5E", "#C9B8DE"), "sx+1", "--")
_OTHERS = Family((), ("#555555", "#8A8A8A", "#B5B5B5"), "<>p*hH", ":")


def fig3(scale: Scale, results: Results, published: Published) -> Figure:
    return draw_fig3(figure_data.layers(scale, results))


@style.paper_style()
def draw_fig3(table: pd.DataFrame) -> Figure:
    """Draw sparsity over layers, one line a matrix, the whole layer in black; a panel a pair."""
    labels = list(dict.fromkeys(table["label"]))
    if not labels:
        figure = Figure(figsize=(style.TEXT_WIDTH, 1.6))
        axes = figure.subplots()
        axes.set(xticks=[], yticks=[], xlabel="Layer", ylabel="Sparsity (%)")
        style.say_not_run(axes, NOT_RUN)
        return figure
    looks = matrix_looks(list(dict.fromkeys(table["matrix"])))
    rows = math.ceil(len(labels) / _COLUMNS)
    columns = math.ceil(len(labels) / rows)
    # One panel leaves room for the legend at its side, several do not.
    beside = len(labels) == 1
    below = 0 if beside else 0.3 + _LEGEND_ROW * math.ceil((len(looks) + 1) / 4)
    height = max(1.9 * rows + below, 0.3 + _LEGEND_ROW * (len(looks) + 1) if beside else 0)
    figure = Figure(figsize=(style.TEXT_WIDTH, height))
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, label in zip(grid.flat, labels, strict=False):
        _panel(axes, table[table["label"] == label], looks)
        axes.set_title("\n".join(textwrap.wrap(label, _TITLE_WIDTH[columns])))
    for axes in list(grid.flat)[len(labels) :]:
        axes.remove()
    # All panels share this axis: limits from all of them, not from the one drawn first.
    grid[0, 0].set_ylim(table["sparsity_percent"].min() - 3, table["sparsity_percent"].max() + 3)
    for axes in grid[:, 0]:
        axes.set_ylabel("Sparsity (%)")
    if beside:
        figure.legend(handles=_legend(looks), loc="outside right upper")
    else:
        figure.legend(handles=_legend(looks), loc="outside lower center", ncols=4)
    return figure


def matrix_looks(matrices: list[str]) -> dict[str, dict[str, Any]]:
    """Return how each kind of matrix except the average is drawn, families one after another.

    >>> looks = matrix_looks(["input_layernorm", "average", "q_proj"])
    >>> list(looks), looks["q_proj"]["marker"], looks["q_proj"]["linestyle"]
    (['q_proj', 'input_layernorm'], 'o', '-')
    """
    groups: dict[Family, list[str]] = {family: [] for family in (_ATTENTION, _MLP, _OTHERS, _NORMS)}
    for kind in matrices:
        if kind != AVERAGE:
            groups[_family(kind)].append(kind)
    looks = {}
    for family, kinds in groups.items():
        named = [kind for kind in family.members if kind in kinds]
        for number, kind in enumerate(named or kinds):
            place = family.members.index(kind) if kind in family.members else number
            looks[kind] = {
                "color": family.colors[place % len(family.colors)],
                "marker": family.markers[place % len(family.markers)],
                "linestyle": family.line,
                "linewidth": 0.8,
                "markersize": 4,
                # Norms often lie on one line at 100 %: hollow, so that all of them are seen.
                "markerfacecolor": "none" if family is _NORMS else None,
            }
    return looks


def _family(kind: str) -> Family:
    if "norm" in kind:
        return _NORMS
    for family in (_ATTENTION, _MLP):
        if kind in family.members:
            return family
    return _OTHERS


def _panel(axes: Axes, table: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    # A marker on each of a few layers, on every fourth of 32: lines stay apart without crowding.
    every = max(1, table["layer"].nunique() // 8)
    for matrix, look in looks.items():
        rows = table[table["matrix"] == matrix].sort_values("layer")
        axes.plot(rows["layer"], rows["sparsity_percent"], markevery=every, **look)
    average = table[table["matrix"] == AVERAGE].sort_values("layer")
    axes.plot(average["layer"], average["sparsity_percent"], color="black", linewidth=2.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("Layer")


def _legend(looks: dict[str, dict[str, Any]]) -> list[Line2D]:
    average = Line2D([], [], color="black", linewidth=2.0, label="average of the layer")
    return [average, *(Line2D([], [], label=matrix, **look) for matrix, look in looks.items())]


_FIG4_TITLE_WIDTH = {1: 44, 2: 44, 3: 28}  # characters
_SUB_DASHES = (0, (4, 2))


def fig4(scale: Scale, results: Results, published: Published) -> Figure:
    return draw_fig4(figure_data.losses(scale, results))


@style.paper_style()
def draw_fig4(table: pd.DataFrame) -> Figure:
    """Draw loss or reward of both runs, and their difference below; a column a setting.

    Light lines are the single steps of one seed, or the moving means of several; the strong line is
    the moving mean, of all seeds.
    """
    labels = list(dict.fromkeys(table["label"]))
    rows = math.ceil(len(labels) / _COLUMNS) or 1
    columns = math.ceil(len(labels) / rows) or 1
    width = style.COLUMN_WIDTH if columns == 1 else style.TEXT_WIDTH
    figure = Figure(figsize=(width, 3.4 * rows))
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2, 1] * rows)
    if not labels:
        for axes, text in zip(grid[:, 0], ("Training loss", "Difference"), strict=True):
            axes.set(xticks=[], yticks=[])
            style.say_not_run(axes, f"{text}: {NOT_RUN}")
        return figure
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        top, bottom = grid[2 * row, column], grid[2 * row + 1, column]
        if place >= len(labels):
            top.remove()
            bottom.remove()
            continue
        _column(top, bottom, table[table["label"] == labels[place]], columns)
    figure.align_ylabels()
    full = Line2D([], [], color="#8a8a8a", linewidth=2.2, label="full finetuning")
    dashes: Any = _SUB_DASHES
    sub = Line2D([], [], color="#202020", linewidth=1.0, linestyle=dashes, label="subnetwork only")
    figure.legend(handles=[full, sub], loc="outside lower center", ncols=2)
    return figure


def _column(top: Axes, bottom: Axes, setting: pd.DataFrame, columns: int) -> None:
    """Draw one setting, its label wrapped to what a column of so many holds."""
    seeds = [seed for seed in dict.fromkeys(setting["seed"]) if seed != MEAN]
    color = style.METHODS[setting["method"].iloc[0]].color
    _lines(top, setting, "full", color, 2.2, "-")
    _lines(top, setting, "sub", style.mixed(color, "black", 0.6), 1.0, _SUB_DASHES)
    top.set_ylabel(setting["quantity"].iloc[0])
    top.sharex(bottom)
    top.tick_params(labelbottom=False)
    title = textwrap.wrap(setting["label"].iloc[0], _FIG4_TITLE_WIDTH[columns])
    top.set_title("\n".join([*title, f"mean of {len(seeds)} seeds"] if len(seeds) > 1 else title))

    bottom.axhline(0, color="black", linewidth=0.6)
    _lines(bottom, setting, "difference", style.mixed(color, "black", 0.6), 1.2, "-")
    mean, better = setting["mean_difference"].iloc[0], setting["share_better_percent"].iloc[0]
    word = "lower" if setting["quantity"].iloc[0] == LOSS else "higher"
    apart = "\n" if columns == _COLUMNS else "; "
    bottom.set_title(f"mean {mean:+.2g}{apart}sub {word} in {better:.0f} % of steps", fontsize=7)
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    bottom.set_xlabel("Optimizer step")
    bottom.set_ylabel("Sub - full")


def _lines(
    axes: Axes, setting: pd.DataFrame, name: str, color: str, width: float, line: Any
) -> None:
    runs = dict(list(setting.groupby("seed", sort=False)))
    strong = runs.pop(MEAN) if MEAN in runs else setting
    light = f"{name}_smooth" if MEAN in set(setting["seed"]) else name
    for run in runs.values():
        axes.plot(run["step"], run[light], color=color, alpha=0.25, linewidth=0.6)
    axes.plot(
        strong["step"], strong[f"{name}_smooth"], color=color, linewidth=width, linestyle=line
    )
