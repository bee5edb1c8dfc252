"""Drawing in SVG that sits in a page: scales, marks, and the frame of a chart.

Colors are CSS variables of the page, so that a chart follows it into the dark and onto paper. Every
mark carries a title, which browsers show as a tooltip and read aloud.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

Scale = Callable[[float], float]


def number(value: float) -> str:
    """Return a coordinate, short.

    >>> number(12.0), number(1 / 3)
    ('12', '0.33')
    """
    return f"{value:.2f}".rstrip("0").rstrip(".")


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Return the map that takes [low, high] to [start, end].

    >>> linear(0, 100, 0, 50)(20)
    10.0
    """
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers from at or below ``low`` to at or above ``high``.

    >>> nice_ticks(62.1, 97.3)
    [60.0, 70.0, 80.0, 90.0, 100.0]
    >>> nice_ticks(99.2, 100)
    [99.2, 99.4, 99.6, 99.8, 100.0]
    """
    span = max(high - low, 1e-9)
    size = 10.0 ** math.floor(math.log10(span))
    steps = [factor * size for factor in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
    step = next(s for s in steps if math.ceil(high / s - 1e-6) - math.floor(low / s + 1e-6) < most)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [round(step * place, 10) for place in range(first, last + 1)]


def element(tag: str, content: str = "", **attributes: object) -> str:
    """Return an element; ``_`` in a name stands for ``-``, a trailing one for nothing.

    >>> element("text", "a < b", x=1, text_anchor="end", class_="tick")
    '<text x="1" text-anchor="end" class="tick">a < b</text>'
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{written}>{content}</{tag}>"


def _plain(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def text(x: float, y: float, words: str, class_: str = "tick", anchor: str = "middle") -> str:
    """Return words at a place."""
    return element("text", escape(words), x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rectangle(x: float, y: float, width: float, height: float, class_: str, title: str = "") -> str:
    """Return a box; what it stands for appears when one points at it."""
    inside = element("title", escape(title)) if title else ""
    return element("rect", inside, x=x, y=y, width=width, height=height, class_=class_)


def polyline(points: Iterable[tuple[float, float]], class_: str) -> str:
    """Return a line through points."""
    joined = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return element("polyline", points=joined, class_=class_)


# Outlines around (0, 0), about as large as each other.
_SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M-3.6,-3.6h7.2v7.2h-7.2z",
    "M0,-4.6L4.4,3.4H-4.4z",
    "M0,-5L5,0L0,5L-5,0z",
    "M0,4.6L4.4,-3.4H-4.4z",
    "M-4.5,-1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3z",
    "M-2.5,-4.6h5l2.2,4.6l-2.2,4.6h-5l-2.2,-4.6z",
    "M-4,-4L4,-4L-4,4L4,4z",
)


def marker(x: float, y: float, shape: int, class_: str, title: str = "", size: float = 1.0) -> str:
    """Return one of the shapes at a place."""
    inside = element("title", escape(title)) if title else ""
    place = f"translate({number(x)} {number(y)}) scale({number(size)})"
    path = element("path", inside, d=_SHAPES[shape % len(_SHAPES)], class_=class_)
    return element("g", path, transform=place)


def drawing(width: int, height: int, title: str, content: Sequence[str]) -> str:
    """Return a chart as an image with a name, which a screen reader reads."""
    return element(
        "svg",
        "\n".join(content),
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
        class_="chart",
    )
