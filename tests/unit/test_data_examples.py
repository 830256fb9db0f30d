"""Labelled examples: every format, every kind of field, and what is said of rows that are wrong."""

from __future__ import annotations

import gzip
import json
import logging
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from promises import Figure
from skips import needs_test_data
from wenlu.core import plugins
from wenlu.core.errors import DataError, SettingsError, WenluError
from wenlu.data.examples import Example, FieldKind, Schema, read_examples
from wenlu.data.tag_schemes import detect


def schema(name: str, *optional: str, **fields: FieldKind) -> Schema:
    return Schema(name, fields, frozenset(optional))


CLASSES = schema("classification", text="text", label="label")
LABELS = schema("multi_label", text="text", labels="labels")
PAIR = schema("pair", "score", text="text", text_pair="text", label="label", score="label")
TAGS = schema("tagging", tokens="tokens", tags="tags")
FRAMES = schema("semantic_roles", tokens="tokens", frames="frames")
RELATION = schema("relation", text="text", head="span", tail="span", label="label")
TEXTS = schema("texts", source="text", target="text")

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A file of this content; its path."""

    def write(name: str, content: str | bytes | list[Any] | dict[str, Any]) -> str:
        path = tmp_path / name
        if isinstance(content, list) and not name.endswith(".json"):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        elif isinstance(content, (list, dict)):
            content = json.dumps(content, ensure_ascii=False, indent=1)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(path)

    return write


def read(path: str, wanted: Schema, **settings: Any) -> list[dict[str, Any]]:
    return [dict(example.fields) for example in read_examples([path], wanted, **settings)]


def lines(examples: Iterator[Example]) -> list[int]:
    return [int(example.where.rpartition(":")[2]) for example in examples]


ROWS = [{"text": "很好", "label": "正"}, {"text": "not, \"good\"", "label": "neg"}]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "很好", "label": "正", "more": 1}\n\n{"label": "neg", "text": "not, \\"good\\""}\n'),
        ("a.jsonl", '\ufeff{"text": "很好", "label": "正"}\r\n{"text": "not, \\"good\\"", "label": "neg"}'),
        ("a.jsonl.gz", '{"text_a": "很好", "label": "正"}\n{"label": "neg", "text": "not, \\"good\\""}\n'),
        ("a.json", ' [\n{"text": "很好", "label": "正"} ,{"text": "not, \\"good\\"", "label": "neg"}\n]\n'),
        ("a.json", '{"text": "很好", "label": "正"}\n{"label": "neg", "text": "not, \\"good\\""}\n'),
        ("a.csv", 'label,text\n正,很好\n\nneg,"not, ""good"""\n'),
        ("a.tsv", 'label\ttext_a\n正\t很好\nneg\tnot, "good"\n'),
        ("a.tsv", 'text\tlabel\r\n很好\t正\r\n"not, ""good"""\tneg\r\n'),
        ("a.txt", 'id\tlabel\ttext\n1\t正\t很好\n2\tneg\tnot, "good"\n'),
    ],
)
def test_the_same_rows_in_every_form(make: Make, name: str, content: str) -> None:
    assert read(make(name, content), CLASSES) == ROWS


def test_rows_keep_their_order_and_place(make: Make) -> None:
    first = make("b.jsonl", [{"text": str(number), "label": "x"} for number in range(3)])
    second = make("a.csv", 'text,label\n"two\nlines",x\nlast,y\n')
    examples = list(read_examples([first, second], CLASSES))
    assert [example.fields["text"] for example in examples] == ["two\nlines", "last", "0", "1", "2"]
    assert [example.where for example in examples[:3]] == [f"{second}:2", f"{second}:4", f"{first}:1"]
    pretty = make("c.json", '\n[\n {\n  "text": "a",\n  "label": "x"\n },\n\n {"text": "b\\n", "label": "y"}]')
    assert lines(read_examples([pretty], CLASSES)) == [3, 8]


def test_columns_and_fields_may_have_other_names(make: Make) -> None:
    bare = make("bare.txt", "很好\t1\t-\n差\t0\t-\n")
    assert read(bare, CLASSES, columns=["text", "label", "-"]) == [
        {"text": "很好", "label": "1"},
        {"text": "差", "label": "0"},
    ]
    table = make("t.csv", "review,stars\ngood,5\n")
    names = {"text": "review", "label": "stars"}
    assert read(table, CLASSES, names=names) == [{"text": "good", "label": "5"}]
    assert read(make("t.jsonl", [{"review": "good", "stars": "a"}]), CLASSES, names=names)[0]["label"] == "a"
    published = {"text_a": "a", "text_b": "b", "gold": "x"}
    assert read(make("p.jsonl", [published]), PAIR) == [{"text": "a", "text_pair": "b", "label": "x"}]
    tabs = make("pairs.txt", "un\tone\tby me\ndeux\ttwo\tby you\n")
    assert read(tabs, TEXTS, columns=["source", "target", "-"])[1] == {"source": "deux", "target": "two"}


def test_cells_hold_what_their_kind_says(make: Make) -> None:
    rows = "text\tlabels\tid\nboth\t4, 27\tx\nnone\t-\ty\n"
    assert read(make("l.tsv", rows), LABELS)[0] == {"text": "both", "labels": ["4", "27"]}
    pairs = make("p.csv", "text,text_pair,label,score\na,b,yes,4.5\na,c,no,\n")
    assert [row.get("score") for row in read(pairs, PAIR)] == ["4.5", None]
    tagged = make("t.tsv", "tokens\ttags\nA b\tX Y\n")
    assert read(tagged, TAGS) == [{"tokens": ["A", "b"], "tags": ["X", "Y"]}]


def test_numbers_are_labels_and_it_is_said_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    path = make("a.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": 0.5}, {"text": "c", "label": True}])
    with caplog.at_level(logging.INFO):
        assert [row["label"] for row in read(path, CLASSES)] == ["1", "0.5", "true"]
    assert [str(record.msg) for record in caplog.records] == [
        f"{path}:1: label is the number 1; labels are taken as their text"
    ]


SENTENCES = [
    {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
    {"tokens": ["好"], "tags": ["O"]},
]


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.conll", "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n \n\n好 JJ O", ()),
        ("a.conll", "EU\tB-ORG\t9\r\nrejects\tO\t9\r\n\t\r\n好\tO\t9\r\n", ("tokens", "tags", "-")),
        ("a.bio", "EU B-ORG\nrejects O\n\n好 O\n", ()),
        ("a.tsv", "EU\tB-ORG\nrejects\tO\n\n好\tO\n", ()),
        ("a.txt", "EU B-ORG\nrejects O\n\n好 O\n", ()),
        ("a.iob2", "EU B-ORG\nrejects O\n\n好 O\n", ()),
        ("a.iob2", "# sent_id = 1\n1\tEU\tB-ORG\t-\tme\n2\trejects\tO\t-\tme\n\n# x\n1\t好\tO\t-\tme\n", ()),
        ("a.txt", "EU/B-ORG rejects/O\n\n好/O\n", ()),
        ("a.tagged", "EU/B-ORG  rejects/O\r\n好/O", ()),
    ],
)
def test_the_same_sentences_in_every_form(make: Make, name: str, content: str, columns: tuple[str, ...]) -> None:
    assert read(make(name, content), TAGS, columns=columns) == SENTENCES


CONLLU = """# sent_id = 1
# text = vámonos al mar
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\tV\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_
2.1\tnada\t_\tX\tX\t_\t_\t_\t_\t_
3\t#\t#\tSYM\tS\t_\t1\tpunct\t_\t_

# sent_id = 2
1\ta b\ta\tNOUN\tN\t_\t0\troot\t_\t_
"""


def test_conllu_leaves_out_ranges_comments_and_empty_nodes(make: Make) -> None:
    path = make("a.conllu.gz", CONLLU)
    assert [row["tags"] for row in read(path, TAGS)] == [["VERB", "PRON", "SYM"], ["NOUN"]]
    assert [row["tokens"] for row in read(path, TAGS)] == [["vamos", "nos", "#"], ["a b"]]
    fine = read(path, TAGS, columns=["-", "tokens", "-", "-", "tags"])
    assert [row["tags"] for row in fine] == [["V", "P", "S"], ["N"]]
    assert lines(read_examples([path], TAGS)) == [4, 10]


def test_slashes_inside_words(make: Make) -> None:
    path = make("a.pos", "1\\/2/CD and/or/CC //SYM")
    assert read(path, TAGS) == [{"tokens": ["1/2", "and/or", "/"], "tags": ["CD", "CC", "SYM"]}]


def test_tags_may_be_missing_where_they_are_optional(make: Make) -> None:
    unlabelled = Schema("tagging", TAGS.fields, frozenset({"tags"}))
    assert read(make("a.conll", "EU\nrejects\n\n好\n"), unlabelled) == [
        {"tokens": ["EU", "rejects"]},
        {"tokens": ["好"]},
    ]


def test_objects_keep_what_is_not_asked_for(make: Make) -> None:
    frame = {"predicate": 1, "sense": "go.01", "tags": ["B-ARG0", "O"]}
    assert read(make("a.jsonl", [{"tokens": ["I", "go"], "frames": [frame]}]), FRAMES)[0]["frames"] == [frame]
    head, tail = {"start": 0, "end": 1}, {"text": "乙", "start": 1, "end": 2, "type": "x"}
    row = {"text": "甲乙", "head": head, "tail": tail, "label": "r"}
    assert read(make("c.jsonl", [row]), RELATION)[0]["head"] == {"text": "甲", **head}
    assert read(make("c.jsonl", [row]), RELATION)[0]["tail"] == tail


def test_other_encodings_folders_and_pipes(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make("a.csv", "text,label\n很好,正\n".encode("gb18030"))
    assert read(path, CLASSES, encoding="gb18030") == ROWS[:1]
    with pytest.raises(DataError, match="probably gb18030"):
        read(path, CLASSES)
    make("README.md", "about")
    make("b.tsv", "text\tlabel\nx\ty\n")
    with caplog.at_level(logging.INFO):
        examples = list(read_examples([str(tmp_path)], CLASSES, encoding="gb18030"))
    assert [example.fields["label"] for example in examples] == ["正", "y"]
    assert any("README.md" in str(record.msg) for record in caplog.records)
    reading, writing = os.pipe()
    os.write(writing, b'{"text": "x", "label": "y"}\n')
    os.close(writing)
    assert read(f"/dev/fd/{reading}", CLASSES) == [{"text": "x", "label": "y"}]
    os.close(reading)


def test_wrong_rows_can_be_collected(make: Make) -> None:
    content = '{"text": "a", "label": "x"}\n{"text": 1}\nnot json\n[1]\n{"text": "b", "label": "y"}\n'
    refused: list[DataError] = []

    def note(error: DataError, row: Mapping[str, object] | None) -> None:
        refused.append(error)

    assert [row["text"] for row in read(make("a.jsonl", content), CLASSES, refused=note)] == ["a", "b"]
    assert [error.id for error in refused] == ["examples.wrong_kind", "data.bad_json", "data.row_not_object"]
    refused.clear()
    table = make("b.tsv", "text\tlabel\na\tx\nb\nc\ty\tz\nd\t\n")
    assert len(read(table, CLASSES, refused=note)) == 1
    assert [error.id for error in refused] == ["examples.columns", "examples.columns", "examples.null"]


def test_a_file_that_breaks_off_is_told_and_the_next_is_read(make: Make) -> None:
    first, second = make("a.json", '[{"text": "a", "label": "x"}, {"text": '), make("b.jsonl", ROWS)
    refused: list[DataError] = []
    found = read_examples([first, second], CLASSES, refused=lambda error, row: refused.append(error))
    assert [example.fields["text"] for example in found] == ["a", *(row["text"] for row in ROWS)]
    assert [error.id for error in refused] == ["examples.bad_json"]


def test_a_mended_row_is_read_again_and_others_are_kept_whole(make: Make) -> None:
    path = make("a.jsonl", [{"id": 7, "text_a": "a", "label": None}, {"text": "b", "text_a": "c", "label": "y"}])
    mended = read_examples([path], CLASSES, whole=True, refused=lambda error, row: {**(row or {}), "label": "x"})
    assert [example.fields for example in mended] == [
        {"id": 7, "text": "a", "label": "x"},
        {"text": "b", "text_a": "c", "label": "y"},
    ]


def test_formats_are_found_by_their_files() -> None:
    known = ["conll", "conllu", "jsonl", "slashed", "table"]
    assert plugins.names("wenlu.data.formats") == known
    with pytest.raises(SettingsError, match="conllu"):
        list(read_examples(["x"], TAGS, format="conlu"))


def test_rows_are_streamed(make: Make) -> None:
    long = "字" * 200
    for name, content in {
        "a.jsonl": f'{{"text": "{long}", "label": "x"}}\n' * 6_000,
        "a.tsv": "text\tlabel\n" + f"{long}\tx\n" * 6_000,
        "a.csv": "text,label\n" + f"{long},x\n" * 6_000,
    }.items():
        path = make(name, content)
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_examples([path], CLASSES)) == 6_000
            assert tracemalloc.get_traced_memory()[1] < 3 << 19, name
        finally:
            tracemalloc.stop()


GOOD: dict[str, tuple[Schema, dict[str, Any]]] = {
    "class": (CLASSES, ROWS[0]),
    "labels": (LABELS, {"text": "a", "labels": ["x", "y"]}),
    "pair": (PAIR, {"text": "a", "text_pair": "b", "label": "yes", "score": 1.5}),
    "tags": (TAGS, SENTENCES[0]),
    "frames": (FRAMES, {"tokens": ["I", "go"], "frames": [{"predicate": 1, "tags": ["B-A0", "O"]}]}),
    "relation": (
        RELATION,
        {
            "text": "甲乙丙",
            "head": {"text": "甲", "start": 0, "end": 1},
            "tail": {"start": 1, "end": 3},
            "label": "r",
        },
    ),
    "texts": (TEXTS, {"source": "a", "target": "b"}),
}
WRONG: list[tuple[str, dict[str, Any], str, str]] = [  # kind of row, what is changed in it, the error, what it names
    ("class", {"label": ...}, "missing_field", "'label'"),
    ("class", {"text": ...}, "missing_field", "'text'"),
    ("class", {"text": None}, "null", "text"),
    ("class", {"label": None}, "null", "label"),
    ("class", {"text": ""}, "empty", "text"),
    ("class", {"text": " \t\u3000"}, "empty", "text"),
    ("class", {"label": ""}, "empty", "label"),
    ("class", {"text": 3}, "wrong_kind", "text must be a text"),
    ("class", {"text": ["a"]}, "wrong_kind", "['a']"),
    ("class", {"text": {"a": 1}}, "wrong_kind", "{'a': 1}"),
    ("class", {"label": ["a"]}, "wrong_kind", "label must be a label"),
    ("class", {"label": {"a": "b"}}, "wrong_kind", "label"),
    ("class", {"label": float("nan")}, "wrong_kind", "nan"),
    ("class", {"label": float("inf")}, "wrong_kind", "inf"),
    ("class", {"text": "a\ud800"}, "surrogate", "D800"),
    ("class", {"label": "\udfff"}, "surrogate", "label"),
    ("labels", {"labels": "x"}, "wrong_kind", "labels must be a list"),
    ("labels", {"labels": ["x", None]}, "wrong_kind", "labels[1]"),
    ("labels", {"labels": ["x", ""]}, "empty", "labels[1]"),
    ("labels", {"labels": ["x", "y", "x"]}, "label_twice", "'x'"),
    ("labels", {"labels": [1, "1"]}, "label_twice", "'1'"),
    ("labels", {"labels": [["x"]]}, "wrong_kind", "labels[0]"),
    ("labels", {"labels": ...}, "missing_field", "'labels'"),
    ("pair", {"text_pair": ...}, "missing_field", "'text_pair'"),
    ("pair", {"score": ["high"]}, "wrong_kind", "score must be a label"),
    ("pair", {"score": float("nan")}, "wrong_kind", "nan"),
    ("class", {"label": 10**400}, "wrong_kind", "000...000"),
    ("class", {"label": -(10**400)}, "wrong_kind", "label must be"),
    ("tags", {"tags": ["O"]}, "lengths", "1 tags for 2 tokens"),
    ("tags", {"tags": ["O", "O", "O"]}, "lengths", "3 tags for 2 tokens"),
    ("tags", {"tags": []}, "too_few", "tags"),
    ("tags", {"tokens": []}, "too_few", "tokens"),
    ("tags", {"tokens": "EU rejects"}, "wrong_kind", "tokens must be a list"),
    ("tags", {"tokens": ["EU", ""]}, "empty", "tokens[1]"),
    ("tags", {"tokens": ["EU", "\u3000"]}, "empty", "tokens[1]"),
    ("tags", {"tokens": ["EU", 7]}, "wrong_kind", "tokens[1]"),
    ("tags", {"tokens": ["EU", None]}, "wrong_kind", "tokens[1]"),
    ("tags", {"tokens": ["\ud800", "x"]}, "surrogate", "tokens[0]"),
    ("tags", {"tags": ["O", 1]}, "wrong_kind", "tags[1]"),
    ("tags", {"tags": ["O", [1]]}, "wrong_kind", "tags[1]"),
    ("tags", {"tags": ...}, "missing_field", "'tags'"),
    ("tags", {"tokens": {"0": "EU"}}, "wrong_kind", "tokens"),
    ("frames", {"frames": {}}, "wrong_kind", "frames must be a list"),
    ("frames", {"frames": [1]}, "wrong_kind", "frames[0] must be a JSON object"),
    ("frames", {"frames": [{"tags": ["O", "O"]}]}, "null", "frames[0].predicate"),
    ("frames", {"frames": [{"predicate": 1}]}, "null", "frames[0].tags"),
    ("frames", {"frames": [{"predicate": 2, "tags": ["O", "O"]}]}, "out_of_range", "2; 0 to 1"),
    ("frames", {"frames": [{"predicate": -1, "tags": ["O", "O"]}]}, "out_of_range", "-1"),
    ("frames", {"frames": [{"predicate": "go", "tags": ["O", "O"]}]}, "wrong_kind", "a whole number"),
    ("frames", {"frames": [{"predicate": 1.0, "tags": ["O", "O"]}]}, "wrong_kind", "1.0"),
    ("frames", {"frames": [{"predicate": 1, "tags": ["O"]}]}, "lengths", "frames[0].tags"),
    ("frames", {"frames": None}, "null", "frames"),
    ("frames", {"frames": [{"predicate": 5, "tags": ["O", "O"]}]}, "out_of_range", "frames[0].predicate"),
    ("frames", {"frames": [{"predicate": 0, "tags": []}]}, "too_few", "frames[0].tags"),
    ("frames", {"frames": "art"}, "wrong_kind", "frames"),
    ("frames", {"tokens": ...}, "missing_field", "'tokens'"),
    ("relation", {"head": "甲"}, "wrong_kind", "head must be a span"),
    ("relation", {"head": {"start": 0}}, "null", "head.end"),
    ("relation", {"head": {"end": 1}}, "null", "head.start"),
    ("relation", {"head": {"start": 0, "end": 0}}, "out_of_range", "head.end"),
    ("relation", {"head": {"start": 2, "end": 1}}, "out_of_range", "head.end"),
    ("relation", {"head": {"start": 0, "end": 4}}, "out_of_range", "4; 1 to 3"),
    ("relation", {"head": {"start": 3, "end": 4}}, "out_of_range", "head.start"),
    ("relation", {"head": {"start": -1, "end": 1}}, "out_of_range", "-1"),
    ("relation", {"head": {"text": "丙", "start": 0, "end": 1}}, "not_there", "'丙' at character 0"),
    ("relation", {"head": {"text": "甲乙", "start": 0, "end": 1}}, "not_there", "'甲乙'"),
    ("relation", {"head": {"text": 1, "start": 0, "end": 1}}, "wrong_kind", "head"),
    ("relation", {"head": {"start": "0", "end": 1}}, "wrong_kind", "head.start"),
    ("relation", {"tail": None}, "null", "tail"),
    ("relation", {"tail": ...}, "missing_field", "'tail'"),
    ("relation", {"head": {"text": "甲", "start": 1, "end": 2}}, "not_there", "that has it: 0"),
    ("relation", {"head": {"text": "丁", "start": 0, "end": 1}}, "not_there", "'丁'"),
    ("relation", {"head": {"text": "甲\u0301", "start": 0, "end": 1}}, "not_there", "head"),
    ("relation", {"head": {"text": "", "start": 0, "end": 1}}, "empty", "head"),
    ("relation", {"head": {"text": ["甲"], "start": 0, "end": 1}}, "wrong_kind", "head"),
    ("relation", {"head": {"start": None, "end": 1}}, "null", "head.start"),
    ("relation", {"head": {"start": 99, "end": 100}}, "out_of_range", "99"),
    ("relation", {"head": ["甲"]}, "wrong_kind", "head must be a span"),
    ("relation", {"text": 5}, "wrong_kind", "text"),
    ("texts", {"target": ...}, "missing_field", "'target'"),
    ("texts", {"source": "\n"}, "empty", "source"),
]  # fmt: skip
FILES: list[tuple[str, Schema, str, str, str, int]] = [  # name, schema, content, error, what it names, line
    ("a.jsonl", CLASSES, '{"text": "a", "label": "x"}\n{"text": "a"', "data.bad_json", "column", 2),
    ("a.jsonl", CLASSES, "[" * 100_000, "data.bad_json", "recursion", 1),
    ("a.jsonl", CLASSES, "9" * 5_000, "data.bad_json", "4300", 1),
    ("a.jsonl", CLASSES, '"text"', "data.row_not_object", "str", 1),
    ("a.jsonl", CLASSES, "[]", "data.row_not_object", "list", 1),
    ("a.jsonl", CLASSES, "", "examples.none", "0 rows", 0),
    ("a.jsonl", CLASSES, "\n \n", "examples.none", "0 rows", 0),
    ("a.json", CLASSES, "[]", "examples.none", "0 rows", 0),
    ("a.json", CLASSES, '[{"text": "a", "label": "x"},\n{"text"', "examples.bad_json", "column", 2),
    ("a.json", CLASSES, '[{"text": "a", "label": "x"}\n{"text": "b"}]', "examples.bad_json", "Expecting", 2),
    ("a.json", CLASSES, '[{"text": "a", "label": "x"},\n]', "examples.bad_json", "Expecting value", 2),
    ("a.json", CLASSES, '[{"text": "a", "label": "x"}[]', "examples.bad_json", "Expecting ','", 1),
    ("a.json", CLASSES, '[{"text": "a", "label": "x"}\n', "examples.bad_json", "Expecting", 2),
    ("a.json", CLASSES, '[{"text": "a", "label": "x"},\n 5]', "data.row_not_object", "int", 2),
    ("a.json", CLASSES, "[" * 100_000, "examples.bad_json", "recursion", 1),
    ("a.json", CLASSES, '{\n "text": "a", "label": "x"}', "data.bad_json", "column", 1),
    ("a.csv", CLASSES, 'text,label\n"a,x\n', "data.bad_csv", "", 2),
    ("a.csv", CLASSES, 'text,label\n"a"b,x\n', "data.bad_csv", "", 2),
    ("a.csv", CLASSES, "text,label\na,b,c\n", "examples.columns", "3, 2 needed (text, label)", 2),
    ("a.csv", CLASSES, "text,label\na\n", "examples.columns", "1, 2 needed", 2),
    ("a.csv", CLASSES, "text,text\na,b\n", "examples.column_twice", "text, text", 1),
    ("a.csv", CLASSES, "review,stars\na,b\n", "examples.missing_field", "'review', 'stars'", 2),
    ("a.csv", CLASSES, "text,label\n,b\n", "examples.null", "text", 2),
    ("a.csv", CLASSES, "text,label\n", "examples.none", "0 rows", 0),
    ("a.csv", RELATION, "text,head,tail,label\nab,high,b,x\n", "examples.wrong_kind", "'high'", 2),
    ("a.csv", RELATION, "text,head,tail,label\nab,NaN,b,x\n", "examples.wrong_kind", "nan", 2),
    ("a.csv", RELATION, "text,head,tail,label\nab,{,b,x\n", "examples.wrong_kind", "'{'", 2),
    ("a.tsv", CLASSES, "text\tlabel\nno tab\n", "examples.columns", "1, 2 needed", 2),
    ("a.tsv", CLASSES, "a\tb\nc\td\n", "examples.missing_field", "'a', 'b'", 2),
    ("a.conll", TAGS, "EU B-ORG\nrejects\n", "examples.columns", "1, 2 needed", 2),
    ("a.conll", TAGS, "EU\nrejects\n", "examples.columns", "1, 2 needed", 1),
    ("a.conll", TAGS, "x O\n\nEU NNP O\nNew York NNP O\n", "examples.columns", "4, 3 needed", 4),
    ("a.conll", TAGS, "EU\tO\n\tO\n", "examples.empty", "tokens[1]", 1),
    ("a.conll", TAGS, "-DOCSTART- O\n\n\n", "examples.none", "0 rows", 0),
    ("a.conllu", TAGS, "1\tEU\n", "examples.columns", "2, 3 needed", 1),
    ("a.conllu", CLASSES, CONLLU, "examples.missing_field", "'text'", 4),
    ("a.tagged", TAGS, "EU/NNP rejects\n", "examples.no_tag", "'rejects'", 1),
    ("a.tagged", TAGS, "EU/NNP rejects/\n", "examples.no_tag", "'rejects/'", 1),
    ("a.tagged", TAGS, "EU/NNP\n\n/VB", "examples.no_tag", "'/VB'", 3),
    ("a.xlsx", CLASSES, "x", "examples.which_format", "slashed, table", 0),
]  # fmt: skip


def said(error: WenluError, language: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WENLU_LANG", language)
    return str(error)


@pytest.mark.promise("T21")
def test_every_wrong_row_has_one_clear_message(make: Make, figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, change, id, named in WRONG:
        wanted, good = GOOD[kind]
        path = make("good.jsonl", [good])
        assert read(path, wanted), kind
        bad = {name: value for name, value in {**good, **change}.items() if value is not ...}
        path = make("bad.jsonl", json.dumps(good) + "\n\n" + json.dumps(bad) + "\n")
        with pytest.raises(DataError) as caught:
            read(path, wanted)
        text = said(caught.value, "en", monkeypatch)
        assert caught.value.id == f"examples.{id}", (change, text)
        assert f"{path}:3" in text and named in text and "what to do" in text, (change, text)
        assert f"{path}:3" in said(caught.value, "zh", monkeypatch)
    for name, wanted, content, id, named, line in FILES:
        path = make(name, content)
        with pytest.raises(DataError) as caught:
            read(path, wanted)
        text = said(caught.value, "en", monkeypatch)
        assert caught.value.id == id, (name, content[:80], text)
        assert (f"{path}:{line}" if line else path) in text and named in text, (name, content[:80], text)
        assert path in said(caught.value, "zh", monkeypatch)
    figure(f"{len(WRONG)} rows and {len(FILES)} files: each refused by place, field, what stands there and what to do")


def test_files_that_do_not_hold_what_is_asked_for(make: Make) -> None:
    with pytest.raises(DataError, match="no field 'text'"):
        read(make("a.fr", "EU O\n"), CLASSES, format="conll")
    with pytest.raises(DataError, match="name the format: conll, conllu"):
        read(make("a.conll", "EU O\n"), CLASSES)


@pytest.mark.promise("T21")
def test_damaged_rows_never_end_in_another_error(make: Make, figure: Figure) -> None:
    generator = random.Random(7)
    values: list[Any] = [None, True, -1, 0, 10**30, 0.5, "", "x", [], [[]], [None], {}, {"text": 1}, [{}], ["x"]]
    values += [{"text": [1], "start": [0]}, {"start": 0, "end": 10**20}, [{"predicate": {}, "tags": []}]]

    def damaged(value: Any) -> Any:
        if generator.random() < 0.3:
            return generator.choice(values)
        if isinstance(value, dict) and value:
            name = generator.choice(list(value))
            return {**value, name: damaged(value[name])}
        if isinstance(value, list) and value:
            place = generator.randrange(len(value))
            return [*value[:place], damaged(value[place]), *value[place + 1 :]]
        return generator.choice(values)

    refused: list[DataError] = []
    kept = tried = 0
    for wanted, good in GOOD.values():
        rows = [damaged(good) for _ in range(250)]
        kept += len(read(make("a.jsonl", rows), wanted, refused=lambda error, row: refused.append(error)))
        tried += len(rows)
    assert kept + len(refused) == tried and min(kept, len(refused)) > 100
    assert all("what to do" in str(error) for error in refused)
    figure(f"{tried} damaged rows: {len(refused)} refused with a message, {kept} still whole, 0 other errors")


SETS = {
    "sentiment": CLASSES,
    "topic": CLASSES,
    "multilabel": LABELS,
    "pair": PAIR,
    "ner": TAGS,
    "pos": TAGS,
    "srl": FRAMES,
    "relation": RELATION,
}
ORIGINALS: dict[str, tuple[Schema, int, dict[str, Any]]] = {
    "sentiment/chnsenticorp/original/dev.tsv": (CLASSES, 1097, {}),
    "topic/thucnews_titles/original/dev.txt.gz": (CLASSES, 9991, {"columns": ["text", "label"]}),
    "multilabel/go_emotions/original/dev.tsv": (LABELS, 5415, {"columns": ["text", "labels", "-"]}),
    "ner/resume/original/dev.char.bmes": (TAGS, 462, {}),
    "ner/uner_en_ewt/original/en_ewt-ud-dev.iob2.gz": (TAGS, 1924, {}),
    "ner/uner_zh_gsdsimp/original/zh_gsdsimp-ud-dev.iob2": (TAGS, 500, {}),
    "ner/weibo/original/weiboNER_2nd_conll.train.gz": (TAGS, 1310, {"format": "conll"}),
    "ner/wnut17/original/wnut17train.conll": (TAGS, 3394, {}),
    "pos/ud_en_ewt/original/en_ewt-ud-dev.conllu.gz": (TAGS, 1924, {}),
    "pos/ud_zh_gsdsimp/original/zh_gsdsimp-ud-dev.conllu.gz": (TAGS, 500, {}),
    "translation/news_commentary_en_zh/original/news-commentary-sample.train.tsv": (
        TEXTS,
        750,
        {"columns": ["source", "target"]},
    ),
    "translation/tatoeba_en_zh/original/cmn.txt.gz": (TEXTS, 19862, {"columns": ["source", "target", "-"]}),
}


def test_every_published_set_is_read_whole() -> None:
    for folder, wanted in SETS.items():
        for path in sorted(needs_test_data(folder).glob("*/*.jsonl.gz")):
            with gzip.open(path, "rb") as file:
                rows = sum(1 for _ in file)
            examples = read_examples([str(path)], wanted)
            if wanted is TAGS:
                kept = list(examples)
                assert detect((e.fields["tags"], e.where) for e in kept) == ("BIO" if folder == "ner" else "plain")
                assert len(kept) == rows, path
            else:
                assert sum(1 for _ in examples) == rows, path


def test_every_published_file_in_its_own_format_is_read() -> None:
    root = needs_test_data("ner").parent
    for name, (wanted, rows, settings) in ORIGINALS.items():
        refused: list[DataError] = []
        collect = partial(lambda into, error, row: into.append(error), refused)
        assert sum(1 for _ in read_examples([str(root / name)], wanted, refused=collect, **settings)) == rows, name
        assert refused == [], name
