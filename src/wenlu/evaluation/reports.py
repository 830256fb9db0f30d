"""A report for the browser: one HTML file that loads nothing, runs nothing, and reads well in light and in dark.

Whoever reports puts together a ``Report`` from the parts below, in the reader's language; ``render`` escapes every
text. The page forbids itself all scripts and all connections by a content security policy, which allows its own style
sheet by its digest.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

from wenlu.core.messages import Language, language
from wenlu.evaluation.charts import Chart, Estimates, interval_chart, line_chart


@dataclass(frozen=True)
class Table:
    """Rows under column names; cells that look like numbers stand to the right. ``note`` is a line below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Sample:
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


@dataclass(frozen=True)
class Report:
    """A page: a title, a line about what it shows, sections, and a closing line (definitions, versions)."""

    title: str
    summary: str
    sections: Sequence[Section]
    footer: str = ""
    language: Language = field(default_factory=language)


def render(report: Report) -> str:
    """The page as text, to be written as UTF-8."""
    style = (resources.files(__package__) / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    sections = "".join(_section(section) for section in report.sections)
    title, footer = html.escape(report.title), html.escape(report.footer)
    code = "zh-Hans" if report.language == "zh" else "en"
    return (
        f'<!doctype html>\n<html lang="{code}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{title}</title>\n<style>{style}</style>\n</head>\n'
        f'<body>\n<main>\n<header>\n<h1>{title}</h1>\n<p class="summary">{html.escape(report.summary)}</p>\n</header>\n'
        f"{sections}<footer>{footer}</footer>\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    match section:
        case Table():
            body = _table(section)
        case Chart():
            body = line_chart(section)
        case Estimates():
            body = interval_chart(section)
        case Samples():
            body = "".join(_sample(sample) for sample in section.samples)
        case Settings():
            return _settings(section)
    return f"<section>\n<h2>{html.escape(section.title)}</h2>\n{body}\n</section>\n" if body else ""


def _table(table: Table) -> str:
    numeric = [
        bool(table.rows) and all(_is_number(row[index]) for row in table.rows) for index in range(len(table.columns))
    ]
    head = "".join(_cell("th", name, right) for name, right in zip(table.columns, numeric, strict=True))
    rows = ("".join(_cell("td", cell, right) for cell, right in zip(row, numeric, strict=True)) for row in table.rows)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}'


def _cell(tag: str, value: str, right: bool) -> str:
    return f"<{tag}{' class=number' if right else ''}>{html.escape(value)}</{tag}>"


def _is_number(cell: str) -> bool:
    """Whether a cell is made of numbers, signs and units only: no letter but those of a short suffix."""
    return sum(character.isalpha() for character in cell) <= 1


def _sample(sample: Sample) -> str:
    return (
        f'<figure><figcaption>{html.escape(sample.name)}</figcaption><p class="sample">'
        f"<b>{html.escape(sample.prompt)}</b>{html.escape(sample.text)}</p></figure>"
    )


def _settings(settings: Settings) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in settings.values.items()
    )
    return (
        f'<details><summary>{html.escape(settings.title)}</summary><div class="scroll"><table><tbody>{rows}</tbody>'
        "</table></div></details>\n"
    )
