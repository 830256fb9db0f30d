"""What counts as a word when texts in any script are compared."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_OTHERS = (
    "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # kana, Thai, Lao, Burmese, Khmer
)
_UNSPACED = re.compile(f"[{_HAN}{_OTHERS}]")
_CHINESE = re.compile(f"[{_HAN}]")

_WORD = re.compile(rf"[{_HAN}{_OTHERS}]|(?:(?![{_HAN}{_OTHERS}])\w)+|[^\w\s]")


def word_places(text: str) -> list[tuple[int, int]]:
    """Half-open places of the words, numbers and marks of a text, characters where none parts words."""
    return [match.span() for match in _WORD.finditer(text)]


def spacing(texts: Iterable[str]) -> Literal["spaced", "chinese", "unspaced"]:
    """How texts separate words: Chinese where at least 30 % of the letters are its characters and few are kana."""
    text = "".join(texts)
    letters, unspaced, chinese = sum(map(str.isalpha, text)), len(_UNSPACED.findall(text)), len(_CHINESE.findall(text))
    if unspaced == 0 or unspaced < 0.3 * letters:
        return "spaced"
    return "chinese" if unspaced - chinese < 0.1 * letters else "unspaced"
