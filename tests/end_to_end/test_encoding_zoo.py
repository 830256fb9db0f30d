"""Files of every encoding and state of repair: none crashes, and each replaced byte and dropped document is counted."""

from __future__ import annotations

import gzip
import json
import lzma
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from promises import Figure, Lane
from tiny_tokenizers import tiny
from wenlu.cli.main import main
from wenlu.core.errors import DataError
from wenlu.data.documents import DataSettings, Report, read_documents
from wenlu.data.tokens import Store

CHINESE = "学而时习之，不亦说乎？\n有朋自远方来，不亦乐乎？"
TRADITIONAL = "帝京篇十首\n鳴笳臨樂館，眺聽歡芳節。"
JAPANESE = "春はあけぼの。\nやうやう白くなりゆく山ぎは。"
FRENCH = "La liberté guide nos pas.\nOù êtes-vous allés ce matin?"
FAMILY = "👩‍👩‍👧‍👦 👍🏽 🇨🇳 🏴\U000e0067\U000e0062\U000e007f e\u0301 \U0010ffff"
RIGHT_TO_LEFT = "a \u202bעברית\u202c \u200fعربي\u200e b"
MARKS = "a" + "\u0301\u0323" * 50_000  # not in canonical order
BLANK = {"empty": 1}


@dataclass(frozen=True)
class Animal:
    """A file, what is read of it when wrong bytes are refused, and what is counted when they are replaced."""

    name: str
    content: bytes
    texts: list[str] | None = None  # None: refused
    error: str = ""  # its id, when wrong bytes are refused
    replaced: int = 0  # bytes, or surrogates of an escape, that become U+FFFD
    always: bool = False  # refused also when wrong bytes may be replaced
    dropped: dict[str, int] = field(default_factory=dict)
    encoding: str = "utf-8"


def wrong(
    name: str, content: bytes, replaced: int, *, error: str = "data.damaged_text", encoding: str = "utf-8"
) -> Animal:
    """A file with bytes that are not of its encoding."""
    return Animal(name, content, None, error, replaced, encoding=encoding)


def refused(name: str, content: bytes, error: str, *, encoding: str = "utf-8") -> Animal:
    """A file that is never read."""
    return Animal(name, content, None, error, always=True, encoding=encoding)


def right(name: str, content: bytes | str, *texts: str, encoding: str = "utf-8", **dropped: int) -> Animal:
    """A file that is read as it is."""
    return Animal(
        name, content.encode() if isinstance(content, str) else content, list(texts), dropped=dropped, encoding=encoding
    )


def foreign(name: str, text: str, encoding: str) -> list[Animal]:
    """A text in another encoding: wrong when it is not named, right when it is."""
    content = text.encode(encoding)
    unfit = len([1 for letter in content.decode("utf-8", "surrogateescape") if 0xDC80 <= ord(letter) <= 0xDCFF])
    return [
        wrong(f"{name}-unnamed.txt", content, unfit, error="data.undecodable"),
        right(f"{name}-named.txt", content, text, encoding=encoding),
    ]


def rows(*texts: str | None) -> str:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


ZOO = [
    *foreign("gb18030", CHINESE, "gb18030"),
    *foreign("big5", TRADITIONAL, "big5"),
    *foreign("shift-jis", JAPANESE, "shift_jis"),
    *foreign("windows", FRENCH, "cp1252"),
    right("latin-1.txt", FRENCH.encode("latin-1"), FRENCH, encoding="latin-1"),
    *(right(f"mark-{mark}.txt", CHINESE.encode(mark), CHINESE) for mark in ("utf-8-sig", "utf-16", "utf-32")),
    right("mark-utf-16-be.txt", b"\xfe\xff" + CHINESE.encode("utf-16-be"), CHINESE),
    right("mark-utf-32-be.txt", b"\0\0\xfe\xff" + CHINESE.encode("utf-32-be"), CHINESE),
    right("mark-alone.txt", b"\xef\xbb\xbf"),
    right("mark-alone-wide.txt", b"\xff\xfe"),
    right("mark-inside.txt", "one\ufefftwo", "one\ufefftwo"),
    refused("utf-16-unmarked.txt", "plain text\n".encode("utf-16-le"), "data.undecodable"),
    right("utf-16-named.txt", CHINESE.encode("utf-16-be"), CHINESE, encoding="utf-16-be"),
    wrong("utf-16-odd.txt", "文字".encode("utf-16") + b"a", 1),
    wrong("utf-16-half-pair.txt", b"\xff\xfe" + "文".encode("utf-16-le") + b"\x41\xd8" + "字".encode("utf-16-le"), 2),
    wrong("gb18030-damaged.txt", "学而".encode("gb18030") + b"\xff" + "时".encode("gb18030"), 1, encoding="gb18030"),
    wrong("big5-cut-off.txt", TRADITIONAL.encode("big5") + b"\xb1", 1, encoding="big5"),
    right("crlf.txt", "一\r\n二\r\n", "一\n二"),
    right("cr.txt", "一\r二\r", "一\n二"),
    right("mixed-line-ends.txt", "一\r\n\n二\r三\n四", "一\n\n二\n三\n四"),
    right("unusual-line-ends.txt", "一\u2028二\u2029三\x85四", "一\u2028二\u2029三\x85四"),
    refused("nul.txt", b"one\0two", "data.binary_file"),
    refused("nul-late.txt", b"text " * 40_000 + b"\0", "data.binary_file"),
    refused("every-byte.txt", bytes(range(256)) * 300, "data.binary_file"),
    wrong("overlong-2.txt", "文字".encode() + b"\xc0\xaf", 2),
    wrong("overlong-3.txt", "文字".encode() + b"\xe0\x80\xaf" + "文".encode(), 3),
    wrong("overlong-4.txt", "文字".encode() + b"\xf0\x80\x80\xaf\n", 4),
    wrong("wtf-8.txt", "文字".encode() + b"\xed\xa0\xbd", 3),
    wrong("cesu-8.txt", "文字".encode() + b"\xed\xa0\xbd\xed\xb8\x80", 6),
    wrong("beyond-unicode.txt", "文字".encode() + b"\xf4\x90\x80\x80", 4),
    wrong("five-bytes.txt", "文字".encode() + b"\xf8\x88\x80\x80\x80", 5),
    wrong("never-in-utf-8.txt", "文字".encode() + b"\xfe\xff", 2),
    wrong("cut-off.txt", "文字文".encode()[:-1], 2),
    wrong("continuation.txt", "文".encode() + b"\x80\x80" + "字".encode() + b"\xbf", 3),
    wrong("at-a-block-border.txt", b"a" * 65_534 + "文".encode() + b"\xff" + "字".encode() * 3, 1),
    wrong("one-wrong-byte.txt", b"\xff", 1, error="data.undecodable"),
    wrong("two-encodings.txt", (CHINESE + "\n").encode() + "不而".encode("gb18030"), 4),
    wrong("many-lines.txt", ("文字".encode() + b"\xff\n") * 5000, 5000),
    right("family.txt", FAMILY, FAMILY),
    right("right-to-left.txt", RIGHT_TO_LEFT, RIGHT_TO_LEFT),
    right("combining-marks.txt", MARKS, MARKS),
    right("not-characters.txt", "a\ufffe\uffff\ufdd0\ue000b", "a\ufffe\uffff\ufdd0\ue000b"),
    right("empty.txt", b""),
    right("one-byte.txt", b"x", "x"),
    right("one-line-end.txt", b"\n", empty=1),
    right("blank.md", " \t\n\u3000\n", empty=1),
    right("controls.txt", b"\x01\x02\x7f", empty=1),
    right("controls-inside.txt", b"a\x07b\x1bc", "abc"),
    right("no-last-line-end.md", "一\n二", "一\n二"),
    right("rows-marked.jsonl", b"\xef\xbb\xbf" + rows("一", FAMILY, None, " ").encode(), "一", FAMILY, null=1, empty=1),
    right("rows-crlf.jsonl", rows("一", "二").replace("\n", "\r\n") + "\n", "一", "二"),
    right("rows-escaped.jsonl", '{"text": "\\ud83d\\ude00\\u0000x"}', "😀x"),
    wrong("rows-surrogate.jsonl", b'{"text": "a\\ud83db\\udc80"}\n', 2, error="data.lone_surrogate"),
    wrong("rows-wrong-byte.jsonl", '{"text": "文字\n'.encode()[:-1] + b'\xff"}\n{"text": "b\xfe\xfe"}\n', 3),
    refused("rows-nested.jsonl", b'{"text": ' + b"[" * 100_000, "data.bad_json"),
    refused("rows-large-number.jsonl", b'{"text": ' + b"9" * 5_000 + b"}", "data.bad_json"),
    right("table-marked.csv", b'\xef\xbb\xbfid,text\r\n1,"a\r\nb"\r2,""\n', "a\nb", empty=1),
    wrong("table-wrong-byte.csv", "text,id\n文字\n".encode()[:-1] + b"\xff,1\nb,2\n\xfe\xfe,3\n", 3),
    right(
        "table-gb18030.tsv",
        f"id\ttext\n1\t{CHINESE.split()[0]}\n".encode("gb18030"),
        CHINESE.split()[0],
        encoding="gb18030",
    ),
    refused("table-nul.csv", b"text\na\0b\n", "data.binary_file"),
    right("packed-wide.txt.gz", gzip.compress(CHINESE.encode("utf-16")), CHINESE),
    wrong("packed-wrong.txt.xz", lzma.compress("文字".encode() + b"\xff" * 100_000), 100_000),
    right("packed-rows.jsonl.zst", zstandard.compress(rows(CHINESE, None).encode()), CHINESE, null=1),
    refused("packed-cut-off.csv.gz", gzip.compress(b"text\na\n")[:-3], "data.bad_compression"),
]

UNNAMED = [animal for animal in ZOO if animal.encoding == "utf-8"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files that need no named encoding, in one folder."""
    folder = tmp_path_factory.mktemp("zoo")
    for animal in UNNAMED:
        (folder / animal.name).write_bytes(animal.content)
    return folder


def read(animal: Animal, folder: Path, *, replace: bool) -> tuple[list[str], Report]:
    path = folder / animal.name
    path.write_bytes(animal.content)
    report = Report()
    made = DataSettings((str(path),), encoding=animal.encoding, bad_bytes="replace" if replace else "refuse")
    return [document.text for document in read_documents(made, report)], report


def replaced(record: dict[str, dict[str, dict[str, int]]]) -> int:
    changed = record["changed"]
    return sum(changed[reason]["characters"] for reason in ("bad_bytes", "surrogates") if reason in changed)


def dropped(record: dict[str, dict[str, dict[str, int]]]) -> dict[str, int]:
    return {reason: tally["documents"] for reason, tally in record["dropped"].items()}


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_each_file_is_read_right_or_refused_and_counted(animal: Animal, tmp_path: Path) -> None:
    if animal.texts is None:
        with pytest.raises(DataError) as caught:
            read(animal, tmp_path, replace=False)
        assert caught.value.id == animal.error
        assert animal.name in str(caught.value)
    if animal.always:
        with pytest.raises(DataError) as caught:
            read(animal, tmp_path, replace=True)
        assert caught.value.id == animal.error
        return
    for replace in (False, True) if animal.texts is not None else (True,):
        texts, report = read(animal, tmp_path, replace=replace)
        record = report.as_record()
        assert animal.texts is None or texts == animal.texts
        assert replaced(record) == animal.replaced == "".join(texts).count("\ufffd")  # type: ignore[arg-type]
        assert dropped(record) == animal.dropped  # type: ignore[arg-type]
        assert report.documents == len(texts) + sum(animal.dropped.values())


@pytest.mark.promise("T16")
def test_the_whole_zoo_is_inspected_and_packed(zoo: Path, tmp_path: Path, figure: Figure) -> None:
    words = ["data", "inspect", str(zoo), "--json", "--set", "data.bad_bytes=replace"]
    found = CliRunner().invoke(main, words, prog_name="wenlu")
    assert found.exit_code == 2 and "Traceback" not in found.output, found.output
    record = json.loads(found.stdout)
    refusals = sorted(animal.error for animal in UNNAMED if animal.always)
    assert sorted(problem["id"] for problem in record["problems"]) == refusals
    bytes_wrong = sum(animal.replaced for animal in UNNAMED)
    assert replaced(record) == bytes_wrong
    assert dropped(record) == {
        reason: sum(animal.dropped.get(reason, 0) for animal in UNNAMED) for reason in ("empty", "null")
    }

    for animal in UNNAMED:
        if animal.always:
            (zoo / animal.name).unlink()
    words = ["data", "pack", str(zoo), "-o", str(tmp_path / "store"), "--set", "data.bad_bytes=replace"]
    packed = CliRunner().invoke(main, [*words, "--vocab-size", "300", "--validation-fraction", "0"])
    assert packed.exit_code == 0, packed.output
    store = Store.open(tmp_path / "store")
    assert replaced(store.record) == bytes_wrong  # type: ignore[arg-type]
    assert store.train.lossless.all()
    settings = DataSettings((str(zoo),), bad_bytes="replace")
    expected = {document.text for document in read_documents(settings, Report())}
    numbers = range(store.train.num_documents)
    decoded = [store.tokenizer.decode(store.train.document(number)[:-1].tolist()) for number in numbers]
    assert len(decoded) == len(expected) and set(decoded) == expected
    figure(
        f"{len(ZOO)} files: 0 crashes, {len(refusals)} refused by name, {bytes_wrong:,} wrong bytes and "
        f"{sum(dropped(record).values())} dropped documents counted"
    )


@pytest.mark.promise("T16")
def test_byte_level_tokenizers_lose_nothing(lane: Lane, figure: Figure) -> None:
    tokenizer = tiny("bpe")
    count, longest = 0, 0

    @settings(max_examples=lane(ci=1_000, nightly=10_000))
    @example(MARKS)
    @example(FAMILY)
    @given(
        st.one_of(
            st.text(max_size=80), st.text(alphabet="\u0000\ufeff\ufffd\u200d\u0301é的😀 \r\n\t<|end>", max_size=80)
        )
    )
    def decodes_to_itself(text: str) -> None:
        nonlocal count, longest
        assert tokenizer.decode(tokenizer.encode(text)) == text
        count, longest = count + 1, max(longest, len(text))

    decodes_to_itself()
    figure(f"{count:,} texts of up to {longest:,} characters: 0 changed by encoding and decoding")
