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
    with mpl_style.context(["default", STYLE_FILE]):
        yield


def mixed(color: str, other: str, share: float = 0.45) -> str:
    """Return a color mixed with another: dark tells sub from full, light greedy from sampled.

    >>> mixed("#ffffff", "black", 0.5), mixed("#000000", "white", 0.5)
    ('#808080', '#808080')
    """
    both = zip(colors.to_rgb(color), colors.to_rgb(other), strict=True)
    red, green, blue = (one + (two - one) * share for one, two in both)
    return colors.to_hex((red, green, blue))


def say_not_run(axes: Axes, text: str, height: float = 0.5) -> None:
    axes.set_facecolor(NOT_RUN_GREY)
    axes.grid(False)
    axes.text(0.5, height, text, transform=axes.transAxes, ha="center", va="center")
