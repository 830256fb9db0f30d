"""Which language a text counts under in tables: a rule on its writing system, not a language identifier.

Every statistic "by language" in Wenlu uses this one rule, so that tables agree with each other:

    zh      at least 30 % of the letters are Chinese characters (a character carries about as much as a word)
    mixed   fewer, but at least 5 %
    en      Latin letters of which at most 1 in 100 has an accent (so unaccented Dutch counts as English)
    other   everything else: accented Latin, Cyrillic, kana, Hangul ..., and texts without any letter

Kana and Hangul decide before the characters: Japanese is "other", not "zh".
"""

from __future__ import annotations

import functools
import re
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

LanguageName = Literal["zh", "en", "mixed", "other"]
LANGUAGE_NAMES: tuple[LanguageName, ...] = get_args(LanguageName)

_CLASSES = (
    re.compile(r"[^\W\d_]+"),  # letters
    re.compile("[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+"),  # ideographs
    re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]+"),  # kana, Hangul
    re.compile("[A-Za-z]+"),
)
_LATIN = _CLASSES[3]
_BITS = np.arange(1 << len(_CLASSES))[:, None] >> np.arange(len(_CLASSES)) & 1  # by combination of classes
_CODE_POINTS = 0x34000  # there is no letter behind

SAMPLE_CHARACTERS = 3 * 4096
"""A longer text is judged by three equal slices from its start, middle and end, so that the cost is bounded."""


def language_of(text: str) -> LanguageName:
    """The language a text counts under; see the rule above."""
    text = _sample(text)
    if text.isascii():
        return "en" if _LATIN.search(text) else "other"
    letters, ideographs, kana_and_hangul, latin = _count(text)
    if letters == 0 or kana_and_hangul >= 0.1 * letters:
        return "other"
    if ideographs >= 0.3 * letters:
        return "zh"
    if ideographs >= 0.05 * letters:
        return "mixed"
    accented = letters - ideographs - latin
    return "en" if accented <= -(-letters // 100) else "other"


def _count(text: str) -> list[int]:
    """How many characters of the text are in each class; with a table, which is ten times as fast as the patterns."""
    code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    members = np.bincount(_table().take(code_points, mode="clip"), minlength=1 << len(_CLASSES))
    counts: list[int] = (members @ _BITS).tolist()
    return counts


@functools.cache
def _table() -> npt.NDArray[np.uint8]:
    """The classes of each code point, a bit each."""
    every = "".join(map(chr, range(_CODE_POINTS)))
    table = np.zeros(_CODE_POINTS + 1, dtype=np.uint8)
    for bit, pattern in enumerate(_CLASSES):
        for match in pattern.finditer(every):
            table[match.start() : match.end()] |= 1 << bit
    return table


def _sample(text: str) -> str:
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    part = SAMPLE_CHARACTERS // 3
    middle = (len(text) - part) // 2
    return f"{text[:part]} {text[middle : middle + part]} {text[-part:]}"
