"""Cleaning that loses nothing a reader would miss; each change is counted."""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby
from typing import Literal

from wenlu.data.report import Report
from wenlu.data.settings import DataSettings

# C0 without tab, line feed and carriage return; joiners and direction marks are text, not controls
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# C1: nearly always letters of a text that was once decoded wrongly; removing them would cut holes into words
_MISREAD = re.compile("[\x80-\x9f]")
_CONTROL_OR_MISREAD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SPACE_BEFORE_LINE_END = re.compile(r"\n(?<=[^\S\n]\n)")  # the line end comes first, as it is what can be found fast
_LONG_MARKS = re.compile(r"[^\w\s\x00-\u02ff]{256,}")  # every combining mark is such a character
_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def clean(text: str, *, settings: DataSettings, report: Report) -> str:
    """The text as it is tokenised; every step that changed something is counted in the report."""
    if settings.cleaning == "standard":
        text = _clean_lines(text, report)
    if settings.unicode == "nfc" and (composed := normalized(text, "NFC")) != text:
        report.changed["nfc"].add(abs(len(text) - len(composed)))
        text = composed
    return text


def normalized(text: str, form: Literal["NFC", "NFKC"]) -> str:
    """A Unicode normal form in linear time: Python's takes the square of the number of combining marks in a row."""
    return unicodedata.normalize(form, _LONG_MARKS.sub(_in_canonical_order, text))


def _in_canonical_order(match: re.Match[str]) -> str:
    marks = [mark for character in match.group() for mark in unicodedata.normalize("NFD", character)]
    runs = groupby(marks, key=lambda mark: unicodedata.combining(mark) > 0)
    return "".join("".join(sorted(run, key=unicodedata.combining) if combining else run) for combining, run in runs)


def replace_surrogates(text: str) -> tuple[str, int]:
    """The text with U+FFFD for each lone surrogate, and how many there were."""
    return _SURROGATE.subn(REPLACEMENT, text)


def find_surrogate(text: str) -> int | None:
    """Position of the first lone surrogate."""
    match = _SURROGATE.search(text)
    return match.start() if match else None


def _clean_lines(text: str, report: Report) -> str:
    if "\r" in text:
        report.changed["line_ends"].add(text.count("\r"))
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _CONTROL_OR_MISREAD.search(text):
        if misread := len(_MISREAD.findall(text)):
            report.suspicious["misread"].add(misread)
        text, removed = _CONTROL.subn("", text)
        if removed:
            report.changed["control_characters"].add(removed)
    length = len(text)
    if _SPACE_BEFORE_LINE_END.search(text):
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    text = text.rstrip().lstrip("\n")
    if len(text) != length:
        report.changed["white_space"].add(length - len(text))
    return text
