"""SVG charts: curves with interval bands, bars, and the intervals in table cells.

Colors and dashes come from classes of the page's style sheet. Each curve also has its own marker
and label, so color is never the only distinction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from eef.report.html import Html, join, tag

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 40, 76, 14, 40
LINE_HEIGHT = 15.0
"""Least distance between two labels."""

Form = Callable[[float], str]
"""Writes a value as a tooltip."""


def _rate(value: float) -> str:
    return f"{100 * value:.1f} %"


def _count(value: float) -> str:
    return f"{value:.2f}"


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its interval, at `x`."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A method's points from left to right; `style` is the class of its color and marker."""

    label: str
    style: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """A constant value: a line across the chart, with a marker at x = `at` if `at` is given."""

    label: str
    style: str
    value: float
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from data in [low, high] to pixels `start` … `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start), 2)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that span [low, high].

    The step is 1, 2 or 5 times a power of ten.

    >>> nice_ticks(0.31, 0.58)
    [0.3, 0.4, 0.5, 0.6]
    """
    rough = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min(
        (factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999),
        default=10 * power,
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(position * step, 10) for position in range(first, max(last, first + 1) + 1)]


def line_chart(
    curves: Sequence[Curve], levels: Sequence[Level], *, title: str, x_title: str, whole_x: bool
) -> Html:
    """Rates over x, with a band for each curve's intervals.

    `whole_x` puts a tick at each whole number (rounds).
    """
    points = [point for curve in curves for point in curve.points]
    y = _rate_scale(
        [*(p.low for p in points), *(p.high for p in points), *(level.value for level in levels)]
    )
    right = max((point.x for point in points), default=1.0) or 1.0
    x_ticks = (
        [float(tick) for tick in range(int(right) + 1)] if whole_x else nice_ticks(0, right, 4)
    )
    x = Scale(0.0, max(right, x_ticks[-1]), LEFT, WIDTH - RIGHT)
    drawn = [
        _axes(x, y, x_ticks, x_title),
        *(_level(level, y) for level in levels),
        *(_band(curve, x, y) for curve in curves),
        *(_curve(curve, x, y) for curve in curves),
        *(
            _dot(level.label, level.style, x(level.at), y(level.value), level.value)
            for level in levels
            if level.at is not None
        ),
        _labels(curves, levels, y),
    ]
    return _svg(title, drawn, HEIGHT)


def count_chart(curves: Sequence[Curve], *, title: str) -> Html:
    """Numbers from zero over rounds."""
    values = [point.value for curve in curves for point in curve.points]
    ticks = nice_ticks(0.0, max(values, default=1.0) or 1.0, 4)
    y = Scale(0.0, ticks[-1], HEIGHT - BOTTOM, TOP)
    rounds = max((point.x for curve in curves for point in curve.points), default=0.0)
    x_ticks = [float(tick) for tick in range(int(rounds) + 1)]
    x = Scale(0.0, rounds or 1.0, LEFT, WIDTH - RIGHT)
    drawn = [
        _grid(x, y, x_ticks, [(tick, f"{tick:g}") for tick in ticks], "round"),
        *(_curve(curve, x, y, _count) for curve in curves),
        _labels(curves, (), y),
    ]
    return _svg(title, drawn, HEIGHT)


def bar_chart(bars: Sequence[tuple[str, str, float]], *, title: str) -> Html:
    """Horizontal bars from zero, one per (label, style, value ≥ 0), with their values."""
    row, start, end = 24, 120, WIDTH - 44
    x = Scale(0.0, max((value for _, _, value in bars), default=0.0) or 1.0, start, end)
    drawn = []
    for index, (label, style, value) in enumerate(bars):
        top = row * index
        drawn += [
            tag("text", label, x=start - 8, y=top + 16, class_="tick end"),
            tag(
                "rect",
                x=start,
                y=top + 4,
                width=round(x(value) - start, 2),
                height=row - 8,
                class_=f"bar {style}",
            ),
            tag("text", f"{value:.2f}", x=x(value) + 6, y=top + 16, class_="tick"),
        ]
    return _svg(title, drawn, row * max(1, len(bars)))


def _svg(title: str, drawn: Sequence[Html], height: int) -> Html:
    """A chart of the page's width, with its title for screen readers."""
    return tag(
        "svg",
        tag("title", title),
        *drawn,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=title,
        class_="chart",
    )


def marker(style: str, x: float, y: float, size: float = 4.5) -> Html:
    """The marker of a method, selected by the last letter of its class.

    a: circle, b: square, c: triangle, d: diamond, e: triangle that points down.
    """
    shapes = {
        "a": f"M{x - size},{y} a{size},{size} 0 1,0 {2 * size},0 "
        f"a{size},{size} 0 1,0 {-2 * size},0",
        "b": f"M{x - size},{y - size} h{2 * size} v{2 * size} h{-2 * size} z",
        "c": f"M{x},{y - size * 1.2} L{x + size * 1.2},{y + size} H{x - size * 1.2} z",
        "d": f"M{x},{y - size * 1.35} L{x + size * 1.35},{y} L{x},{y + size * 1.35} "
        f"L{x - size * 1.35},{y} z",
        "e": f"M{x - size * 1.2},{y - size} H{x + size * 1.2} L{x},{y + size * 1.2} z",
    }
    return tag("path", d=shapes[style[-1]], class_=f"marker {style}")


def swatch(style: str) -> Html:
    """The marker of a method beside its name in a table."""
    return tag("svg", marker(style, 7, 7), viewBox="0 0 14 14", class_="swatch", aria_hidden="true")


def whisker(point: Point, style: str, low: float, high: float) -> Html:
    """An interval as a line with the value's marker on it, on a scale from `low` to `high`."""
    x = Scale(low, high, 8, 152)
    return tag(
        "svg",
        tag("line", x1=8, x2=152, y1=9, y2=9, class_="rule"),
        tag("line", x1=x(point.low), x2=x(point.high), y1=9, y2=9, class_=f"whisker {style}"),
        *(
            tag("line", x1=x(end), x2=x(end), y1=5, y2=13, class_=f"whisker {style}")
            for end in (point.low, point.high)
        ),
        marker(style, x(point.value), 9, 4.2),
        viewBox="0 0 160 18",
        class_="interval",
        aria_hidden="true",
    )


def difference_whisker(value: float, low: float, high: float, reach: float) -> Html:
    """A difference with its interval around a line at zero, on a scale from -reach to reach."""
    x = Scale(-reach, reach, 8, 152)
    sure = "sure" if low > 0 or high < 0 else "unsure"
    return tag(
        "svg",
        tag("line", x1=x(0), x2=x(0), y1=0, y2=18, class_="zero"),
        tag("line", x1=x(low), x2=x(high), y1=9, y2=9, class_=f"whisker {sure}"),
        tag("circle", cx=x(value), cy=9, r=4, class_=f"dot {sure}"),
        viewBox="0 0 160 18",
        class_="interval",
        aria_hidden="true",
    )


_LEAST_RANGE = 1e-6


def _rate_scale(values: Iterable[float]) -> Scale:
    """The y axis: round percentages that span all values."""
    known = [*values] or [0.0, 1.0]
    ticks = nice_ticks(max(0.0, min(known)), min(1.0, max(known)))
    low, high = max(0.0, ticks[0]), min(1.0, ticks[-1])
    if high - low < _LEAST_RANGE:  # all rates are equal
        low, high = max(0.0, low - 0.1), min(1.0, low + 0.1)
    return Scale(low, high, HEIGHT - BOTTOM, TOP)


def _axes(x: Scale, y: Scale, x_ticks: Sequence[float], x_title: str) -> Html:
    """Axes of rates in percent."""
    ticks = [tick for tick in nice_ticks(y.low, y.high) if y.low <= tick <= y.high]
    return _grid(x, y, x_ticks, [(tick, f"{100 * tick:g}") for tick in ticks], x_title)


def _grid(
    x: Scale,
    y: Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[tuple[float, str]],
    x_title: str,
) -> Html:
    """Horizontal lines with their labels, and the labels below the chart."""
    return join(
        [
            *(
                tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="grid")
                for tick, _ in y_ticks
            ),
            *(
                tag("text", label, x=LEFT - 8, y=y(tick) + 4, class_="tick end")
                for tick, label in y_ticks
            ),
            *(
                tag(
                    "text",
                    _tick_label(tick),
                    x=x(tick),
                    y=HEIGHT - BOTTOM + 17,
                    class_="tick middle",
                )
                for tick in x_ticks
            ),
            tag("text", x_title, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 5, class_="tick middle"),
        ]
    )


def _tick_label(tick: float) -> str:
    return f"{tick:,.0f}" if tick == round(tick) else f"{tick:g}"


def _level(level: Level, y: Scale) -> Html:
    at = y(level.value)
    return tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_=f"level {level.style}")


def _band(curve: Curve, x: Scale, y: Scale) -> Html:
    upper = [f"{x(point.x)},{y(point.high)}" for point in curve.points]
    lower = [f"{x(point.x)},{y(point.low)}" for point in reversed(curve.points)]
    return tag("polygon", points=" ".join(upper + lower), class_=f"band {curve.style}")


def _curve(curve: Curve, x: Scale, y: Scale, form: Form = _rate) -> Html:
    line = " ".join(f"{x(point.x)},{y(point.value)}" for point in curve.points)
    dots = [
        _dot(curve.label, curve.style, x(point.x), y(point.value), point.value, form)
        for point in curve.points
    ]
    return join([tag("polyline", points=line, class_=f"line {curve.style}"), *dots])


def _dot(label: str, style: str, x: float, y: float, value: float, form: Form = _rate) -> Html:
    """A marker with its value as a tooltip."""
    return tag("g", tag("title", f"{label}: {form(value)}"), marker(style, x, y))


def _labels(curves: Sequence[Curve], levels: Sequence[Level], y: Scale) -> Html:
    """Names at the right end, each beside its line, without overlap and above the axis."""
    wanted = [
        (y(curve.points[-1].value), curve.label, curve.style) for curve in curves if curve.points
    ]
    wanted += [(y(level.value), level.label, level.style) for level in levels]
    wanted.sort()
    room = [HEIGHT - BOTTOM - LINE_HEIGHT * below for below in reversed(range(len(wanted)))]
    heights = map(min, spread([at for at, _, _ in wanted], LINE_HEIGHT), room)
    return join(
        tag("text", label, x=WIDTH - RIGHT + 10, y=height + 4, class_=f"label {style}")
        for height, (_, label, style) in zip(heights, wanted, strict=True)
    )


def spread(positions: Sequence[float], distance: float) -> list[float]:
    """Positions in rising order, moved as little as needed to be `distance` apart.

    >>> spread([10, 11, 40], 10)
    [5.5, 15.5, 40.0]
    """
    groups: list[tuple[float, int]] = []  # center and size of each cluster
    for position in positions:
        middle, size = float(position), 1
        while groups and middle - groups[-1][0] < distance * (size + groups[-1][1]) / 2:
            other, count = groups.pop()
            middle, size = (middle * size + other * count) / (size + count), size + count
        groups.append((middle, size))
    return [
        middle + distance * (index - (size - 1) / 2)
        for middle, size in groups
        for index in range(size)
    ]
