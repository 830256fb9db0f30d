"""The rule by which texts count under a language."""

from __future__ import annotations

import pytest

from wenlu.tokenization.script import _CODE_POINTS, SAMPLE_CHARACTERS, language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("学而时习之，不亦说乎？", "zh"),
        ("用 Python 写模型", "zh"),  # 4 of 10 letters
        ("𠀀𪚥 and a", "mixed" if 2 / 6 < 0.3 else "zh"),
        ("The word 文 means text.", "mixed"),  # 1 of 17
        ("A very long English sentence that mentions 文 only once in passing.", "en"),
        ("Plain English, with 12 numbers.", "en"),
        ("café", "en"),  # one accent is allowed
        ("Voilà une phrase française très accentuée", "other"),
        ("ひらがなとカタカナと漢字", "other"),
        ("한국어 문장", "other"),
        ("Привет, мир", "other"),
        ("123 !? 😀", "other"),
        ("", "other"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert language_of(text) == language


def test_the_bounds_of_the_rule() -> None:
    assert language_of("中" * 30 + "a" * 70) == "zh"
    assert language_of("中" * 29 + "a" * 71) == "mixed"
    assert language_of("中" * 5 + "a" * 95) == "mixed"
    assert language_of("é" * 2 + "a" * 198) == "en"
    assert language_of("é" * 3 + "a" * 197) == "other"


def test_long_texts_are_judged_by_start_middle_and_end() -> None:
    third = SAMPLE_CHARACTERS // 3
    assert language_of("a" * 5 * third + "中" * third) == "zh"
    assert language_of("a" * third + "中" * third + "a" * 3 * third) == "en"  # the Chinese lies between the slices


def test_ideographs() -> None:
    assert [language_of(character) == "zh" for character in "中𠀀々〇a，あ한"] == [True] * 4 + [False] * 4


def test_no_letter_lies_behind_the_table() -> None:
    behind = "".join(map(chr, range(_CODE_POINTS, 0x110000)))
    assert not any(character.isalpha() for character in behind)
    assert language_of(behind[-5:]) == "other"
    assert language_of(chr(0x2A6D6)) == "zh"
