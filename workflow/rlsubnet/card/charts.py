"""The charts of a card: tidy numbers in, SVG out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rlsubnet.card import svg

WIDTH = 760
_LEFT, _RIGHT, _TOP = 58, 14, 12


# What lies over what: "faint" is thin and grey, "main" thick, "over" open marks on top of all.
_LAYERS = {"faint": 0, "": 1, "main": 2, "over": 3}


@dataclass(frozen=True)
class Series:
    """A line of a chart; ``look`` numbers its color and mark, ``points`` are (x, y)."""

    label: str
    points: tuple[tuple[float, float], ...]
    look: int
    kind: str = ""  # one of the keys of _LAYERS

    @property
    def css(self) -> str:
        """Return the class that colors it."""
        return f"look-{self.kind or self.look % 8}"


@dataclass(frozen=True)
class Band:
    """A region between two heights, for what others found: (x, low, high)."""

    label: str
    points: tuple[tuple[float, float, float], ...]


def legend(series: Sequence[Series], band: Band | None = None) -> str:
    """Return the marks of a chart with their names, as a list."""
    items = []
    for one in series:
        sample = svg.line(0, 7, 26, 7, f"line {one.css}") + svg.marker(
            13, 7, one.look, f"mark {one.css}"
        )
        items.append((sample, one.label))
    if band:
        items.append((svg.rectangle(0, 2, 26, 10, "band"), band.label))
    entries = "".join(
        "<li>"
        + svg.element("svg", sample, viewBox="0 0 26 14", class_="key", aria_hidden="true")
        + f"{escape(label)}</li>"
        for sample, label in items
    )
    return f'<ul class="legend">{entries}</ul>'


def _frame(
    bottom: int, y: svg.Scale, y_ticks: Sequence[float], y_unit: str, x_title: str
) -> list[str]:
    """Return grid, tick labels and the title of the x axis."""
    parts = []
    for tick in y_ticks:
        parts.append(svg.line(_LEFT, y(tick), WIDTH - _RIGHT, y(tick), "grid"))
        parts.append(svg.text(_LEFT - 8, y(tick) + 4, f"{tick:g} {y_unit}", anchor="end"))
    parts.append(svg.text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 40, x_title, "axis"))
    return parts


def line_chart(
    title: str,
    series: Sequence[Series],
    x_labels: Mapping[float, str],
    x_title: str,
    y_unit: str = "%",
    band: Band | None = None,
    ceiling: float | None = None,
    height: int = 320,
) -> str:
    """Return lines with marks over labelled places; the y axis spans what there is to see.

    Args:
        title: what the chart shows, for those who do not see it.
        series: the lines; y in the unit of the axis.
        x_labels: place -> label.
        x_title: of the x axis.
        y_unit: follows the numbers of the y axis.
        band: drawn behind the lines.
        ceiling: a bound that the axis does not go beyond, such as 100 %.
        height: of the picture.
    """
    values = [value for one in series for _, value in one.points]
    values += [edge for _, *edges in (band.points if band else ()) for edge in edges]
    ticks = svg.nice_ticks(min(values), max(values))
    ticks = [tick for tick in ticks if ceiling is None or tick <= ceiling]
    bottom = height - 48
    top_value = max(ticks[-1], *values)
    y = svg.linear(min(ticks[0], *values), top_value, bottom, _TOP)
    places = list(x_labels)
    margin = max(0.3, 0.02 * len(places)) if len(places) > 1 else 0.5
    x = svg.linear(places[0] - margin, places[-1] + margin, _LEFT, WIDTH - _RIGHT)
    parts = _frame(bottom, y, ticks, y_unit, x_title)
    every = -(-len(places) // 18)
    for number, (place, label) in enumerate(x_labels.items()):
        if number % every == 0:
            parts.append(svg.text(x(place), bottom + 18, label))
    if band and band.points:
        outline = [(x(place), y(low)) for place, low, _ in band.points]
        outline += [(x(place), y(high)) for place, _, high in reversed(band.points)]
        joined = " ".join(f"{svg.number(a)},{svg.number(b)}" for a, b in outline)
        label = svg.element("title", escape(band.label))
        parts.append(svg.element("polygon", label, points=joined, class_="band"))
    size = 1.0 if len(places) <= 20 else 0.7
    for one in sorted(series, key=lambda one: _LAYERS[one.kind]):
        drawn = [(x(place), y(value)) for place, value in one.points]
        parts.append(svg.polyline(drawn, f"line {one.css}"))
        for (place, value), (a, b) in zip(one.points, drawn, strict=True):
            hint = f"{one.label}, {x_labels[place]}: {value:.4g} {y_unit}"
            parts.append(svg.marker(a, b, one.look, f"mark {one.css}", hint, size))
    return svg.drawing(WIDTH, height, title, parts)


@dataclass(frozen=True)
class DotRow:
    """A row of dots.

    Attributes:
        label: at its left.
        dots: (value, class, hint); classes are ``dot``, ``hollow`` and ``cross``.
        ours: whether it is the pair of the card.
    """

    label: str
    dots: tuple[tuple[float, str, str], ...]
    ours: bool = False


def dot_rows(
    title: str,
    rows: Sequence[DotRow],
    x_title: str,
    low: float,
    high: float,
    region: tuple[float, float, str] | None = None,
) -> str:
    """Return a row of dots per label, joined by a line; what is furthest right is largest.

    Args:
        title: what the chart shows.
        rows: from top to bottom.
        x_title: of the x axis, which is in per cent.
        low, high: its ends.
        region: (from, to, what it stands for), shaded.
    """
    left, step = 236, 25
    bottom = _TOP + step * len(rows) + 4
    ticks = [t for t in svg.nice_ticks(low, high) if low - 1e-9 <= t <= high + 1e-9]
    x = svg.linear(low, high, left + 8, WIDTH - _RIGHT - 8)
    parts = []
    if region:
        start, end, what = region
        parts.append(svg.rectangle(x(start), _TOP, x(end) - x(start), bottom - _TOP, "band", what))
    for tick in ticks:
        parts.append(svg.line(x(tick), _TOP, x(tick), bottom, "grid"))
        parts.append(svg.text(x(tick), bottom + 18, f"{tick:g} %"))
    for number, row in enumerate(rows):
        middle = _TOP + step * (number + 0.5) + 2
        if row.ours:
            parts.append(
                svg.rectangle(0, middle - step / 2, WIDTH - _RIGHT, float(step), "highlight")
            )
        weight = "label ours" if row.ours else "label"
        parts.append(svg.text(left - 8, middle + 4, row.label, weight, "end"))
        places = [x(value) for value, _, _ in row.dots]
        if len(places) > 1:
            parts.append(svg.line(min(places), middle, max(places), middle, "joint"))
        for (_, kind, hint), place in zip(row.dots, places, strict=True):
            shape = 5 if kind == "cross" else 0
            style = f"{kind} ours" if row.ours else kind
            parts.append(svg.marker(place, middle, shape, style, hint))
    parts.append(svg.text((left + WIDTH) / 2, bottom + 42, x_title, "axis"))
    return svg.drawing(WIDTH, bottom + 52, title, parts)


@dataclass(frozen=True)
class Bar:
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
        y = svg.linear(0, most, top + height, top)
        parts.append(svg.text(_LEFT, top - 8, name, "axis", "start"))
        for tick in svg.nice_ticks(0, most, 4):
            if tick <= most:
                parts.append(svg.line(_LEFT, y(tick), WIDTH - _RIGHT, y(tick), "grid"))
                parts.append(svg.text(_LEFT - 8, y(tick) + 4, f"{tick:g} %", anchor="end"))
        for number, bar in enumerate(bars):
            x, tall = _LEFT + number * width, top + height - y(value(bar))
            parts.append(
                svg.rectangle(x + 1, y(value(bar)), max(width - 2, 1.0), tall, css, bar.hint)
            )

    shaded = [number for number, bar in enumerate(bars) if bar.shaded]
    second = _TOP + 16 + height + gap
    if shaded:
        box = (_LEFT + shaded[0] * width, len(shaded) * width)
        for top in (_TOP + 16, second):
            parts.append(svg.rectangle(box[0], top, box[1], float(height), "band"))
    tallest = svg.nice_ticks(0, max(bar.upper for bar in bars), 4)[-1]
    panel(_TOP + 16, names[0], lambda bar: bar.upper, tallest, "bar")
    panel(second, names[1], lambda bar: bar.lower, 100.0, "bar accent")
    bottom = second + height
    every = -(-len(bars) // 7)
    for number, bar in enumerate(bars):
        if number % every == 0:
            parts.append(svg.text(_LEFT + number * width, bottom + 18, bar.label))
    parts.append(svg.text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 42, x_title, "axis"))
    return svg.drawing(WIDTH, bottom + 52, title, parts)


def share_bar(title: str, share: float, label: str) -> str:
    """Return a bar that is filled as far as a share in [0, 1] says."""
    filled = max(WIDTH * min(share, 1.0), 2.0)
    inside = share > 0.3
    parts = [
        svg.rectangle(0, 0, WIDTH, 30, "bar"),
        svg.rectangle(0, 0, filled, 30, "bar accent", label),
        svg.text(
            filled - 8 if inside else filled + 8,
            20,
            label,
            "inside" if inside else "label",
            "end" if inside else "start",
        ),
    ]
    return svg.drawing(WIDTH, 30, title, parts)
