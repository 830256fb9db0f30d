"""The data linter: faults that were planted are found, each by its kind and line, and nothing else; and mended."""

from __future__ import annotations

import json
import random
import string
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from promises import Figure
from skips import needs_test_data
from wenlu.core import plugins
from wenlu.core.errors import DataError
from wenlu.core.extras import load_extra
from wenlu.core.messages import ERROR_PARTS, error_parts
from wenlu.data import mending, near_duplicates
from wenlu.data.examples import Example, Schema, read_examples
from wenlu.data.linting import Finding, announce, collect, lint, lint_files
from wenlu.data.tag_schemes import as_bio

SCHEMAS: dict[str, Schema] = {
    schema.name: schema
    for schema in (
        Schema("classification", {"text": "text", "label": "label"}),
        Schema("pair", {"text": "text", "text_pair": "text", "label": "label"}),
        Schema("multi_label", {"text": "text", "labels": "labels"}),
        Schema("tagging", {"tokens": "tokens", "tags": "tags"}),
        Schema("semantic_roles", {"tokens": "tokens", "frames": "frames"}),
        Schema("relation", {"text": "text", "head": "span", "tail": "span", "label": "label"}),
    )
}
Row = dict[str, Any]
Rows = list[Row]
SIDES = ("train", "dev")


class World:
    """Rows of a schema in one language, drawn with a seed, none like another; ``expected`` are the planted findings."""

    def __init__(self, schema: str, seed: int) -> None:
        self.schema, self.draw = SCHEMAS[schema], random.Random(f"{schema} {seed}")
        self.letters = string.ascii_lowercase if seed % 2 else "".join(map(chr, range(0x4E00, 0x4E60)))
        self.rows: dict[str, Rows] = {"train": self.some(24), "dev": self.some(8)}
        self.expected: set[tuple[str, str, int]] = set()

    def some(self, count: int) -> Rows:
        made = [self.row() for _ in range(count)]
        for row in made[:2]:
            if "tags" in row:  # so that every file shows that its scheme is BIO
                row["tags"][:3] = ["B-PER", "B-PER", "O"]
        return made

    def word(self) -> str:
        return "".join(self.draw.choices(self.letters, k=self.draw.randint(4, 7)))

    def words(self, count: int = 12) -> list[str]:
        return [self.word() for _ in range(count)]

    def text(self) -> str:
        return " ".join(self.words())

    def tags(self) -> list[str]:
        tags = ["O"] * 12
        for start in (3, 7):
            tags[start : start + 2] = [f"{letter}-{self.draw.choice(('PER', 'LOC'))}" for letter in "BI"]
            tags[start + 1] = f"I{tags[start][1:]}"
        return tags

    def row(self) -> Row:
        name, text = self.schema.name, self.text()
        if name == "tagging":
            return {"tokens": self.words(), "tags": self.tags()}
        if name == "semantic_roles":
            return {"tokens": self.words(), "frames": [{"predicate": 1, "tags": self.tags()} for _ in range(2)]}
        if name == "relation":
            words = [(match, text.index(match)) for match in text.split()]
            ends = [{"text": word, "start": at, "end": at + len(word)} for word, at in self.draw.sample(words, 2)]
            return {"text": text, "head": ends[0], "tail": ends[1], "label": self.draw.choice("xyz")}
        row: Row = {"text": text, "label": self.draw.choice(["one", "two", "three"]), "id": self.word()}
        if name == "multi_label":
            row["labels"] = self.draw.sample(["one", "two", "three"], 2)
            del row["label"]
        return row | ({"text_pair": self.text()} if "text_pair" in self.schema.fields else {})

    def plant(self, side: str, row: Row, kind: str, at: int | None = None) -> None:
        """Put a row into a file, behind the first two; the findings that were planted before move with their rows."""
        at = self.draw.randint(2, len(self.rows[side])) if at is None else at
        self.rows[side].insert(at, row)
        self.expected.add((kind, side, at + 1))

    def change(self, side: str, kind: str, at: int = 0, **values: Any) -> None:
        """Change fields of a row; ``...`` takes one out."""
        at = at or self.draw.randrange(2, len(self.rows[side]))
        row = self.rows[side][at] | values
        self.rows[side][at] = {name: value for name, value in row.items() if value is not ...}
        self.expected.add((kind, side, at + 1))

    def copy(self) -> Row:
        """A training row, to be planted behind it."""
        return json.loads(json.dumps(self.rows["train"][self.draw.randrange(2)]))  # type: ignore[no-any-return]

    def write(self, folder: Path) -> dict[str, str]:
        paths = {side: folder / f"{side}.jsonl" for side in SIDES}
        for side, path in paths.items():
            rows = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in self.rows[side])
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return {side: str(path) for side, path in paths.items()}


Fault = Callable[[World], None]


def disguised(world: World, row: Row, *, near: bool = False) -> Row:
    """The same row in other capitals, width and blanks; ``near``: with a few more characters at its end."""

    def other(text: str) -> str:
        if near:
            return f"{text} {world.word()}"
        wide = {ord(letter): ord(letter) + 0xFEE0 for letter in string.ascii_letters}
        return f" {text.upper().translate(wide)}".replace(" ", "\u3000 ")

    for name, kind in world.schema.fields.items():
        if kind == "text" and "head" not in row:
            row[name] = other(row[name])
        elif kind == "tokens" and near:
            row[name] = [*row[name][:-1], world.word()]
        elif kind == "text" and near:
            row[name] += f" {world.word()}"
    return row


def duplicate(world: World) -> None:
    world.plant("train", disguised(world, world.copy()), "duplicate")


def conflict(world: World) -> None:
    row = disguised(world, world.copy())
    name = next(name for name, kind in world.schema.fields.items() if kind in ("label", "labels", "tags"))
    row[name] = {"label": "else", "labels": ["else"], "tags": ["O"] * 12}[world.schema.fields[name]]
    world.plant("train", row, "conflict")


def leak(world: World) -> None:
    world.plant("dev", disguised(world, world.copy()), "leak")


def near_leak(world: World) -> None:
    world.plant("dev", disguised(world, world.copy(), near=True), "near_leak")


def spelling(world: World, to: Callable[[str], str] = str.upper) -> None:
    name = "label" if "label" in world.schema.fields else "labels"
    world.change("train", "spelling", **{name: to("one") if name == "label" else [to("one")]})


def wide_spelling(world: World) -> None:
    spelling(world, lambda label: label.translate({ord(letter): ord(letter) + 0xFEE0 for letter in "one"}))


def blank_spelling(world: World) -> None:
    spelling(world, lambda label: f" {label[0]} {label[1:]}\u200b")


def mark(world: World) -> None:
    name = world.schema.field_of("text")
    world.change("train", "mark_in_text", **{name: f"\ufeff{world.text()}"} if name else {})


def iob1(world: World) -> None:
    for side in SIDES:
        for row in world.rows[side]:
            tags = row["tags"]
            tags[:] = [
                f"I{tag[1:]}" if tag != "O" and (n == 0 or tags[n - 1] == "O") else tag for n, tag in enumerate(tags)
            ]
            tags[:3] = ["O", "O", "O"]
    world.expected |= {("iob1", side, 1) for side in SIDES}


def bioes_beside_bio(world: World) -> None:
    for row in world.rows["train"]:
        row["tags"] = ["S-PER", "B-LOC", "I-LOC", "E-LOC", "B-PER", "I-PER", "E-PER", *["O"] * 5]
    world.rows["dev"][0]["tags"] = ["O"] * 12
    world.expected.add(("other_scheme", "dev", 2))


def broken_tags(world: World) -> None:
    world.change("train", "inconsistent", tags=["O", "I-PER", *["O"] * 10])


def broken_frame(world: World) -> None:
    world.change("train", "inconsistent", frames=[{"predicate": 0, "tags": ["B-PER", "I-LOC", *["O"] * 10]}])


def broken_bioes(world: World) -> None:
    for side in SIDES:
        for row in world.rows[side]:
            row["tags"] = ["S-PER", "B-LOC", "I-LOC", "E-LOC", *["O"] * 8]
    world.change("dev", "inconsistent", tags=["B-LOC", *["O"] * 11])


def one_plain_tag(world: World) -> None:
    world.change("train", "unknown", tags=["PERSON", *["O"] * 11])


def span_before(world: World) -> None:
    head = world.rows["train"][5]["head"]
    world.change("train", "not_there", at=5, head={**head, "start": head["start"] + 1})


def span_behind(world: World) -> None:
    ends = (row["head"]["end"] < len(row["text"]) for row in world.rows["train"][2:])
    at = 2 + list(ends).index(True)
    head = world.rows["train"][at]["head"]
    world.change("train", "span_end", at=at, head={**head, "end": head["end"] + 1})


def span_outside(world: World) -> None:
    world.change("dev", "out_of_range", head={"text": "?", "start": 10_000, "end": 10_001})


def first_field(world: World) -> str:
    return next(iter(world.schema.fields))


def missing(world: World) -> None:
    world.change("train", "missing_field", **{first_field(world): ...})


def null(world: World) -> None:
    world.change("dev", "null", **{first_field(world): None})


def wrong_kind(world: World) -> None:
    world.change("train", "wrong_kind", **{first_field(world): 3})


def empty(world: World) -> None:
    world.change("train", "empty", **{first_field(world): "" if "text" in world.schema.fields.values() else [""]})


def lengths(world: World) -> None:
    world.change("train", "lengths", tags=["O"])


def no_object(world: World) -> None:
    world.plant("train", ["x"], "row_not_object")  # type: ignore[arg-type]


def cut_off(world: World) -> None:
    world.plant("train", '{"text": "a', "bad_json")  # type: ignore[arg-type]


def unknown_label(world: World) -> None:
    name = next(name for name, kind in world.schema.fields.items() if kind in ("label", "labels", "tags"))
    other = {"label": "four", "labels": ["four"], "tags": ["B-ORG", *["O"] * 11]}[world.schema.fields[name]]
    world.change("dev", "unknown_label", **{name: other})


LABELLED = ("classification", "pair", "multi_label", "relation")
FAULTS: dict[Fault, tuple[str, ...]] = {
    duplicate: tuple(SCHEMAS),
    leak: tuple(SCHEMAS),
    near_leak: tuple(SCHEMAS),
    conflict: (*LABELLED, "tagging"),
    spelling: LABELLED[:3],
    wide_spelling: LABELLED[:3],
    blank_spelling: LABELLED[:3],
    mark: ("classification", "multi_label"),
    iob1: ("tagging",),
    bioes_beside_bio: ("tagging",),
    broken_tags: ("tagging",),
    broken_frame: ("semantic_roles",),
    broken_bioes: ("tagging",),
    one_plain_tag: ("tagging",),
    span_before: ("relation",),
    span_behind: ("relation",),
    span_outside: ("relation",),
    missing: tuple(SCHEMAS),
    null: tuple(SCHEMAS),
    wrong_kind: tuple(SCHEMAS),
    empty: tuple(SCHEMAS),
    lengths: ("tagging",),
    no_object: tuple(SCHEMAS),
    cut_off: tuple(SCHEMAS),
    unknown_label: ("classification", "pair", "multi_label", "tagging"),
}
FIXED = {duplicate, spelling, wide_spelling, blank_spelling, mark, iob1, broken_tags, broken_frame, span_before}
FIXED |= {span_behind}
NO_FIELD = {"bad_json", "row_not_object", "unknown"}
NOT_FATAL = {"iob1", "duplicate", "conflict", "leak", "near_leak", "spelling", "mark_in_text"}


def cases() -> Iterator[tuple[str, Fault, int]]:
    for fault, schemas in FAULTS.items():
        for schema in schemas:
            yield from ((schema, fault, seed) for seed in (1, 2))


def read_rows(path: str, schema: Schema, found: list[Finding], *, mend: bool = False) -> list[Example]:
    move = partial(mending.move_spans, schema=schema) if mend else None
    return collect(lambda refused: read_examples([path], schema, refused=refused, whole=mend), found, mend=move)


def linted(world: World, folder: Path) -> list[Finding]:
    """What is found in the files of a world, with the checks of the task where there is one."""
    paths, found = world.write(folder), list[Finding]()
    train, dev = (read_rows(paths[side], world.schema, found) for side in SIDES)
    found += lint(train, dev, world.schema)
    if world.schema.name in plugins.names("wenlu.tasks"):
        module = plugins.load("wenlu.tasks", world.schema.name)
        found += module.create(module.SETTINGS()).resolved(train, max_length=8).check([*train, *dev])
    return found


def places(found: list[Finding]) -> set[tuple[str, str, int]]:
    return {(one.kind, Path(one.where.rpartition(":")[0]).stem, int(one.where.rpartition(":")[2])) for one in found}


@pytest.mark.promise("T21")
def test_planted_faults_are_found_and_nothing_else(
    tmp_path: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0
    for schema, fault, seed in cases():
        world = World(schema, seed)
        fault(world)
        found = linted(world, tmp_path)
        assert places(found) == world.expected and len(found) == len(world.expected), (schema, fault.__name__, seed)
        for one in found:
            assert one.fatal == (one.kind not in NOT_FATAL)
            assert ("field" in one.error.values) == (one.kind not in NO_FIELD)
            for language in ("en", "zh"):
                monkeypatch.setenv("WENLU_LANG", language)
                assert str(one).startswith(f"{one.where}: ") and str(one).endswith(f" [{one.kind}]")
                assert {"what", "fix"} <= set(error_parts(one.error.id, one.error.values)) <= set(ERROR_PARTS)
        tried += 1
    assert tried > 100
    figure(f"{tried} files with a planted fault: each found by file, line and kind, 0 false alarms")


def test_rows_without_a_fault_have_no_finding(tmp_path: Path) -> None:
    for schema in SCHEMAS:
        assert linted(World(schema, 3), tmp_path) == [], schema


def test_what_is_plain_is_mended_and_nothing_else_changes(tmp_path: Path) -> None:
    for schema, fault, seed in cases():
        if fault not in FIXED:
            continue
        clean, world = World(schema, seed), World(schema, seed)
        fault(world)
        at = next(iter(world.expected))[2] - 1
        path, found = world.write(tmp_path)["train"], list[Finding]()
        rows = read_rows(path, world.schema, found, mend=True)
        assert all(one.fixed for one in found)
        mended = mending.mend(rows, world.schema)
        assert list(lint(mended, [], world.schema)) == [], (schema, fault.__name__)
        written = [dict(row.fields) for row in mended]
        if fault is duplicate:
            assert written == clean.rows["train"]
        elif fault is iob1:
            assert [as_bio(row["tags"]) for row in world.rows["train"]] == [row["tags"] for row in written]
        else:
            expected = clean.rows["train"][:at] + clean.rows["train"][at + 1 :]
            assert written[:at] + written[at + 1 :] == expected, (schema, fault.__name__)


def test_tags_that_are_no_spans_stay_as_they_are() -> None:
    schema = SCHEMAS["tagging"]
    rows = [Example({"tokens": ["一", "个", "人"], "tags": ["CD", "M", "NN"]}, "a:1")]
    assert list(lint(rows, [], schema)) == [] and mending.mend(rows, schema)[0].fields == rows[0].fields
    pku = [Example({"tokens": ["a", "b"], "tags": ["Ng", "ng"]}, "a:1")]
    assert list(lint(pku, [], schema)) == [], "the case of a part of speech means something"
    types = [Example({"tokens": ["a", "b"], "tags": ["B-PER", "B-Per"]}, "a:1")]
    assert [one.kind for one in lint(types, [], schema)] == ["spelling"]
    bioes = [Example({"tokens": ["a", "b"], "tags": ["S-PER", "S-PER"]}, "a:1")]
    assert mending.mend(bioes, schema)[0].fields["tags"] == ["S-PER", "S-PER"]


def test_iob1_becomes_bio() -> None:
    assert as_bio(["I-A", "I-A", "B-A", "O", "I-B", "I-A"]) == ["B-A", "I-A", "B-A", "O", "B-B", "B-A"]
    assert as_bio(["B", "I", "O", "I"]) == ["B", "I", "O", "B"]


def test_the_more_frequent_spelling_is_kept() -> None:
    labels = ["Sports", "sports", "ｓｐｏｒｔｓ", "sports", "art"]
    rows = [Example({"text": text, "label": label}, text) for text, label in zip("abcde", labels, strict=True)]
    mended = mending.mend(rows, SCHEMAS["classification"])
    assert [row.fields["label"] for row in mended] == ["sports"] * 4 + ["art"]
    several = [Example({"text": "a", "labels": ["x", "X "]}, "1"), Example({"text": "b", "labels": ["x"]}, "2")]
    assert [row.fields["labels"] for row in mending.mend(several, SCHEMAS["multi_label"])] == [["x"], ["x"]]


def test_a_place_is_moved_only_where_it_is_plain() -> None:
    schema = SCHEMAS["relation"]

    def moved(context: str, text: object, start: object) -> object:
        row = {"text": context, "label": "?", "head": {"text": text, "start": start}}
        found = mending.move_spans(row, schema)["head"]
        assert isinstance(found, dict)
        return found["start"]

    assert moved("xx ab xx", "ab", 2) == 3 and moved("xx ab xx ab", "ab", 4) == 3
    assert moved("ab" + "x" * 50, "ab", 40) == 0, "its only place"
    assert moved("ab" + "x" * 50 + "ab", "ab", 20) == 20, "too far from either place"
    assert moved("xx", "ab", 1) == 1 and moved("ab", "ab", None) is None and moved("ab", 3, 1) == 1
    assert mending.move_spans({"text": "ab", "head": 3}, schema) == {"text": "ab", "head": 3}
    relation = {"text": "ab cd", "head": {"text": "cd", "start": 2, "end": 4}, "tail": {"start": 9, "end": 1}}
    assert mending.move_spans(relation, schema)["head"] == {"text": "cd", "start": 3, "end": 5}
    assert mending.move_spans(relation, schema)["tail"] == relation["tail"]


def test_damaged_spans_are_never_another_error(tmp_path: Path) -> None:
    values: list[Any] = [None, True, -1, 0, 3, 10**30, 0.5, "", "x", [], [None], {}, {"text": 1}, [{}], ["x"]]
    values += [
        {"text": [1], "start": 0, "end": 1},
        {"text": "a", "start": "3", "end": 4},
        {"text": "a", "start": 10**30},
    ]
    draw = random.Random(3)
    world = World("relation", 1)
    rows = []
    for row in world.some(200):
        field = draw.choice([*world.schema.fields])
        if isinstance(row[field], dict) and draw.random() < 0.7:
            row[field][draw.choice([*row[field]])] = draw.choice(values)
        else:
            row[field] = draw.choice(values)
        rows.append(row)
    world.rows = {"train": rows, "dev": rows}
    found: list[Finding] = []
    kept = read_rows(world.write(tmp_path)["train"], world.schema, found, mend=True)
    assert len(kept) + sum(not one.fixed for one in found) == 200 and min(len(kept), len(found)) > 5
    assert all(isinstance(one, Finding) for one in lint(kept, [], world.schema))


def test_neighbours_are_those_that_share_four_fifths_of_their_triples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all pairs, compared one by one."""
    draw = random.Random(5)
    rows = ["".join(draw.choices("abcdefgh 字词文", k=draw.randint(1, 60))) for _ in range(300)]
    others = []
    for row in rows[:200]:
        text = list(row)
        for _ in range(draw.randint(0, 4)):
            text[draw.randrange(len(text))] = draw.choice("xyz")
        others.append("".join(text))
    monkeypatch.setattr(near_duplicates, "_AT_ONCE", 64)
    found = {other: (row, alike) for other, row, alike in near_duplicates.neighbours(rows, others, lambda text: [text])}
    pairs = {(other, row): similarity(other, row) for other in others for row in rows}
    near = {other for (other, _), alike in pairs.items() if alike >= near_duplicates.SIMILAR}
    assert set(found) == near and 40 < len(near) < 180
    assert all(pairs[other, row] == alike for other, (row, alike) in found.items())


def similarity(first: str, second: str) -> float:
    one, other = (
        {text[at : at + 3] for at in range(len(text)) if at == 0 or at < len(text) - 2} for text in (first, second)
    )
    return len(one & other) / len(one | other)


def test_every_text_of_a_row_must_be_near() -> None:
    context, schema = "a long passage that many questions are asked about " * 4, SCHEMAS["pair"]
    rows = [
        Example({"text": context, "text_pair": question, "label": "x"}, f"{number}:1")
        for number, question in enumerate(
            ["who was there at the time?", "where did they go?", "who was there at the time ?"]
        )
    ]
    assert list(lint(rows[:1], rows[1:2], schema)) == []
    [found] = lint(rows[:1], rows[2:], schema)
    assert found.kind == "near_leak" and "at the time ?" in str(found)


def test_a_row_with_several_neighbours_is_told_once() -> None:
    rows = [Example({"text": f"the same sentence as before, number {n}", "label": "x"}, f"{n}:1") for n in range(4)]
    assert [one.where for one in lint(rows[:3], rows[3:], SCHEMAS["classification"])] == ["3:1"]


def test_what_a_row_may_lack_tells_rows_apart_where_it_is_there() -> None:
    fields = {"context": "text", "text": "text", "tokens": "tokens", "label": "label", "id": "text"}
    schema = Schema("words", fields, frozenset({"context", "id"}))  # type: ignore[arg-type]
    row = {"text": "what happens next?", "tokens": ["a", "b"], "label": "0"}
    rows = [
        Example({**row, "context": word * 9, "label": str(n)}, f"a:{n}") for n, word in enumerate(("rain ", "sun "))
    ]
    assert list(lint(rows[:1], rows[1:], schema)) == [] and list(lint(rows, [], schema)) == []
    bare = [Example({**row, "label": str(n), "id": str(n)}, f"a:{n}") for n in range(2)]
    assert [one.kind for one in lint(bare, [], schema)] == ["conflict"]


def test_another_answer_to_the_same_question_is_a_leak_but_no_duplicate() -> None:
    def frame(predicate: int, where: str) -> Example:
        tags = ["B-A0", "O", "B-A1"]
        return Example({"tokens": ["it", "does", "depend"], "frames": [{"predicate": predicate, "tags": tags}]}, where)

    first, second = frame(1, "a:1"), frame(2, "b:1")
    assert list(lint([first, second], [], SCHEMAS["semantic_roles"])) == []
    assert [one.kind for one in lint([first], [second], SCHEMAS["semantic_roles"])] == ["leak"]
    texts = Schema("texts", {"source": "text", "target": "text"})
    pairs = [Example({"source": "hello", "target": target}, target) for target in ("你好", "您好", "你好")]
    assert [one.kind for one in lint(pairs[:2], pairs[2:], texts)] == ["leak"]
    assert [one.kind for one in lint(pairs, [], texts)] == ["duplicate"]


def test_without_rensa_it_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rensa", None)
    with pytest.raises(Exception, match="wenlu\\[data\\]"):
        load_extra("rensa", extra="data")
    rows = [Example({"text": "a", "label": "x"}, "a:1"), Example({"text": "b", "label": "x"}, "a:2")]
    with caplog.at_level("INFO"):
        assert list(lint(rows[:1], rows[1:], SCHEMAS["classification"])) == []
    assert "rensa" in str(caplog.records[-1].msg)


def test_marks_and_line_ends_of_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"text": "a", "label": "x"}\r\n{"text": "b", "label": "x"}\n'.encode())
    found = list(lint_files([str(path), str(tmp_path), str(tmp_path / "none.jsonl")]))
    assert [one.kind for one in found] == ["byte_order_mark", "line_ends"] and "1 lines" in str(found[1])
    path.write_bytes(b'{"text": "a", "label": "x"}\n')
    assert list(lint_files([str(tmp_path / "*.jsonl")])) == []


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.tsv"])
def test_what_is_written_is_read_as_it_was(tmp_path: Path, name: str) -> None:
    rows = [Example({"text": text, "label": "x", "id": 3}, "-") for text in ("很好", "two, three", "a b")]
    mending.write(tmp_path / name, rows, SCHEMAS["classification"])
    found: list[Finding] = []
    again = read_rows(str(tmp_path / name), SCHEMAS["classification"], found)
    assert found == [] and [row.fields["text"] for row in again] == [row.fields["text"] for row in rows]
    before = (tmp_path / name).read_bytes()
    with pytest.raises(DataError, match="exists already"):
        mending.write(tmp_path / name, rows[:1], SCHEMAS["classification"])
    assert (tmp_path / name).read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_cannot_hold_the_rows_is_refused(tmp_path: Path) -> None:
    tagged = [Example({"tokens": ["a b", "c"], "tags": ["B-X", "O"]}, "-")]
    mending.write(tmp_path / "out.conll", tagged, SCHEMAS["tagging"])
    assert (tmp_path / "out.conll").read_text(encoding="utf-8") == "a b\tB-X\nc\tO\n\n"
    text = Example({"text": 'quoted "x"\n', "label": "x"}, "-")
    for name, rows, schema in (
        ("a.txt", [text], "classification"),
        ("a.conll", [text], "classification"),
        ("a.tsv", [text], "classification"),
        ("a.csv", tagged, "tagging"),
    ):
        with pytest.raises(DataError, match=r"\.jsonl"):
            mending.write(tmp_path / name, rows, SCHEMAS[schema])
        assert not (tmp_path / name).exists()


def test_what_is_said_before_a_run(caplog: pytest.LogCaptureFixture) -> None:
    rows = [Example({"text": "a", "label": label}, f"f:{line}") for line, label in enumerate("xxxy", start=1)]
    with caplog.at_level("INFO"):
        announce([], 4)
        announce(list(lint(rows, [], SCHEMAS["classification"])), 4)
    said = [str(record.msg) for record in caplog.records]
    assert said[0] == "4 rows checked: nothing wrong was found"
    assert said[1].startswith("4 rows checked: 2 duplicate, 1 conflict")
    assert [line.partition(" ")[0] for line in said[2:]] == ["f:2:", "f:4:"] or len(said) == 4
    one, two = (Finding(DataError("examples.null", where=f"f:{line}", field="text")) for line in (1, 2))
    with pytest.raises(DataError) as alone:
        announce([one], 1)
    assert alone.value is one.error
    with pytest.raises(DataError, match=r"2 null[\s\S]*f:1: text[\s\S]*f:2: text"):
        announce([one, two], 2)


REAL: list[tuple[str, str, dict[str, Any], dict[str, int], dict[str, int]]] = [
    (
        "tagging",
        "ner/weibo/original/weiboNER_2nd_conll.train.gz",
        {"format": "conll"},
        {"inconsistent": 8, "duplicate": 63, "conflict": 36},
        {"conflict": 36},
    ),
]


@pytest.mark.parametrize(("schema", "path", "reading", "expected", "left"), REAL)
def test_published_files_hold_these_faults(
    schema: str, path: str, reading: dict[str, Any], expected: dict[str, int], left: dict[str, int]
) -> None:
    """Spans of Weibo NER without a beginning."""
    kind, found = SCHEMAS[schema], list[Finding]()
    files = [str(needs_test_data(path))]
    rows = collect(
        lambda refused: read_examples(files, kind, refused=refused, **reading),
        found,
        mend=partial(mending.move_spans, schema=kind),
    )
    assert Counter(one.kind for one in (*found, *lint(rows, [], kind))) == expected and all(one.fixed for one in found)
    assert Counter(one.kind for one in lint(mending.mend(rows, kind), [], kind)) == left
