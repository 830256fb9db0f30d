"""The page of promises and the tests that keep them say the same, in both languages, and none is skipped for good."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {language: ROOT / "docs" / language / "reliability.md" for language in ("en", "zh")}
ROW = re.compile(r"^\| (T\d+) \|(.*)\|$", re.MULTILINE)


def kept() -> dict[str, set[str]]:
    """The numbers that tests are marked with, and the files of these tests."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for number, _ in _marked(path):
            found[number].add(path.relative_to(ROOT / "tests").as_posix())
    return found


def _marked(path: Path) -> list[tuple[str, set[str]]]:
    """The promise of each marked test, and its other marks."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef):
            continue
        marks = {ast.unparse(decorator).partition("(")[0]: decorator for decorator in node.decorator_list}
        promise = marks.pop("pytest.mark.promise", None)
        if isinstance(promise, ast.Call):
            found.append((ast.literal_eval(promise.args[0]), set(marks)))
    return found


def promised(language: str) -> dict[str, list[str]]:
    """The cells of each row of a page: what is promised, how it is tested, figures, files."""
    rows = ROW.findall(PAGES[language].read_text(encoding="utf-8"))
    numbers = [number for number, _ in rows]
    assert len(numbers) == len(set(numbers)), "a promise stands in the table twice"
    return {number: [cell.strip() for cell in cells.split("|")] for number, cells in rows}


@pytest.mark.parametrize("language", PAGES)
def test_every_promise_has_a_test_and_every_marked_test_a_promise(language: str) -> None:
    assert sorted(promised(language)) == sorted(kept())


@pytest.mark.parametrize("language", PAGES)
def test_the_page_names_the_files_of_the_tests(language: str) -> None:
    tests = kept()
    for number, cells in promised(language).items():
        assert len(cells) == 5 and all(cells), f"{number}: a cell is missing"
        assert set(re.findall(r"`([\w/]+\.py)`", cells[-1])) == tests[number], number


def test_no_promise_is_skipped_or_expected_to_fail() -> None:
    forgiven = {"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        assert [number for number, marks in _marked(path) if marks & forgiven] == [], path.name


def test_every_promise_is_kept_every_day() -> None:
    """A promise may have longer tests for the night, not only those."""
    daily = {
        number
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for number, marks in _marked(path)
        if "pytest.mark.nightly" not in marks
    }
    assert daily == set(kept())


def test_both_pages_name_the_same_files_and_figures() -> None:
    english, chinese = promised("en"), promised("zh")
    for number, cells in english.items():
        for ours, theirs in zip(cells[2:], chinese[number][2:], strict=True):
            assert _numbers(ours) == _numbers(theirs), number


def test_a_test_that_fails_prints_no_figure(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(TWO, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "promises", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "seen by who passes  (test_passes)" in done.stdout
    assert "seen by who fails  (" not in done.stdout


TWO = """
import pytest

@pytest.mark.promise("T1")
def test_passes(figure):
    figure("seen by who passes")

@pytest.mark.promise("T1")
def test_fails(figure):
    figure("seen by who fails")
    raise AssertionError
"""


def _numbers(cell: str) -> list[str]:
    return sorted(re.findall(r"\d[\d,.]*", cell.replace("`", " ")))
