"""Files of every encoding and state of repair: read right, or refused by name with file, line and remedy."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import threading
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard

from skips import needs_posix
from wenlu.core.errors import DataError, SettingsError
from wenlu.data.documents import DataSettings, Document, Report, read_documents
from wenlu.data.files import find_files

CHINESE = "第一回  甄士隐梦幻识通灵 贾雨村风尘怀闺秀\n此开卷第一回也．作者自云：因曾历过一番梦幻之后，故将真事隐去"
TRADITIONAL = "帝京篇十首 四\n太宗皇帝\n鳴笳臨樂館，眺聽歡芳節。\n急管韻朱絃，清歌凝白雪。"
FRENCH = "La liberté guide nos pas.\nForêt, été, garçon: où êtes-vous donc allés ce matin?\n"


def read(path: Path, report: Report | None = None, **settings: object) -> list[Document]:
    made = DataSettings(paths=(str(path),), **settings)  # type: ignore[arg-type]
    return list(read_documents(made, Report() if report is None else report))


def texts(path: Path, **settings: object) -> list[str]:
    return [document.text for document in read(path, **settings)]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_understood(tmp_path: Path, mark: str) -> None:
    assert texts(write(tmp_path, "a.txt", CHINESE.encode(mark))) == [CHINESE]


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "shift_jis", "utf-16-le", "utf-16-be", "latin-1"])
def test_an_encoding_that_was_asked_for(tmp_path: Path, encoding: str) -> None:
    text = {"big5": TRADITIONAL, "shift_jis": "日本語のテキスト。\n春はあけぼの。", "latin-1": FRENCH}.get(
        encoding, CHINESE
    )
    assert texts(write(tmp_path, "a.txt", text.encode(encoding)), encoding=encoding) == [text.rstrip()]


@pytest.mark.parametrize(
    ("encoding", "text", "likely"),
    [
        ("gb18030", CHINESE, "gb18030"),
        ("gb18030", "金陵十二钗", "gb18030"),
        ("gb18030", "学习的人\n" * 5, "gb18030"),  # the first two characters are valid UTF-8
        ("gb18030", "要学习的内容", "gb18030"),
        ("big5", TRADITIONAL, "big5"),
        ("cp1252", FRENCH, "cp1252"),
        ("utf-16-le", CHINESE, "utf-16-le"),
        ("utf-16-be", "plain English text\nin two lines\n", "utf-16-be"),
    ],
)
def test_another_encoding_is_refused_with_its_probable_name(
    tmp_path: Path, encoding: str, text: str, likely: str
) -> None:
    path = write(tmp_path, "a.txt", text.encode(encoding))
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.id == "data.undecodable"
    assert caught.value.values["likely"] == likely
    assert f"{path}:1" in str(caught.value) and f'data.encoding = "{likely}"' in str(caught.value)


@pytest.mark.parametrize("asked", ["gb18030", "GBK", "big5", "shift_jis", "cp1252", "ascii", "utf-16"])
def test_utf_8_is_named_where_another_encoding_was_asked_for(tmp_path: Path, asked: str) -> None:
    for text in (CHINESE, "好的一行\n" * 5000 + CHINESE, "plain\n" * 20_000 + CHINESE):
        with pytest.raises(DataError) as caught:
            read(write(tmp_path, "a.txt", text.encode()), encoding=asked)
        assert (caught.value.id, caught.value.values.get("likely")) == ("data.undecodable", "utf-8")


@pytest.mark.parametrize("text", [FRENCH, "Привет, мир\n", "שלום עולם\n"])
def test_a_damaged_text_of_short_characters_is_called_damaged(tmp_path: Path, text: str) -> None:
    for content in (text.encode() + b"\xff" + text.encode(), text.encode() * 3000 + b"\xff\xfe"):
        with pytest.raises(DataError) as caught:
            read(write(tmp_path, "a.txt", content))
        assert caught.value.id == "data.damaged_text"


def test_the_place_of_a_damaged_byte(tmp_path: Path) -> None:
    before = "好的一行\r\n" * 5000
    path = write(tmp_path, "a.txt", before.encode() + "坏".encode() + b"\xff\xfe" + "行\n".encode())
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.id == "data.damaged_text"
    assert caught.value.values["line"] == 5001
    assert caught.value.values["offset"] == len(before.encode()) + 3


@pytest.mark.parametrize(
    "damage",
    [b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xe4\xb8"],
    ids=["overlong", "wtf-8 surrogate", "five bytes", "cut off"],
)
def test_invalid_utf8_is_refused_or_replaced_and_counted(tmp_path: Path, damage: bytes) -> None:
    path = write(tmp_path, "a.txt", "文字".encode() + damage)
    with pytest.raises(DataError, match=r"(?s)not valid utf-8.*a\.txt:1, byte 6"):
        read(path)
    report = Report()
    documents = read(path, report, bad_bytes="replace")
    assert [document.text for document in documents] == ["文字" + "\ufffd" * len(damage)]
    assert report.changed["bad_bytes"].characters == len(damage)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"%PDF-1.7 and more", "PDF"),
        (b"PK\x03\x04 and more", "ZIP"),
        (gzip.compress(b"text"), "gzip"),
        (bytes(range(256)) * 40, "NUL"),
        (b"text " * 40_000 + b"\0", "NUL"),
    ],
)
def test_binary_files_are_refused(tmp_path: Path, content: bytes, kind: str) -> None:
    with pytest.raises(DataError, match=f"(?s)not a text file.*{kind}"):
        read(write(tmp_path, "a.txt", content))


def test_unusual_but_valid_texts_survive(tmp_path: Path) -> None:
    text = "👩‍👩‍👧‍👦 é e\u0301 \u202bעברית\u202c a" + "\u0301" * 100_000 + "\ufffd\U0010ffff"
    assert texts(write(tmp_path, "a.txt", text)) == [text]


def test_a_long_line_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("the quick brown fox " * 1_000_000, encoding="utf-8")
    tracemalloc.start()
    try:
        sizes = [len(document.text) for document in read_documents(DataSettings(paths=(str(path),)), Report())]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(sizes) == 20 and peak < 8e6  # of a file of 20 MB


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    needs_posix()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("one\ntwo\n", encoding="utf-8"))
    writer.start()
    try:
        assert texts(pipe, document="line") == ["one", "two"]
    finally:
        writer.join()


def test_empty_files_and_single_characters(tmp_path: Path) -> None:
    report = Report()
    assert read(write(tmp_path, "a.txt", b""), report) == []
    assert read(write(tmp_path, "b.txt", " \n\t\n"), report) == []
    assert report.dropped["empty"].documents == 1  # a file of no character holds no document
    assert texts(write(tmp_path, "c.txt", "x")) == ["x"]


@pytest.mark.parametrize("name", ["paths", "validation_paths", "test_paths"])
def test_an_empty_path_is_not_the_working_folder(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        DataSettings(**{name: ("text.txt", "")})
    assert caught.value.id == "data.no_paths"


def test_an_unknown_encoding_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="no text encoding"):
        DataSettings(encoding="utf-9")
    with pytest.raises(SettingsError, match="no text encoding"):
        DataSettings(encoding="hex")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("auto", ["one\ntwo\n\n\nthree"]),
        ("file", ["one\ntwo\n\n\nthree"]),
        ("blank_line", ["one\ntwo", "three"]),
        ("line", ["one", "two", "three"]),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_what_a_document_is(tmp_path: Path, mode: str, expected: list[str], line_end: str) -> None:
    path = write(tmp_path, "a.md", "one\ntwo\n\n\nthree\n".replace("\n", line_end))
    assert texts(path, document=mode) == expected


def test_the_line_of_a_document(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "one\n\ntwo\nthree\n")
    assert [document.source for document in read(path, document="blank_line")] == [f"{path}:1", f"{path}:3"]
    assert [document.source for document in read(path, document="line")] == [f"{path}:{n}" for n in (1, 3, 4)]


def test_long_documents_are_cut_at_line_ends_and_counted(tmp_path: Path) -> None:
    lines = [f"{number:03d} " + "字" * 30 for number in range(50)]
    for name in ("a.txt", "a.jsonl"):
        content = "\n".join(lines)
        path = write(tmp_path, name, content if name == "a.txt" else json.dumps({"text": content}))
        report = Report()
        parts = [document.text for document in read(path, report, maximum_characters=300)]
        assert "\n".join(parts) == content
        assert all(len(part) <= 300 and part.split("\n")[0][:3].isdigit() for part in parts)
        assert (report.documents, report.cut_documents, report.cut_parts) == (1, 1, len(parts))


@pytest.mark.parametrize("mode", ["file", "blank_line", "line"])
def test_a_line_longer_than_a_document_loses_nothing(tmp_path: Path, mode: str) -> None:
    text = "字" * 1000 + "\n" + "b" * 250
    report = Report()
    found = [
        document.text
        for document in read(write(tmp_path, "a.txt", text), report, maximum_characters=100, document=mode)
    ]
    assert "".join(found) == text.replace("\n", "")
    assert report.cut_documents == (2 if mode == "line" else 1)
    assert max(map(len, found)) <= 100


JSON_MISTAKES = [
    ('{"text": "a"}\n{"text": "b"\n', "data.bad_json", 2),
    ('\n{"text": "a"}\n["b"]\n', "data.row_not_object", 3),
    ('{"text": "a"}\n{"content": "b", "title": "c"}\n', "data.missing_field", 2),
    ('{"text": 7}\n', "data.field_not_text", 1),
    ('{"text": "a"}\n{"text": "x\\ud800y"}\n', "data.lone_surrogate", 2),
    ("[" * 200_000 + "\n", "data.bad_json", 1),
    ('{"text": ' + "9" * 5000 + "}\n", "data.bad_json", 1),
]


@pytest.mark.parametrize(("content", "id", "line"), JSON_MISTAKES)
def test_mistakes_in_json_lines_name_their_line(tmp_path: Path, content: str, id: str, line: int) -> None:
    path = write(tmp_path, "a.jsonl", content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert (caught.value.id, caught.value.values["line"]) == (id, line)
    assert f"{path}:{line}" in str(caught.value)


def test_a_missing_field_shows_the_fields_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)no field 'text'.*fields: content, title"):
        read(write(tmp_path, "a.jsonl", '{"content": "b", "title": "c"}\n'))


def test_a_null_row_is_dropped_and_counted(tmp_path: Path) -> None:
    report = Report()
    documents = read(write(tmp_path, "a.jsonl", '{"text": null}\n{"text": "a"}\n'), report)
    assert [document.text for document in documents] == ["a"]
    assert report.dropped["null"].documents == 1 and report.documents == 2


def test_separators_of_unicode_do_not_end_a_json_line(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\x0bd"
    path = write(tmp_path, "a.jsonl", json.dumps({"text": text}, ensure_ascii=False).replace("\\u000b", "") + "\r\n")
    assert texts(path, cleaning="none") == [text.replace("\x0b", "")]


def test_csv_with_quotes_line_ends_and_long_fields(tmp_path: Path) -> None:
    long = "长" * 200_000
    path = write(tmp_path, "a.csv", f'\ufeffid,text\r\n1,"one, ""quoted""\r\nline"\r\n2,{long}\r\n')
    documents = read(path)
    assert [document.text for document in documents] == ['one, "quoted"\nline', long]
    assert documents[1].source == f"{path}:4"


@pytest.mark.parametrize(
    ("content", "id", "line"),
    [
        ("id,content\n1,a\n", "data.missing_field", 1),
        ("id,text\n1,a\n2\n", "data.short_row", 3),
        ('id,text\n1,"a\n2,b\n', "data.bad_csv", 2),
    ],
)
def test_mistakes_in_csv_name_their_line(tmp_path: Path, content: str, id: str, line: int) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, "a.csv", content))
    assert (caught.value.id, caught.value.values["line"]) == (id, line)


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["一", None, "three"], "id": [1, 2, 3]}), tmp_path / "a.parquet")
    report = Report()
    assert [document.text for document in read(tmp_path / "a.parquet", report)] == ["一", "three"]
    assert report.dropped["null"].documents == 1
    with pytest.raises(DataError, match="fields: text, id"):
        read(tmp_path / "a.parquet", text_field="content")
    with pytest.raises(DataError, match="not text"):
        read(tmp_path / "a.parquet", text_field="id")
    whole = (tmp_path / "a.parquet").read_bytes()
    for damaged in (b"", b"text", whole[:-10], whole[: len(whole) // 2]):
        with pytest.raises(DataError, match="Parquet file cannot be read"):
            read(write(tmp_path, "b.parquet", damaged))


COMPRESS = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    parts = [f"{number} 第一回\n" * 300 for number in range(2)]
    packed = b"".join(COMPRESS[suffix](part.encode()) for part in parts)  # two members one after another
    assert texts(write(tmp_path, f"a.txt.{suffix}", packed)) == ["".join(parts).rstrip()]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_damaged_compressed_file_is_never_a_short_text(tmp_path: Path, suffix: str) -> None:
    noise = "".join(chr(0x4E00 + zlib.crc32(bytes([n % 256, n // 256])) % 20_000) for n in range(20_000))
    packed = COMPRESS[suffix](noise.encode())
    for length in (0, 1, len(packed) // 2, len(packed) - 1):
        with pytest.raises(DataError, match=r"damaged or was cut off"):
            read(write(tmp_path, f"a.txt.{suffix}", packed[:length]))
    with pytest.raises(DataError, match=r"damaged or was cut off"):
        read(write(tmp_path, f"b.txt.{suffix}", b"this is no compressed file at all"))


@pytest.mark.parametrize("suffix", ["gz", "xz"])
def test_damage_behind_the_first_part_is_never_a_short_text(tmp_path: Path, suffix: str) -> None:
    first, second = (COMPRESS[suffix](line) for line in (b"one\n", b"two\n"))
    assert texts(write(tmp_path, f"a.txt.{suffix}", first + bytes(8) + second)) == ["one\ntwo"]  # padding is allowed
    for damaged in (first + b"\1\2\3" + second[3:], first + second[:-3], first + b"rubbish"):
        with pytest.raises(DataError, match=r"damaged or was cut off"):
            read(write(tmp_path, f"b.txt.{suffix}", damaged))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_pipe(tmp_path: Path, suffix: str) -> None:
    needs_posix()
    pipe = tmp_path / f"pipe.txt.{suffix}"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(COMPRESS[suffix](CHINESE.encode())))
    writer.start()
    try:
        assert texts(pipe) == [CHINESE]
    finally:
        writer.join()


def test_folders_and_wildcards(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.md", "sub/c.jsonl", "README.md", "picture.png", ".hidden.txt"):
        write(tmp_path, name, '{"text": "x"}' if name.endswith("jsonl") else f"text of {name}")
    report = Report()
    found = [Path(document.source).name for document in read(tmp_path, report)]
    assert found == ["a.md:1", "b.txt:1", "c.jsonl:1"]
    assert report.skipped["unknown_format"].files == 1 and report.skipped["about_the_corpus"].files == 1
    assert texts(tmp_path / "*.txt") == ["text of b.txt"]
    assert texts(tmp_path / "README.md") == ["text of README.md"]


def test_the_order_of_files_does_not_depend_on_how_they_are_given(tmp_path: Path) -> None:
    names = [str(write(tmp_path, f"{letter}.txt", letter)) for letter in "cab"]
    report = Report()
    settings = DataSettings(paths=(*names, str(tmp_path), str(tmp_path / "sub/../a.txt")))
    (tmp_path / "sub").mkdir()
    assert [document.text for document in read_documents(settings, report)] == ["a", "b", "c"]
    assert report.skipped["given_twice"].files == 4


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("missing.txt", "data.missing_file"),
        ("*.txt", "data.no_match"),
        ("a.docx", "data.unknown_format"),
        ("", "data.nothing_readable"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, name: str, id: str) -> None:
    write(tmp_path, "a.docx", "x")
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    assert caught.value.id == id
    str(caught.value)


def test_a_misspelt_file_name_shows_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "hongloumeng.txt", "x")
    with pytest.raises(DataError, match=r"nearest name there is: hongloumeng\.txt"):
        read(tmp_path / "honglomeng.txt")


def test_a_missing_file_names_one_near_name_or_none(tmp_path: Path) -> None:
    for name in ("novel.txt", "poems.txt"):
        write(tmp_path, name, "x")
    for name, near in (("nowel.txt", "novel.txt"), ("zzz", "-")):
        with pytest.raises(DataError) as caught:
            find_files([str(tmp_path / name)], Report())
        assert caught.value.values["near"] == near
