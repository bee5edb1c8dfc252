"""The charts of a card: tidy numbers in, SVG out that sits in a page.

Colors are CSS variables of the page, so that a chart follows it into the dark and onto paper. Every
mark carries a title, which browsers show as a tooltip and read aloud.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

Scale = Callable[[float], float]
Point = tuple[float, float]


def coordinate(value: float) -> str:
    """Return a coordinate, short.

    >>> coordinate(12.0), coordinate(1 / 3)
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
    plain = {k: coordinate(v) if isinstance(v, float) else str(v) for k, v in attributes.items()}
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in plain.items()
    )
    return f"<{tag}{written}>{content}</{tag}>"


def text(x: float, y: float, words: str, class_: str = "tick", anchor: str = "middle") -> str:
    return element("text", escape(words), x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def tooltip(title: str) -> str:
    return element("title", escape(title)) if title else ""


def rectangle(x: float, y: float, width: float, height: float, class_: str, title: str = "") -> str:
    return element("rect", tooltip(title), x=x, y=y, width=width, height=height, class_=class_)


def through(tag: str, points: Iterable[Point], class_: str, title: str = "") -> str:
    """Return a ``polyline`` or ``polygon``."""
    joined = " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in points)
    return element(tag, tooltip(title), points=joined, class_=class_)


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
    place = f"translate({coordinate(x)} {coordinate(y)}) scale({coordinate(size)})"
    path = element("path", tooltip(title), d=_SHAPES[shape % len(_SHAPES)], class_=class_)
    return element("g", path, transform=place)


def drawing(width: int, height: int, title: str, content: Sequence[str]) -> str:
    """Return a chart as an image with a name, which a screen reader reads."""
    box, lines = f"0 0 {width} {height}", "\n".join(content)
    return element("svg", lines, viewBox=box, role="img", aria_label=title, class_="chart")


WIDTH = 760
_LEFT, _RIGHT, _TOP = 58, 14, 12


def y_axis(ticks: Iterable[float], y: Scale) -> Iterator[str]:
    for tick in ticks:
        yield line(_LEFT, y(tick), WIDTH - _RIGHT, y(tick), "grid")
        yield text(_LEFT - 8, y(tick) + 4, f"{tick:g} %", anchor="end")


def x_labels(at: Iterable[tuple[float, str]], y: float, most: int) -> list[str]:
    """Return labels below their places, not all where there are more than ``most``."""
    labels = [text(x, y, label) for x, label in at]
    return labels[:: -(-len(labels) // most)]


# What lies over what: "faint" is thin and grey, "main" thick, "over" open marks on top of all.
_LAYERS = {"faint": 0, "": 1, "main": 2, "over": 3}


class Series(NamedTuple):
    """A line of a chart; ``look`` numbers its color and mark."""

    label: str
    points: tuple[Point, ...]
    look: int
    kind: str = ""  # one of the keys of _LAYERS

    @property
    def css(self) -> str:
        return f"look-{self.kind or self.look % 8}"


class Band(NamedTuple):
    """A region between two heights, for what others found: (x, low, high)."""

    label: str
    points: tuple[tuple[float, float, float], ...]


def legend(series: Sequence[Series], band: Band | None = None) -> str:
    items = []
    for one in series:
        sample = line(0, 7, 26, 7, f"line {one.css}") + marker(13, 7, one.look, f"mark {one.css}")
        items.append((sample, one.label))
    if band:
        items.append((rectangle(0, 2, 26, 10, "band"), band.label))
    box: dict[str, object] = {"viewBox": "0 0 26 14", "class_": "key", "aria_hidden": "true"}
    entries = [element("li", element("svg", key, **box) + escape(label)) for key, label in items]
    return element("ul", "".join(entries), class_="legend")


def line_chart(
    title: str,
    series: Sequence[Series],
    labels: Mapping[float, str],
    x_title: str,
    band: Band | None = None,
    ceiling: float = math.inf,
    height: int = 320,
) -> str:
    """Return lines with marks over labelled places, in per cent.

    The y axis spans what there is to see, but does not go beyond ``ceiling``. The band is drawn
    behind the lines; the title is read to those who do not see the chart.
    """
    values = [value for one in series for _, value in one.points]
    values += [edge for _, *edges in (band.points if band else ()) for edge in edges]
    ticks = [tick for tick in nice_ticks(min(values), max(values)) if tick <= ceiling]
    bottom = height - 48
    y = linear(min(ticks[0], *values), max(ticks[-1], *values), bottom, _TOP)
    places = list(labels)
    margin = max(0.3, 0.02 * len(places)) if len(places) > 1 else 0.5
    x = linear(places[0] - margin, places[-1] + margin, _LEFT, WIDTH - _RIGHT)
    parts = [
        *y_axis(ticks, y),
        text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 40, x_title, "axis"),
        *x_labels(((x(place), label) for place, label in labels.items()), bottom + 18, 18),
    ]
    if band:
        outline = [(x(place), y(low)) for place, low, _ in band.points]
        outline += [(x(place), y(high)) for place, _, high in reversed(band.points)]
        parts.append(through("polygon", outline, "band", band.label))
    size = 1.0 if len(places) <= 20 else 0.7
    for one in sorted(series, key=lambda one: _LAYERS[one.kind]):
        drawn = [(x(place), y(value)) for place, value in one.points]
        parts.append(through("polyline", drawn, f"line {one.css}"))
        for (place, value), (a, b) in zip(one.points, drawn, strict=True):
            hint = f"{one.label}, {labels[place]}: {value:.4g} %"
            parts.append(marker(a, b, one.look, f"mark {one.css}", hint, size))
    return drawing(WIDTH, height, title, parts)


class DotRow(NamedTuple):
    """A row of dots."""

    label: str
    dots: tuple[tuple[float, str, str], ...]  # (value, ``dot``, ``hollow`` or ``cross``, hint)
    ours: bool = False  # whether it is the pair of the card


def dot_rows(
    title: str,
    rows: Sequence[DotRow],
    x_title: str,
    low: float,
    high: float,
    region: tuple[float, float, str] | None = None,
) -> str:
    """Return a row of dots per label, joined by a line, in per cent from low to high.

    A region (from, to, what it stands for) is shaded.
    """
    left, step = 236, 25
    bottom = _TOP + step * len(rows) + 4
    ticks = [t for t in nice_ticks(low, high) if low - 1e-9 <= t <= high + 1e-9]
    x = linear(low, high, left + 8, WIDTH - _RIGHT - 8)
    parts = []
    if region:
        start, end, what = region
        parts.append(rectangle(x(start), _TOP, x(end) - x(start), bottom - _TOP, "band", what))
    for tick in ticks:
        parts.append(line(x(tick), _TOP, x(tick), bottom, "grid"))
        parts.append(text(x(tick), bottom + 18, f"{tick:g} %"))
    for number, row in enumerate(rows):
        middle = _TOP + step * (number + 0.5) + 2
        if row.ours:
            parts.append(rectangle(0, middle - step / 2, WIDTH - _RIGHT, float(step), "highlight"))
        ours = " ours" if row.ours else ""
        parts.append(text(left - 8, middle + 4, row.label, f"label{ours}", "end"))
        places = [x(value) for value, _, _ in row.dots]
        if len(places) > 1:
            parts.append(line(min(places), middle, max(places), middle, "joint"))
        for (_, kind, hint), place in zip(row.dots, places, strict=True):
            shape = 5 if kind == "cross" else 0
            parts.append(marker(place, middle, shape, f"{kind}{ours}", hint))
    parts.append(text((left + WIDTH) / 2, bottom + 42, x_title, "axis"))
    return drawing(WIDTH, bottom + 52, title, parts)


class Bar(NamedTuple):
    """A bin: its label, the two heights in per cent, and whether it is shaded."""

    label: str
    upper: float
    lower: float
    hint: str
    shaded: bool


def bar_panels(title: str, bars: Sequence[Bar], names: tuple[str, str], x_title: str) -> str:
    """Return two rows of bars over the same bins, the lower one from 0 to 100 %."""
    height, gap = 130, 34
    width = (WIDTH - _RIGHT - _LEFT) / len(bars)
    parts: list[str] = []

    def panel(top: int, name: str, value: Callable[[Bar], float], most: float, css: str) -> None:
        y = linear(0, most, top + height, top)
        parts.append(text(_LEFT, top - 8, name, "axis", "start"))
        parts.extend(y_axis((tick for tick in nice_ticks(0, most, 4) if tick <= most), y))
        for number, bar in enumerate(bars):
            x, tall = _LEFT + number * width, top + height - y(value(bar))
            parts.append(rectangle(x + 1, y(value(bar)), max(width - 2, 1.0), tall, css, bar.hint))

    shaded = [number for number, bar in enumerate(bars) if bar.shaded]
    second = _TOP + 16 + height + gap
    for top in (_TOP + 16, second) if shaded else ():
        start, wide = _LEFT + shaded[0] * width, len(shaded) * width
        parts.append(rectangle(start, top, wide, float(height), "band"))
    tallest = nice_ticks(0, max(bar.upper for bar in bars), 4)[-1]
    panel(_TOP + 16, names[0], lambda bar: bar.upper, tallest, "bar")
    panel(second, names[1], lambda bar: bar.lower, 100.0, "bar accent")
    bottom = second + height
    edges = ((_LEFT + number * width, bar.label) for number, bar in enumerate(bars))
    parts.extend(x_labels(edges, bottom + 18, 7))
    parts.append(text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 42, x_title, "axis"))
    return drawing(WIDTH, bottom + 52, title, parts)


def share_bar(title: str, share: float, label: str) -> str:
    """Return a bar that is filled as far as a share in [0, 1] says."""
    filled = max(WIDTH * min(share, 1.0), 2.0)
    place, *look = (filled - 8, "inside", "end") if share > 0.3 else (filled + 8, "label", "start")
    bars = [rectangle(0, 0, WIDTH, 30, "bar"), rectangle(0, 0, filled, 30, "bar accent", label)]
    return drawing(WIDTH, 30, title, [*bars, text(place, 20, label, *look)])
