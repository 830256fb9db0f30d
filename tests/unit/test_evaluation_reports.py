"""The page: escaped, self-contained, in the reader's language; the charts' arithmetic."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import pytest

from wenlu.evaluation.reports import (
    Chart,
    Estimate,
    Estimates,
    Line,
    Sample,
    Samples,
    Section,
    Settings,
    Table,
    interval_chart,
    line_chart,
    number,
    render,
    thinned,
    ticks,
)
from wenlu.metrics.significance import Interval

EVIL = "<script>alert('x')</script>\" onload=\"&"
VOID = {"meta", "br", "line", "circle", "polyline"}


class Checker(HTMLParser):
    """Collects tags and attributes, and sees that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def sections(text: str) -> list[Section]:
    """One of each kind, with this text wherever a text can be."""
    return [
        Table(text, [text, "n"], [[text, "1,000"], ["—", "2.5 – 3"]], text),
        Chart(text, text, text, [Line(text, [(0, 3.0), (1, 2.0)]), Line(text, [(0, 2.5)])]),
        Estimates(text, text, [Estimate(text, 2.0, Interval(1.5, 2.5)), Estimate(text, 3.0, None)]),
        Samples(text, [Sample(text, text, text)]),
        Settings(text, {text: text, "none": None}),
    ]


def test_every_text_is_escaped_and_every_element_closed() -> None:
    page = render(EVIL, EVIL, sections(EVIL), EVIL)
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    tags = [tag for tag, _ in checker.seen]
    assert "script" not in tags
    assert not any(name.startswith("on") for _, attributes in checker.seen for name in attributes)
    assert page.count("&lt;script&gt;") >= 15


def test_the_page_keeps_its_own_policy() -> None:
    page = render("t", "s", sections("text"))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in page
    checker = Checker()
    checker.feed(page)
    for tag, attributes in checker.seen:
        assert tag not in ("script", "link", "img", "iframe", "base", "form")
        assert not {"style", "src", "href"} & attributes.keys(), f"{tag} {attributes}"
    assert "url(" not in page and "@import" not in page


@pytest.mark.parametrize(("code", "expected"), [("en", 'lang="en"'), ("zh", 'lang="zh-Hans"')])
def test_the_page_says_its_language(code: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENLU_LANG", code)
    assert expected in render("题", "s", [])


def test_columns_of_numbers_stand_to_the_right() -> None:
    page = render("t", "s", [Table("x", ["name", "n"], [["a b", "1,000"], ["c d", "—"]])])
    assert "<td>a b</td><td class=number>1,000</td>" in page


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (2.31, 2.95), (1, 20_000), (-3, 5), (4.0, 4.0), (0, 0), (1e-7, 3e-7), (9.99, 10.01)]
)
def test_ticks_are_round_and_enclose(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 8
    step = found[1] - found[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (2.5, "2.5"), (2000, "2000"), (20_000, "20k"), (1.5e6, "1.5M")])
def test_numbers_of_ticks_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


def test_long_curves_are_thinned_by_means_and_holes_left_out() -> None:
    points = [(float(x), float(x)) for x in range(10_000)]
    points[500] = (500.0, math.nan)
    thin = thinned(points)
    assert len(thin) <= 300
    assert thin[0][0] == pytest.approx(thin[0][1])
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(5000, rel=0.01)


def test_a_chart_without_points_is_left_out() -> None:
    assert line_chart(Chart("t", "x", "y", [Line("a", [])])) == ""
    assert interval_chart(Estimates("t", "u", [])) == ""
    page = render("t", "s", [Chart("gone", "x", "y", [])])
    assert "gone" not in page


def test_values_that_differ_by_a_rounding_are_drawn() -> None:
    low, high = 0.9154925831468093, 0.9154925831468094
    assert (
        interval_chart(Estimates("t", "u", [Estimate("a", low, None), Estimate("b", high, None)])).count("<circle") == 2
    )


def test_curves_stay_inside_the_chart() -> None:
    """A first loss far above the rest must not squeeze the curve, nor leave the frame."""
    points = [(0.0, 1000.0), *((float(x), 3.0 - x / 1000) for x in range(1, 200))]
    svg = line_chart(Chart("t", "x", "y", [Line("a", points)]))
    path = re.search(r'points="([^"]+)"', svg)
    assert path is not None
    heights = [float(point.split(",")[1]) for point in path[1].split()]
    assert min(heights) >= 0 and max(heights) <= 320
    assert max(heights[5:]) - min(heights[5:]) > 50


def test_a_model_has_one_colour_in_all_charts() -> None:
    svg = line_chart(Chart("t", "x", "y", [Line("fitted", []), Line("trained", [(0, 1.0), (1, 0.5)])]))
    assert "fitted" not in svg and "line-0" not in svg
    assert svg.count("line-1") == 2
