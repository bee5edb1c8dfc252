"""Sizes, colors and markers of all figures: an algorithm looks the same in every one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from matplotlib import colors
from matplotlib import style as mpl_style
from matplotlib.axes import Axes

from rlsubnet.report import load_yaml

COLUMN_WIDTH = 3.25  # inches
TEXT_WIDTH = 6.75
STYLE_FILE = Path(__file__).with_name("paper.mplstyle")

PAPER_GREY = "#6e6e6e"
NOT_RUN_GREY = "#f2f2f2"


class Look(NamedTuple):
    """How an algorithm is named and drawn, the same in every figure."""

    label: str
    color: str
    marker: str


METHODS = {name: Look(*look) for name, look in load_yaml("methods.yaml").items()}
# Methods that learn from a reward or a preference; the others are controls beside them.
RL_METHODS = frozenset(METHODS) - {"SFT", "RFT", "RAFT++", "PRETRAIN"}


@contextmanager
def paper_style() -> Iterator[None]:
    """Apply `paper.mplstyle` inside the block, on top of matplotlib's defaults."""
    with mpl_style.context(["default", STYLE_FILE]):
        yield


def darker(color: str, share: float = 0.45) -> str:
    """Return `color` mixed with black; tells the subnetwork's run from the full one.

    >>> darker("#ffffff", 0.5)
    '#808080'
    """
    red, green, blue = (part * (1 - share) for part in colors.to_rgb(color))
    return colors.to_hex((red, green, blue))


def lighter(color: str, share: float = 0.45) -> str:
    """Return `color` mixed with white; tells greedy from sampled accuracy.

    >>> lighter("#000000", 0.5)
    '#808080'
    """
    red, green, blue = (part + (1 - part) * share for part in colors.to_rgb(color))
    return colors.to_hex((red, green, blue))


def say_not_run(axes: Axes, text: str, height: float = 0.5) -> None:
    axes.set_facecolor(NOT_RUN_GREY)
    axes.grid(False)
    axes.text(0.5, height, text, transform=axes.transAxes, ha="center", va="center")
