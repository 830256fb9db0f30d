"""Charts as SVG text: lines over a number, and values with their intervals. Colours come from the page's style."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from wenlu.metrics.significance import Interval

NUM_COLOURS = 6
_MAX_POINTS = 300
_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 30, 44


@dataclass(frozen=True)
class Line:
    """A named curve of (x, y) points."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Curves over one horizontal axis."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, if it has one."""

    name: str
    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Estimates:
    """Values of one unit, one under the other."""

    title: str
    unit: str
    values: Sequence[Estimate]


def line_chart(chart: Chart) -> str:
    """The chart as an SVG element; points that are not finite are left out, long curves thinned by means."""
    lines = [Line(line.name, thinned(line.points)) for line in chart.lines]
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = ticks(*_visible_range(lines))
    x_scale = _Scale(x_ticks[0], x_ticks[-1], _LEFT, _WIDTH - _RIGHT)
    y_scale = _Scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_open(chart.title, _HEIGHT)]
    for tick in y_ticks:
        y = y_scale(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text("tick", _LEFT - 8, y + 4, number(tick), anchor="end"))
    parts += [_text("tick", x_scale(tick), _HEIGHT - _BOTTOM + 18, number(tick)) for tick in x_ticks]
    base, middle = _HEIGHT - _BOTTOM, (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(_text("label", middle, _HEIGHT - 6, chart.x_label))
    parts.append(_text("label", 0, 14, chart.y_label, anchor="start"))
    for index, line in ((index, line) for index, line in enumerate(lines) if line.points):
        path = " ".join(f"{x_scale(x)},{y_scale(min(max(y, y_ticks[0]), y_ticks[-1]))}" for x, y in line.points)
        colour = f"line-{index % NUM_COLOURS}"
        if len(line.points) == 1:
            left, top = path.split(",")
            parts.append(f'<circle class="mark {colour}" cx="{left}" cy="{top}" r="4"/>')
        else:
            parts.append(f'<polyline class="curve {colour}" points="{path}"/>')
    parts.append("</svg>")
    return _scrolled(parts) + _legend(lines)


def interval_chart(chart: Estimates) -> str:
    """The values as dots on lines that span their intervals, as an SVG element."""
    values = [estimate for estimate in chart.values if math.isfinite(estimate.value)]
    if not values:
        return ""
    intervals = [estimate.interval for estimate in values if estimate.interval is not None]
    bounds = [*(one.value for one in values), *(bound for one in intervals for bound in (one.low, one.high))]
    left = min(300, 24 + 8 * max(_columns(estimate.name) for estimate in values))
    top, height = 8, 40 * len(values) + _BOTTOM + 8
    x_ticks = ticks(min(bounds), max(bounds))
    scale = _Scale(x_ticks[0], x_ticks[-1], left, _WIDTH - 64)
    parts = [_open(chart.title, height)]
    for tick in x_ticks:
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{height - _BOTTOM}"/>')
        parts.append(_text("tick", x, height - _BOTTOM + 18, number(tick)))
    parts.append(_text("label", (left + _WIDTH - 64) / 2, height - 6, chart.unit))
    for index, estimate in enumerate(values):
        y = top + 40 * index + 20
        colour = f"line-{index % NUM_COLOURS}"
        parts.append(_text("name", left - 12, y + 4, estimate.name, anchor="end"))
        end = scale(estimate.value)
        if estimate.interval is not None:
            low, end = scale(estimate.interval.low), scale(estimate.interval.high)
            parts.append(f'<line class="curve {colour}" x1="{low}" x2="{end}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="mark {colour}" cx="{scale(estimate.value)}" cy="{y}" r="5"/>')
        beside = max(end, scale(estimate.value)) + 10
        parts.append(_text("value", beside, y + 4, f"{estimate.value:.3f}", anchor="start"))
    parts.append("</svg>")
    return _scrolled(parts)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``_MAX_POINTS`` finite points: means of equally many neighbours."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = math.ceil(len(finite) / _MAX_POINTS)
    if size <= 1:
        return finite
    groups = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [
        (math.fsum(x for x, _ in group) / len(group), math.fsum(y for _, y in group) / len(group)) for group in groups
    ]


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers 1, 2 or 5 times a power of ten apart that enclose the range."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's number, short: 1200000 is 1.2M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (limit if suffix != 'k' else 1e3):.4g}{suffix}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Scale:
    """A linear map from values to pixels, rounded to a tenth."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.end - self.start), 1)


def _visible_range(lines: Sequence[Line]) -> tuple[float, float]:
    """The range of the curves without the first steep fall: up to the greatest value after a tenth of each curve."""
    late = [y for line in lines for _, y in line.points[len(line.points) // 50 :]]
    return min(late), max(late)


def _columns(name: str) -> int:
    """How wide a name is, Chinese characters counting twice."""
    return sum(2 if ord(character) > 0x2E7F else 1 for character in name)


def _text(kind: str, x: float, y: float, words: str, *, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(words)}</text>'


def _open(title: str, height: int) -> str:
    name = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{name}"><title>{name}</title>'


def _scrolled(parts: Sequence[str]) -> str:
    """On a narrow screen a chart is scrolled, so that its letters stay readable."""
    return f'<div class="scroll">{"".join(parts)}</div>'


def _legend(lines: Sequence[Line]) -> str:
    """The names of the curves; one without points keeps its colour, so that colours mean the same in all charts."""
    entries = (
        '<li><svg viewBox="0 0 20 10" aria-hidden="true">'
        f'<line class="curve line-{index % NUM_COLOURS}" x1="1" x2="19" y1="5" y2="5"/></svg>'
        f"{html.escape(line.name)}</li>"
        for index, line in enumerate(lines)
        if line.points
    )
    return f'<ul class="legend">{"".join(entries)}</ul>'
