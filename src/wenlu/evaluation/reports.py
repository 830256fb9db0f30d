"""A report for the browser: one HTML file that loads nothing, runs nothing, and reads well in light and in dark.

Whoever reports puts together a page from the parts below, in the reader's language; ``render`` escapes every text. The
page forbids itself all scripts and all connections by a content security policy, which allows its own style sheet by
its digest. Charts are SVG text: lines over a number, and values with their intervals; colours come from the style.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import NamedTuple

from wenlu.core.messages import language
from wenlu.metrics.significance import Interval

NUM_COLOURS = 6
_MAX_POINTS = 300
_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, _WIDTH - 16, 30, 44

Points = Sequence[tuple[float, float]]


class Line(NamedTuple):
    """A named curve of (x, y) points."""

    name: str
    points: Points


@dataclass(frozen=True)
class Chart:
    """Curves over one horizontal axis."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]


class Estimate(NamedTuple):
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


@dataclass(frozen=True)
class Table:
    """Rows under column names; cells that look like numbers stand to the right. ``note`` is a line below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Sample(NamedTuple):
    """A text that a model wrote: where it comes from, the prompt, and its continuation."""

    name: str
    prompt: str
    text: str


@dataclass(frozen=True)
class Samples:
    """Texts under one title."""

    title: str
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Settings:
    """Names and values, folded until they are wanted."""

    title: str
    values: Mapping[str, object]


Section = Table | Chart | Estimates | Samples | Settings


def render(title: str, summary: str, sections: Sequence[Section], footer: str = "") -> str:
    """The page as text, to be written as UTF-8.

    ``summary`` is a line about what it shows, ``footer`` a closing one (definitions, versions).
    """
    style = (resources.files(__package__) / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title, code = escape(title), "zh-Hans" if language() == "zh" else "en"
    return (
        f'<!doctype html>\n<html lang="{code}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{title}</title>\n<style>{style}</style>\n</head>\n'
        f'<body>\n<main>\n<header>\n<h1>{title}</h1>\n<p class="summary">{escape(summary)}</p>\n</header>\n'
        f"{''.join(map(_section, sections))}<footer>{escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    title = escape(section.title)
    match section:
        case Table():
            body = _table(section)
        case Chart():
            body = line_chart(section)
        case Estimates():
            body = interval_chart(section)
        case Samples():
            body = "".join(
                f'<figure><figcaption>{escape(name)}</figcaption><p class="sample">'
                f"<b>{escape(prompt)}</b>{escape(text)}</p></figure>"
                for name, prompt, text in section.samples
            )
        case Settings():
            cells = [f"<td>{escape(name)}</td><td>{escape(str(value))}</td>" for name, value in section.values.items()]
            return f"<details><summary>{title}</summary>{_rows(cells)}</details>\n"
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>\n" if body else ""


def _table(table: Table) -> str:
    numeric = [all(map(_is_number, cells)) for cells in zip(*table.rows, strict=True)] or [False] * len(table.columns)
    head = "".join(_cell("th", *cell) for cell in zip(table.columns, numeric, strict=True))
    rows = ["".join(_cell("td", *cell) for cell in zip(row, numeric, strict=True)) for row in table.rows]
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return _rows(rows, head=f"<thead><tr>{head}</tr></thead>") + note


def _rows(rows: Sequence[str], head: str = "") -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _cell(tag: str, value: str, right: bool) -> str:
    return f"<{tag}{' class=number' if right else ''}>{escape(value)}</{tag}>"


def _is_number(cell: str) -> bool:
    """Whether a cell is made of numbers, signs and units only: no letter but those of a short suffix."""
    return sum(character.isalpha() for character in cell) <= 1


def line_chart(chart: Chart) -> str:
    """The chart as an SVG element; points that are not finite are left out, long curves thinned by means."""
    lines = [Line(name, thinned(points)) for name, points in chart.lines]
    columns = [x for line in lines for x, _ in line.points]
    if not columns:
        return ""
    base, middle = _HEIGHT - _BOTTOM, (_LEFT + _RIGHT) / 2
    late = [y for line in lines for _, y in line.points[len(line.points) // 50 :]]
    x_ticks, y_ticks = ticks(min(columns), max(columns)), ticks(min(late), max(late))  # without the first steep fall
    x_scale, y_scale = _scale(x_ticks, _LEFT, _RIGHT), _scale(y_ticks, base, _TOP)
    parts = []
    for tick in y_ticks:
        y = y_scale(tick)
        parts += [_line("grid", _LEFT, _RIGHT, y, y), _text("tick", _LEFT - 8, y + 4, number(tick), anchor="end")]
    parts += [_text("tick", x_scale(tick), base + 18, number(tick)) for tick in x_ticks]
    parts += [_line("axis", _LEFT, _RIGHT, base, base), _text("label", middle, _HEIGHT - 6, chart.x_label)]
    parts.append(_text("label", 0, 14, chart.y_label, anchor="start"))
    for index, (_, points) in enumerate(lines):
        places = [(x_scale(x), y_scale(min(max(y, y_ticks[0]), y_ticks[-1]))) for x, y in points]
        if len(places) == 1:
            parts.append(_dot(index, *places[0], radius=4))
        elif places:
            path = " ".join(f"{x},{y}" for x, y in places)
            parts.append(f'<polyline class="curve {_colour(index)}" points="{path}"/>')
    return _svg(chart.title, _HEIGHT, parts) + _legend(lines)


def interval_chart(chart: Estimates) -> str:
    """The values as dots on lines that span their intervals, as an SVG element."""
    values = [estimate for estimate in chart.values if math.isfinite(estimate.value)]
    if not values:
        return ""
    bounds = [bound for _, value, one in values for bound in ((value, one.low, one.high) if one else (value,))]
    left = min(300, 24 + 8 * max(_columns(estimate.name) for estimate in values))
    top, right, base = 8, _WIDTH - 64, 40 * len(values) + 8
    x_ticks = ticks(min(bounds), max(bounds))
    scale = _scale(x_ticks, left, right)
    parts = []
    for tick in x_ticks:
        x = scale(tick)
        parts += [_line("grid", x, x, top, base), _text("tick", x, base + 18, number(tick))]
    parts.append(_text("label", (left + right) / 2, base + _BOTTOM - 6, chart.unit))
    for index, (name, value, interval) in enumerate(values):
        y, end = top + 40 * index + 20, scale(value)
        parts.append(_text("name", left - 12, y + 4, name, anchor="end"))
        if interval is not None:
            end = scale(interval.high)
            parts.append(_line(f"curve {_colour(index)}", scale(interval.low), end, y, y))
        parts.append(_dot(index, scale(value), y, radius=5))
        parts.append(_text("value", max(end, scale(value)) + 10, y + 4, f"{value:.3f}", anchor="start"))
    return _svg(chart.title, base + _BOTTOM, parts)


def thinned(points: Points) -> Points:
    """At most ``_MAX_POINTS`` finite points: means of equally many neighbours."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = math.ceil(len(finite) / _MAX_POINTS)
    if size <= 1:
        return finite
    groups = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [(math.fsum(x for x, _ in one) / len(one), math.fsum(y for _, y in one) / len(one)) for one in groups]


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


def _scale(ticks: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """A linear map from the range of the ticks to pixels, rounded to a tenth."""
    low, width = ticks[0], (ticks[-1] - ticks[0]) or 1.0  # values that differ by a rounding have one tick
    return lambda value: round(start + (value - low) / width * (end - start), 1)


def _columns(name: str) -> int:
    """How wide a name is, Chinese characters counting twice."""
    return sum(2 if ord(character) > 0x2E7F else 1 for character in name)


def _text(kind: str, x: float, y: float, words: str, *, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(kind: str, left: float, right: float, top: float, bottom: float) -> str:
    return f'<line class="{kind}" x1="{left}" x2="{right}" y1="{top}" y2="{bottom}"/>'


def _dot(index: int, x: float, y: float, *, radius: int) -> str:
    return f'<circle class="mark {_colour(index)}" cx="{x}" cy="{y}" r="{radius}"/>'


def _colour(index: int) -> str:
    return f"line-{index % NUM_COLOURS}"


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    """On a narrow screen a chart is scrolled, so that its letters stay readable."""
    name = escape(title, quote=True)
    start = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{name}"><title>{name}</title>'
    return f'<div class="scroll">{start}{"".join(parts)}</svg></div>'


def _legend(lines: Sequence[Line]) -> str:
    """The names of the curves; one without points keeps its colour, so that colours mean the same in all charts."""
    entries = ""
    for index, (name, points) in enumerate(lines):
        if points:
            mark = _line(f"curve {_colour(index)}", 1, 19, 5, 5)
            entries += f'<li><svg viewBox="0 0 20 10" aria-hidden="true">{mark}</svg>{escape(name)}</li>'
    return f'<ul class="legend">{entries}</ul>'
