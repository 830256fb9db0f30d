"""Which language a text counts under in tables: a rule on its writing system, not a language identifier.

Every statistic "by language" in Wenlu uses this one rule, so that tables agree with each other:

    zh      at least 30 % of the letters are Chinese characters (a character carries about as much as a word)
    mixed   fewer, but at least 5 %
    en      Latin letters of which at most 1 in 100 has an accent (so unaccented Dutch counts as English)
    other   everything else: accented Latin, Cyrillic, kana, Hangul ..., and texts without any letter

Kana and Hangul decide before the characters: Japanese is "other", not "zh".
"""

from __future__ import annotations

import re
from typing import Literal, get_args

LanguageName = Literal["zh", "en", "mixed", "other"]
LANGUAGE_NAMES: tuple[LanguageName, ...] = get_args(LanguageName)

_IDEOGRAPHS = re.compile("[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+")
_KANA_AND_HANGUL = re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]+")
_LATIN = re.compile("[A-Za-z]+")
_LETTERS = re.compile(r"[^\W\d_]+")

SAMPLE_CHARACTERS = 3 * 4096
"""A longer text is judged by three equal slices from its start, middle and end, so that the cost is bounded."""


def language_of(text: str) -> LanguageName:
    """The language a text counts under; see the rule above."""
    text = _sample(text)
    letters = _count(_LETTERS, text)
    ideographs = _count(_IDEOGRAPHS, text)
    if letters == 0 or _count(_KANA_AND_HANGUL, text) >= 0.1 * letters:
        return "other"
    if ideographs >= 0.3 * letters:
        return "zh"
    if ideographs >= 0.05 * letters:
        return "mixed"
    accented = letters - ideographs - _count(_LATIN, text)
    return "en" if accented <= -(-letters // 100) else "other"


def _count(pattern: re.Pattern[str], text: str) -> int:
    return sum(map(len, pattern.findall(text)))


def _sample(text: str) -> str:
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    part = SAMPLE_CHARACTERS // 3
    middle = (len(text) - part) // 2
    return f"{text[:part]} {text[middle : middle + part]} {text[-part:]}"
