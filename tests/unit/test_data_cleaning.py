"""Cleaning, de-duplication and held-out splits against values worked out by hand."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenlu.core.errors import SettingsError
from wenlu.data.cleaning import clean
from wenlu.data.deduplication import DigestSet, text_digest
from wenlu.data.report import Report, Tally
from wenlu.data.settings import DataSettings
from wenlu.data.splitting import complete, cut_place, split_of
from wenlu.data.spool import Spool
from wenlu.data.store import Split


def cleaned(text: str, **settings: object) -> tuple[str, Report]:
    report = Report()
    return clean(text, settings=DataSettings(**settings), report=report), report  # type: ignore[arg-type]


def test_each_change_is_counted() -> None:
    text, report = cleaned("\n\n  一\u3000 \r\nb\x07\x7fc\t\rd\x0c\n\n")
    assert text == "  一\nbc\nd"
    assert report.changed == {
        "line_ends": Tally(1, 2),
        "control_characters": Tally(1, 3),
        "white_space": Tally(1, 7),
    }


def test_letters_of_a_misread_text_are_kept_and_pointed_out() -> None:
    text, report = cleaned("Och jorden var \x94de")
    assert text == "Och jorden var \x94de" and not report.changed
    assert report.suspicious == {"misread": Tally(1, 1)}


def test_clean_text_is_not_touched() -> None:
    text = "  indented\n\n\tand\u200d joined 👩‍👩‍👧 \u202bעברית\u202c\nend"
    assert cleaned(text) == (text, Report())


def test_cleaning_can_be_left_out() -> None:
    text = " a \r\n\x07\n"
    assert cleaned(text, cleaning="none") == (text, Report())


def test_nfc_on_request() -> None:
    assert cleaned("e\u0301")[0] == "e\u0301"
    text, report = cleaned("e\u0301", unicode="nfc")
    assert text == "é" and report.changed == {"nfc": Tally(1, 1)}


def test_many_combining_marks_take_linear_time() -> None:
    marks = "\u0301\u0323\u0344ệ\u0f73\u0344" * 300
    assert cleaned(f"a{marks}b", unicode="nfc")[0] == unicodedata.normalize("NFC", f"a{marks}b")
    text, report = cleaned("a" + "\u0301\u0323" * 400_000, unicode="nfc")  # would take ten minutes
    assert text == "ạ" + "\u0323" * 399_999 + "\u0301" * 400_000
    assert report.changed["nfc"] == Tally(1, 1)


def test_a_run_of_blanks_takes_linear_time() -> None:
    assert cleaned(" " * 5_000_000 + "x")[0] == " " * 5_000_000 + "x"


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once, _ = cleaned(text, unicode="nfc")
    twice, report = cleaned(once, unicode="nfc")
    assert twice == once and not report.changed


@given(st.lists(st.binary(min_size=0, max_size=3), max_size=60))
def test_digest_set_is_a_set(values: list[bytes]) -> None:
    ours, python = DigestSet(), set[bytes]()
    for value in values:
        digest = hashlib.sha256(value).digest()
        assert (digest in ours) == (digest in python)
        assert ours.add(digest) == (digest not in python)
        python.add(digest)
    assert len(ours) == len(python)


def test_digest_set_grows_and_stays_small() -> None:
    ours = DigestSet()
    digests = [text_digest(str(number)) for number in range(20_000)]
    assert all(ours.add(digest) for digest in digests)
    assert not any(ours.add(digest) for digest in digests)
    assert 16 <= ours.num_bytes / len(ours) <= 33
    assert ours.add(bytes(32)) and not ours.add(bytes(32))  # the digest whose first half is zero


def test_split_by_hash() -> None:
    settings = DataSettings(validation_fraction=0.25, test_fraction=0.5)
    places = [0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999]
    found = [split_of(int(place * 2**64), settings) for place in places]
    assert found == ["validation", "validation", "test", "test", "train", "train"]
    given = DataSettings(validation_paths=("x",), test_fraction=0.5)
    assert [split_of(int(place * 2**64), given) for place in (0.0, 0.49, 0.51)] == ["test", "test", "train"]


@pytest.mark.parametrize(
    "values",
    [
        {"validation_fraction": 1.0},
        {"validation_fraction": -0.1},
        {"validation_fraction": 0.5, "test_fraction": 0.5},
        {"minimum_characters": 0},
        {"maximum_characters": 10},
        {"minimum_characters": 500, "maximum_characters": 400},
    ],
)
def test_settings_out_of_bounds(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="out of its bounds"):
        DataSettings(**values)  # type: ignore[arg-type]


def test_cut_place_prefers_line_ends_then_sentences() -> None:
    text = "一" * 95 + "\n" + "二" * 100
    assert cut_place(text, 100) == 96
    text = "一" * 95 + "。" + "二" * 100
    assert cut_place(text, 100) == 96
    assert cut_place("一" * 200, 100) == 100


def spooled(folder: Path, files: list[list[str]]) -> Spool:
    with Spool(folder / "in") as spool:
        for number, documents in enumerate(files, start=1):
            for text in documents:
                hash = int.from_bytes(text_digest(text)[16:24], "little")
                size = len(text.encode()) + 2  # two bytes were cleaned away
                spool.add(text, original_bytes=size, hash=hash, file=number, language="en", split="train")
    return spool


@pytest.mark.parametrize(("test_fraction", "wanted"), [(0.0, ["validation"]), (0.3, ["test", "validation"])])
def test_few_documents_hold_out_the_last_tenth_of_each_file(
    tmp_path: Path, test_fraction: float, wanted: list[Split]
) -> None:
    files = [["0007\n" * 1000, "end " * 100], ["字" * 3000], ["tiny"]]
    made, rule = complete(spooled(tmp_path, files), DataSettings(test_fraction=test_fraction), tmp_path / "out")
    assert rule == "tails"
    whole = "".join("".join(documents) for documents in files)
    total = 0
    for split in wanted:
        held = "".join(made.texts(split))
        assert abs(len(held) - 0.1 * len(whole)) < 60
        total += len(held)
    assert total + len("".join(made.texts("train"))) == len(whole)
    rows = made.rows()
    originals = sum(len(text.encode()) + 2 for documents in files for text in documents)
    assert int(rows["original_bytes"].sum()) == originals
    assert "tiny" in list(made.texts("train"))


def test_pieces_of_one_letter_keep_their_bytes(tmp_path: Path) -> None:
    made, _ = complete(spooled(tmp_path, [["aaaaaaaaaaa", "aa"]]), DataSettings(), tmp_path / "out")
    assert int(made.rows()["original_bytes"].min()) > 0


def test_many_documents_stay_whole_and_no_split_is_empty(tmp_path: Path) -> None:
    files = [[f"document {number}" for number in range(30)]]
    made, rule = complete(spooled(tmp_path, files), DataSettings(), tmp_path / "out")
    assert rule == "hash"
    assert len(list(made.texts("validation"))) == 1  # nobody was hashed into it: the smallest hash goes there
    assert sorted([*made.texts("train"), *made.texts("validation")]) == sorted(files[0])
