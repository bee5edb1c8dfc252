"""What a benchmark gives back, and how it is printed."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


class Unavailable(Exception):
    """What a benchmark needs and the machine has not, such as a GPU; the message names it."""


@dataclass(frozen=True)
class Figure:
    """One number that was measured several times.

    Attributes:
        what: in words, with the size it was measured at.
        values: one per repetition.
        unit: of the values: ``x`` for ratios, MB, GB/s.
        goal: what the median should reach, None where nothing is promised.
        at_least: whether the goal is a lower bound, else an upper one.
        detail: the two sides of a ratio.
    """

    what: str
    values: tuple[float, ...]
    unit: str = "x"
    goal: float | None = None
    at_least: bool = True
    detail: str = ""

    @property
    def met(self) -> bool:
        """Return whether the median reaches the goal."""
        middle = median(self.values)
        return self.goal is None or (middle >= self.goal if self.at_least else middle <= self.goal)


def spread(values: Sequence[float], unit: str = "") -> str:
    """Return the median and, of several values, their range.

    >>> spread([3.0, 1.0, 2.0], "s")
    '2 s (1 to 3)'
    """
    ranged = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
    return f"{median(values):.3g}{' ' if unit else ''}{unit}{ranged}"


def ratio(
    what: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str,
    names: tuple[str, str],
    goal: float | None = None,
    more_is_better: bool = False,
) -> Figure:
    """Return how many times better ours is, repetition by repetition."""
    pairs = zip(ours, theirs, strict=True)
    values = tuple(a / b if more_is_better else b / a for a, b in pairs)
    detail = f"{names[0]} {spread(ours, unit)}, {names[1]} {spread(theirs, unit)}"
    return Figure(what, values, "x", goal, True, detail)


def line(figure: Figure) -> str:
    """Return a figure as a row of a Markdown table."""
    goal = ""
    if figure.goal is not None:
        bound = "at least" if figure.at_least else "at most"
        goal = f"{bound} {figure.goal:g} {figure.unit}: {'met' if figure.met else '**missed**'}"
    return f"| {figure.what} | {spread(figure.values, figure.unit)} | {goal} | {figure.detail} |"
