"""Cleaning that loses nothing a reader would miss; each change is counted."""

from __future__ import annotations

import re
import unicodedata

from wenlu.data.report import Report
from wenlu.data.settings import DataSettings

# C0 without tab, line feed and carriage return; joiners and direction marks are text, not controls
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# C1: nearly always letters of a text that was once decoded wrongly; removing them would cut holes into words
_MISREAD = re.compile("[\x80-\x9f]")
_SPACE_BEFORE_LINE_END = re.compile(r"[^\S\n]\n")
_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def clean(text: str, *, settings: DataSettings, report: Report) -> str:
    """The text as it is tokenised; every step that changed something is counted in the report."""
    if settings.cleaning == "standard":
        text = _clean_lines(text, report)
    if settings.unicode == "nfc" and not unicodedata.is_normalized("NFC", text):
        composed = unicodedata.normalize("NFC", text)
        report.change("nfc", abs(len(text) - len(composed)))
        text = composed
    return text


def replace_surrogates(text: str) -> tuple[str, int]:
    """The text with U+FFFD for each lone surrogate, and how many there were."""
    return _SURROGATE.subn(REPLACEMENT, text)


def find_surrogate(text: str) -> int | None:
    """Position of the first lone surrogate."""
    match = _SURROGATE.search(text)
    return match.start() if match else None


def _clean_lines(text: str, report: Report) -> str:
    if "\r" in text:
        before = text.count("\r")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        report.change("line_ends", before)
    misread = len(_MISREAD.findall(text))
    if misread:
        report.suspect("misread", misread)
    text, removed = _CONTROL.subn("", text)
    if removed:
        report.change("control_characters", removed)
    length = len(text)
    if _SPACE_BEFORE_LINE_END.search(text):
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    text = text.rstrip().lstrip("\n")
    if len(text) != length:
        report.change("white_space", length - len(text))
    return text
