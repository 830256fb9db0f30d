"""What is wrong with labelled rows, found before anything is learned from them.

Rows that do not fit their schema, duplicates and contradictions, labels spelled in two ways, tags out of their scheme,
and what validation shares with training. Texts are compared in Unicode's form NFKC, in lower case (but not
tokens), with one blank for white space.
"""

from __future__ import annotations

import codecs
import glob
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wenlu.core.errors import DataError, RunError
from wenlu.core.log import notice, warn
from wenlu.core.messages import error_parts, text
from wenlu.data import tag_schemes
from wenlu.data.cleaning import normalized
from wenlu.data.deduplication import text_digest
from wenlu.data.examples import Example, Refused, Schema
from wenlu.data.files import find_files
from wenlu.data.near_duplicates import neighbours
from wenlu.data.readers._compression import open_bytes
from wenlu.data.report import Report
from wenlu.data.tag_schemes import as_bio

_COMPARED = 2000  # characters of a field that near duplicates are told by
_SHOWN = 5  # fatal findings in an error
_ANSWERS = ("label", "labels", "tags", "frames")
_ONE_ANSWER = ("label", "labels", "tags")  # there is one right answer
_WRITTEN = ("text", "tokens")
_BLANKS = re.compile("[\\s\u200b-\u200d\u2060\ufeff]+")
BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, told as an error is; a fatal one must be mended before anything can be learned."""

    error: DataError
    fatal: bool = True
    fixed: bool = False

    @property
    def kind(self) -> str:
        """The last part of its id."""
        return self.error.id.rpartition(".")[2]

    @property
    def where(self) -> str:
        """``path:line``."""
        values = self.error.values
        place = values.get("where") or ":".join(str(values[name]) for name in ("path", "line") if name in values)
        return str(place) if place else error_parts(self.error.id, values).get("where", "-")

    def __str__(self) -> str:
        parts = error_parts(self.error.id, self.error.values)
        place = {"where": self.where, "field": self.error.values.get("field", "-"), "kind": self.kind}
        what = text("lint.what_found", what=parts["what"], found=parts["found"]) if "found" in parts else parts["what"]
        return text("lint.line", **place, what=what, fix=parts["fix"])

    def record(self) -> dict[str, object]:
        """For JSON."""
        path, _, line = self.where.rpartition(":")
        parts = error_parts(self.error.id, self.error.values)
        place = {"file": path, "line": int(line)} if path and line.isdecimal() else {"file": self.where, "line": None}
        return {**place, "field": self.error.values.get("field"), "kind": self.kind, "fatal": self.fatal, **parts}


def collect(
    read: Callable[[Refused], Iterable[Example]],
    found: list[Finding],
    *,
    mend: Callable[[Mapping[str, object]], Mapping[str, object]] | None = None,
) -> list[Example]:
    """The rows that ``read`` gives; of every other there is a finding, ``fixed`` where ``mend`` changed the row."""

    def refused(error: DataError, row: Mapping[str, object] | None) -> Mapping[str, object] | None:
        mended = mend(row) if mend and row is not None else row
        found.append(Finding(error, fixed=mended != row))
        return mended if mended != row else None

    return list(read(refused))


def lint_files(paths: Sequence[str]) -> Iterator[Finding]:
    """What our readers overlook, and those of others do not: byte order marks and line ends of files that are named."""
    for path in paths:
        if Path(path).is_dir() or not glob.glob(path):  # noqa: PTH207  # as find_files does
            continue
        for source in find_files([path], Report(), suffixes=()):
            if source.path.is_file():
                with open_bytes(source, Report()) as raw:
                    marked = raw.peek(3).startswith(codecs.BOM_UTF8)
                    wide = sum(line.endswith(b"\r\n") for line in raw)
                if marked:
                    yield Finding(DataError("lint.byte_order_mark", where=f"{source}:1"), fatal=False)
                if wide:
                    yield Finding(DataError("lint.line_ends", where=f"{source}:1", count=wide), fatal=False)


def announce(found: Sequence[Finding], rows: int) -> None:
    """Say before a run, in a line, what is wrong with its rows, and of each kind the first.

    Raises:
        DataError: the error of a fatal finding, or ``lint.fatal`` of several.
    """
    fatal = [finding for finding in found if finding.fatal]
    if len(fatal) == 1:
        raise fatal[0].error
    if fatal:
        shown = "".join(f"\n    {finding}" for finding in fatal[:_SHOWN])
        raise DataError("lint.fatal", count=len(fatal), kinds=summary(fatal), shown=shown)
    if not found:
        notice("lint.clean", rows=rows)
        return
    warn("lint.found", rows=rows, kinds=summary(found))
    for finding in {finding.kind: finding for finding in reversed(found)}.values():
        notice("lint.one", finding=finding)


def summary(found: Iterable[Finding]) -> str:
    """How many there are of each kind."""
    return ", ".join(f"{count:,} {kind}" for kind, count in Counter(finding.kind for finding in found).most_common())


def lint(train: Sequence[Example], validation: Sequence[Example], schema: Schema) -> Iterator[Finding]:
    """What is wrong with rows that fit the schema one by one, and with training and validation together."""
    yield from _spellings(train, validation, schema)
    for row in [*train, *validation]:
        for name, value in row.fields.items():
            if isinstance(value, str) and BYTE_ORDER_MARK in value:
                yield Finding(DataError("lint.mark_in_text", where=row.where, field=name), fatal=False)
    if schema.field_of("tags") or schema.field_of("frames"):
        yield from _schemes(train)
        yield from _schemes(validation)
        yield from _other_scheme(train, validation)
    sides = Sides(schema)
    first: dict[bytes, tuple[Example, str]] = {}
    for example in train:
        key, answer = sides.keys(example)
        before, known = first.setdefault(key, (example, answer))
        if before is not example:
            yield from _twice(example, before, sides, same=answer == known)
    apart = []
    for example in validation:
        key, _ = sides.keys(example)
        if key in first:
            place = {"where": example.where, "field": sides.field, "first": first[key][0].where}
            yield Finding(DataError("lint.leak", **place, text=sides.shown(example)), fatal=False)
        else:
            apart.append(example)
    try:
        for row, other, alike in neighbours(train, apart, sides.texts):
            place = {"where": row.where, "field": sides.field, "first": other.where}
            shown = {"text": sides.shown(row), "there": sides.shown(other), "alike": alike}
            yield Finding(DataError("lint.near_leak", **place, **shown), fatal=False)
    except RunError:
        notice("lint.not_near")


class Sides:
    """What rows of a schema ask, and what they answer; of two texts without a label the last is the answer."""

    def __init__(self, schema: Schema) -> None:
        needed = [name for name in schema.fields if name not in schema.optional]
        answers = [name for name in needed if schema.fields[name] in _ANSWERS]
        self._answers = answers or needed[1:][-1:]
        given = [name for name in schema.fields if schema.fields[name] not in _ANSWERS and name != "id"]
        self._asks = [name for name in given if name not in self._answers]
        self._written = [name for name in self._asks if schema.fields[name] in _WRITTEN]
        self._cased = schema.field_of("tokens") is not None  # capitals tell names
        self.field = next(name for name in self._asks if name in needed)
        self.answer = self._answers[0] if self._answers and schema.fields[self._answers[0]] in _ONE_ANSWER else None

    def keys(self, example: Example) -> tuple[bytes, str]:
        """A digest of what a row asks, and its answer."""
        answer = [example.fields[name] for name in self._answers]
        asks = "\0".join(self._plain(_written(example.fields.get(name, ""))) for name in self._asks)
        return text_digest(asks), json.dumps(answer)

    def texts(self, example: Example) -> list[str]:
        """The beginning of each text that a row asks with; of tokens without blanks between them."""
        values = (example.fields.get(name, "") for name in self._written)
        return [self._plain(_written(value, blank="" if self._cased else " ")[:_COMPARED]) for value in values]

    def shown(self, example: Example) -> str:
        """The beginning of the last text that a row asks with."""
        return _short(_written(example.fields.get(self._written[-1], "")))

    def _plain(self, text: str) -> str:
        text = text if text.isascii() else normalized(text, "NFKC")
        return " ".join((text if self._cased else text.casefold()).split())


def _written(value: object, blank: str = " ") -> str:
    """A value as one text."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        return blank.join(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _twice(example: Example, before: Example, sides: Sides, *, same: bool) -> Iterator[Finding]:
    """A row that asks what another asks: one of them is superfluous, or one of them is wrong."""
    place = {"where": example.where, "first": before.where}
    if same:
        error = DataError("lint.duplicate", **place, field=sides.field, text=sides.shown(example))
        yield Finding(error, fatal=False)
    elif sides.answer:
        here, there = example.fields[sides.answer], before.fields[sides.answer]
        if sides.answer == "tags" and len(here) == len(there):
            words = zip(example.fields.get("tokens", here), here, there, strict=True)
            pairs = [(f"{word}/{one}", f"{word}/{other}") for word, one, other in words if one != other]
            here, there = ([pair[side] for pair in pairs] for side in (0, 1))
        values = {"here": _short(here), "there": _short(there), "text": sides.shown(example)}
        yield Finding(DataError("lint.conflict", **place, field=sides.answer, **values), fatal=False)


def spelling(schema: Schema, rows: Iterable[Example]) -> tuple[str | None, dict[str, str], Counter[str]]:
    """The field of labels, the usual spelling of each label that has another, and how often each is there.

    Spellings differ in case, width and blanks. The case of tags that mark no spans is kept: it may mean something.
    """
    name = next((name for name, kind in schema.fields.items() if kind in ("label", "labels", "tags")), None)
    counts: Counter[str] = Counter()
    for row in rows if name else ():
        value = row.fields.get(name or "")
        counts.update([value] if isinstance(value, str) else value if isinstance(value, list) else ())
    cased = schema.field_of("tags") is not None and not all(tag_schemes.split(tag)[0] for tag in counts)
    ways = defaultdict(list)
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        plain = _BLANKS.sub("", normalized(label, "NFKC"))
        ways[plain if cased else plain.casefold()].append(label)
    usual = {label: labels[0] for labels in ways.values() for label in labels[1:]}
    return name, usual, counts


def _spellings(train: Sequence[Example], validation: Sequence[Example], schema: Schema) -> Iterator[Finding]:
    name, usual, counts = spelling(schema, [*train, *validation])
    for row in [*train, *validation] if usual else ():
        value = row.fields.get(name or "")
        for label in dict.fromkeys([value] if isinstance(value, str) else value or ()):
            if label in usual and (other := usual.pop(label)):
                shown = {"label": label, "count": counts[label], "usual": other, "others": counts[other]}
                yield Finding(DataError("lint.spelling", where=row.where, field=name, **shown), fatal=False)


def tag_rows(example: Example) -> Iterator[tuple[list[str], str]]:
    """The tags of a row, or of each of its frames, with their field."""
    if "tags" in example.fields:
        yield example.fields["tags"], "tags"
    for number, frame in enumerate(example.fields.get("frames", ())):
        yield frame["tags"], f"frames[{number}].tags"


def scheme_of(rows: Iterable[Example]) -> tag_schemes.Scheme:
    """The scheme of the tags of all rows: BIO where some begin their spans as IOB1 does.

    Raises:
        DataError: ``tags.unknown``.
    """
    try:
        return tag_schemes.detect((tags, row.where) for row in rows for tags, _ in tag_rows(row))
    except DataError as error:
        if error.id == "tags.unknown":
            error.values["where"] = str(error.values["place"]).rpartition(",")[0]
            raise
        return "BIO"


def _schemes(rows: Sequence[Example]) -> Iterator[Finding]:
    """Tags that contradict the scheme of the others."""
    try:
        scheme = scheme_of(rows)
    except DataError as error:
        yield Finding(error)
        return
    if scheme == "IOB1":
        wrong = [(row.where, field) for row in rows for tags, field in tag_rows(row) if as_bio(tags) != tags]
        yield Finding(DataError("lint.iob1", where=wrong[0][0], field=wrong[0][1], count=len(wrong)), fatal=False)
    elif scheme != "plain":
        for row in rows:
            for tags, field in tag_rows(row):
                try:
                    tag_schemes.spans(tags, scheme, where=row.where)
                except DataError as error:
                    error.values["field"] = field
                    yield Finding(error)


def _other_scheme(train: Sequence[Example], validation: Sequence[Example]) -> Iterator[Finding]:
    """Validation tags in another scheme than those of training; IOB1 is read as BIO."""
    marked = [
        [row for row in rows if any(set(tags) - {"O"} for tags, _ in tag_rows(row))] for rows in (train, validation)
    ]
    with suppress(DataError):
        ours, theirs = ("BIO" if (found := scheme_of(rows)) == "IOB1" else found for rows in marked)
        if all(marked) and ours != theirs:
            place = {"where": marked[1][0].where, "field": next(field for _, field in tag_rows(marked[1][0]))}
            yield Finding(DataError("lint.other_scheme", **place, here=theirs, there=ours))


def _short(value: object) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
