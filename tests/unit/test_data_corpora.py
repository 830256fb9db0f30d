"""Converters of fetched texts, on small files made here."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from wenlu.core.errors import DataError
from wenlu.data.corpora import book, chapters, definitions, dialogues, factbook, laws, python_docs
from wenlu.data.corpora._rows import Counts, Options, Row, pages, paragraphs


def test_pages_end_before_the_block_that_is_too_much() -> None:
    assert list(pages(["aaaa", "bbbb", "cccc"], characters=8)) == [["aaaa", "bbbb"], ["cccc"]]


def test_a_heading_stays_with_its_text_and_a_short_end_joins() -> None:
    assert list(pages(["h", "x" * 30, "y" * 10, "z"], characters=20)) == [["h", "x" * 30], ["y" * 10, "z"]]
    assert list(pages(["x" * 19, "z" * 2], characters=20)) == [["x" * 19, "z" * 2]]


def test_paragraphs_are_separated_by_blank_lines() -> None:
    assert paragraphs("\n\na\nb\n \t\n\nc\n") == ["a\nb", "c"]


def test_a_book_becomes_chapters_of_joined_lines(tmp_path: Path) -> None:
    path = tmp_path / "Author - Work.txt"
    prose = "It was a long line of a hard-wrapped paragraph that\r\ngoes on here.  And here."
    blocks = ["\ufeffPART I", "THE SEA", prose, "Short verse\r\nof two lines", "Chapter 2", "End.", "CHAPTER III"]
    path.write_bytes("\r\n\r\n".join(blocks).encode("utf-8"))
    counts = Counts()
    rows = list(book.convert({"x/Author - Work.txt": path}, Options(titles={"Author - Work": "Work"}), counts))
    joined = "It was a long line of a hard-wrapped paragraph that goes on here. And here."
    assert rows == [
        Row(
            f"PART I\nTHE SEA\n\n{joined}\n\nShort verse\nof two lines",
            "Work: PART I, THE SEA",
            "x/Author - Work.txt",
            "en",
        ),
        Row("Chapter 2\n\nEnd.", "Work: Chapter 2", "x/Author - Work.txt", "en"),
    ]
    assert counts.dropped == {"heading_without_text": [1, 11]}


@pytest.mark.parametrize("block", ['"DEAR SIR,', "WHAT!", "He said no.", "1832", "A very long line " * 9])
def test_what_is_no_heading(block: str, tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    path.write_text(f"First.\n\n{block}\n\nSecond.\n", encoding="utf-8")
    assert len(list(book.convert({"b.txt": path}, Options(), Counts()))) == 1


def test_a_novel_becomes_chapters(tmp_path: Path) -> None:
    path = tmp_path / "novel.json"
    path.write_text(json.dumps(["第一回 甲\n\n\t話說。\n\t次日。\n", " \n"]), encoding="utf-8")
    counts = Counts()
    rows = list(chapters.convert({"n/novel.json": path}, Options(language="zh", titles={"novel": "书"}), counts))
    assert rows == [Row("第一回 甲\n\n話說。\n\n次日。", "书 第一回 甲", "n/novel.json", "zh")]
    assert counts.dropped == {"empty": [1, 2]}


def test_laws_keep_what_is_in_force(tmp_path: Path) -> None:
    path = tmp_path / "l?a#w%s.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE articles (id INTEGER, law_name, chapter, section, article_no, article_text, status,"
            " law_department)"
        )
        database.executemany(
            "INSERT INTO articles VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (2, "甲法", "第一章", None, "第二条", "二。", "现行有效", "民法"),
                (1, "甲法", "第一章", None, "第一条", "一。\n续。", "现行有效", "民法"),
                (3, "甲法", "第二章", "第一节", "第三条", "三。", "现行有效", "民法"),
                (4, "乙法", None, None, "第一条", "废。", "已废止", "民法"),
                (5, "丙法", None, None, "第一条", "别的。", "现行有效", "刑法"),
            ],
        )
    counts = Counts()
    rows = list(laws.convert({"laws.db": path}, Options(language="zh", departments=("民法",)), counts))
    assert [row.text for row in rows] == [
        "甲法\n第一章\n第一条　一。\n续。\n第二条　二。",
        "甲法\n第二章\n第一节\n第三条　三。",
    ]
    assert counts.dropped == {"not_in_force": [1, 2], "other_department": [1, 3]}


def test_countries_lose_their_markup(tmp_path: Path) -> None:
    path, short = tmp_path / "gb.json", tmp_path / "xx.json"
    background = "<b>Gabon</b> is &eacute;t&eacute;.<br><br>" + "More text. " * 30
    record = {
        "Introduction": {"Background": {"text": background}},
        "Economy": {"Economic overview": {"text": "rich &amp; small"}},
        "Government": {"Country name": {"conventional short form": {"text": "none"}}},
    }
    record["Government"]["Country name"]["conventional long form"] = {"text": "Gabonese Republic"}
    path.write_text(json.dumps(record), encoding="utf-8")
    short.write_text("{}", encoding="utf-8")
    options = Options(fields=("Introduction/Background", "Economy/Economic overview", "Economy/Missing"))
    counts = Counts()
    (row,) = factbook.convert({"a/gb.json": path, "a/xx.json": short}, options, counts)
    assert row.title == "Gabonese Republic"
    assert row.text.startswith("Gabonese Republic\n\nGabon is été.\n\nMore text.")
    assert row.text.endswith("Economic overview: Rich & small")
    assert counts.dropped == {"too_short": [1, 2]}


def test_definitions_are_lines_of_a_zip_inside_the_wheel(tmp_path: Path) -> None:
    path = tmp_path / "d.zip"
    leave = "闯荡\t1.离开故乡﹐到外谋生。\n"
    lines = f"晨风\t1.清晨的风。 2.鸟名。\n{leave}空\t\n{leave}重\t一\n重\t一\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("words.txt", lines)
    counts = Counts()
    (row,) = definitions.convert({"j/d.zip": path}, Options(language="zh", titles={"words": "词典"}), counts)
    assert row.text.split("\n")[:2] == ["晨风：1.清晨的风。 2.鸟名。", "闯荡：离开故乡，到外谋生。"]
    assert (row.title, row.source) == ("词典", "j/d.zip/words.txt")
    assert counts.dropped["no_definition"] == [1, 1]
    assert counts.dropped["repeated"][0] == 2


def test_dialogues_by_language_and_what_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    text = "categories:\n- x\nconversations:\n- - 你好\n  - 好\n- - 你好\n  - 好\n- - 单\n"
    text += "- - !!python/object:os.system x\n"
    path.write_text(text + "  - b\n- - a: map\n  - b\n- just a text\n- - 早\n  - 早上好\n", encoding="utf-8")
    counts = Counts()
    (row,) = dialogues.convert({"data/chinese/a.yml": path}, Options(), counts)
    assert (row.language, row.text) == ("zh", "你好\n好\n\n早\n早上好")
    assert {reason: pieces for reason, (pieces, _) in counts.dropped.items()} == {
        "repeated": 1,
        "one_line": 2,
        "not_a_list_of_texts": 2,
    }


def test_python_docs_come_from_files_in_sorted_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "lib"
    (library / "pydoc_data").mkdir(parents=True)
    (library / "test").mkdir()
    (library / "pydoc_data/topics.py").write_text('topics = {"b": "B text\\n", "a": "A\\n\\ntext"}\n', encoding="utf-8")
    (library / "test/hidden.py").write_text('"""Not this."""\n', encoding="utf-8")
    (library / "broken.py").write_text("def (:\n", encoding="utf-8")
    (library / "mod.py").write_text(
        'r"""Module \\d."""\nraise SystemExit("imported!")\nclass C(Base):\n    """Doc."""\n'
        '    def f(self, x=1):\n        """Call\n        it."""\n\n    def g(self):\n        """Doc."""\n',
        encoding="utf-8",
    )
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(library))
    counts = Counts()
    rows = list(python_docs.convert({}, Options(parts=("topics", "docstrings")), counts))
    assert [row.title for row in rows] == ["Python: a", "Python: b", "Python: mod"]
    assert rows[2].text == "module mod\n\nModule \\d.\n\nclass C(Base)\n\nDoc.\n\ndef C.f(self, x=1)\n\nCall\nit."
    assert counts.dropped == {"not_python": [1, 9], "repeated": [1, 4]}


def test_a_python_without_its_library_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError) as caught:
        list(python_docs.convert({}, Options(parts=("topics",)), Counts()))
    assert caught.value.id == "fetch.no_standard_library"
