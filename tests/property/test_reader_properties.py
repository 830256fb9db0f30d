"""A long plain text is read in parts: none too long, none lost, each named by its line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wenlu.core.errors import DataError
from wenlu.data.documents import DataSettings, Report
from wenlu.data.files import find_files
from wenlu.data.readers import _text, txt

LIMIT = 100
TEXTS = st.lists(
    st.sampled_from(["a" * 30, "c" * 29, "文字" * 20, "x" * 130, "b", "é", "\n", "\r\n", "\r"]), max_size=60
).map("".join)


@settings(max_examples=300)
@example(text="a" * 30 + "b" * 69 + "\r\nc", block_bytes=7)
@given(text=TEXTS, block_bytes=st.integers(1, 200))
def test_parts_of_a_file_make_up_the_file(text: str, block_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_text, "_HEAD_BYTES", block_bytes)
        path = Path(folder, "a.txt")
        path.write_bytes(text.encode())
        made = DataSettings((str(path),), maximum_characters=LIMIT)
        records = list(txt.read(find_files(made.paths, Report())[0], made, Report()))
    place = 0
    for number, record in enumerate(records):
        assert record.text is not None and record.part == number
        assert text.startswith(record.text, place)
        assert record.line == 1 + sum(text[:place].count(end) for end in "\r\n") - text[:place].count("\r\n")
        place += len(record.text)
        line_end = next((end for end in ("\r\n", "\n", "\r") if text.startswith(end, place)), "")
        room = LIMIT - len(record.text)
        if len(line_end) <= room:
            place += len(line_end)  # taken away at the end of a part
        else:
            assert room == 0 or line_end == "\r\n", "cut inside a line although it was not full"
        if number + 1 < len(records):
            assert text[place - 1] in "\r\n" or len(record.text) == LIMIT or text.startswith("\r\n", place)
    assert place == len(text)


@settings(max_examples=100)
@given(text=TEXTS, block_bytes=st.integers(1, 50))
def test_the_line_of_a_wrong_byte(text: str, block_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_text, "_HEAD_BYTES", block_bytes)
        path = Path(folder, "a.txt")
        path.write_bytes("文".encode() + text.encode() + b"\xff\xffa")
        places = []
        for mode in ("file", "line"):
            made = DataSettings((str(path),), document=mode, maximum_characters=10_000)  # type: ignore[arg-type]
            with pytest.raises(DataError) as caught:
                list(txt.read(find_files(made.paths, Report())[0], made, Report()))
            places.append((caught.value.values["line"], caught.value.values["offset"]))
        expected = 1 + sum(text.count(end) for end in "\r\n") - text.count("\r\n")
        assert places == [(expected, 3 + len(text.encode()))] * 2
