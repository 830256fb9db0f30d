"""Labelled rows, mended where it is plain how: what ``wenlu data lint --fix`` writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from wenlu.core.errors import DataError
from wenlu.core.publication import publish_file
from wenlu.data.examples import Example, Schema
from wenlu.data.fields import nearest
from wenlu.data.linting import BYTE_ORDER_MARK, Sides, scheme_of, spelling
from wenlu.data.tag_schemes import as_bio

_NEAR = 3  # characters that a span may be off where its text stands in several places


def move_spans(row: Mapping[str, object], schema: Schema) -> dict[str, object]:
    """The row with spans where their text stands: three characters off at most, or at its only place."""
    moved = dict(row)
    context = str(next((row[name] for name in ("text", "text_a") if isinstance(row.get(name), str)), ""))
    for name, kind in schema.fields.items():
        if kind == "span":
            moved[name] = _moved(row.get(name), context)
    return {name: value for name, value in moved.items() if name in row}


def _moved(one: Any, context: str) -> Any:
    """What has a text and its ``start``, moved to where it is plainly meant; else as it is."""
    text, start = (one.get("text"), one.get("start")) if isinstance(one, dict) else (None, None)
    if not isinstance(text, str) or not text or isinstance(start, bool) or not isinstance(start, int):
        return one
    near = nearest(text, start, context)
    if near is None or (abs(near - start) > _NEAR and context.count(text) > 1):
        return one
    return {**one, "start": near} | ({"end": near + len(text)} if "end" in one else {})


def mend(rows: Sequence[Example], schema: Schema) -> list[Example]:
    """The rows with one spelling a label, tags in BIO, no marks in texts that belong to files, and none twice."""
    name, usual, _ = spelling(schema, rows)
    changed = []
    for row in rows:
        fields = {
            key: value.replace(BYTE_ORDER_MARK, "") or value if isinstance(value, str) else value
            for key, value in row.fields.items()
        }
        if usual and name in fields:
            fields[name] = _respelled(fields[name], usual, once=schema.fields[name] == "labels")
        changed.append(replace(row, fields=fields))
    sides, kept = Sides(schema), dict[tuple[bytes, str], Example]()
    for row in _in_bio(changed):
        kept.setdefault(sides.keys(row), row)
    return list(kept.values())


def _respelled(value: str | list[str], usual: Mapping[str, str], *, once: bool) -> str | list[str]:
    if isinstance(value, str):
        return usual.get(value, value)
    labels = [usual.get(label, label) for label in value]
    return list(dict.fromkeys(labels)) if once else labels


def _in_bio(rows: list[Example]) -> list[Example]:
    """The rows, their tags in BIO where they are in BIO or IOB1."""
    try:
        if scheme_of(rows) not in ("BIO", "IOB1"):
            return rows
    except DataError:
        return rows
    for row in rows:
        fields = cast(dict[str, Any], row.fields)
        if "tags" in fields:
            fields["tags"] = as_bio(fields["tags"])
        if "frames" in fields:
            fields["frames"] = [{**frame, "tags": as_bio(frame["tags"])} for frame in fields["frames"]]
    return rows


def write(path: Path, rows: Sequence[Example], schema: Schema) -> None:
    """Write rows as JSON Lines, as CoNLL columns or as a table, as the file's ending says; all of it, or nothing.

    Raises:
        DataError: ``core.target_exists``, as nothing is overwritten; ``lint.output``.
    """
    if path.exists():
        raise DataError("core.target_exists", path=path)
    names = list(dict.fromkeys(name for row in rows for name in row.fields))
    table = [names, *([row.fields.get(name, "") for name in names] for row in rows)]
    plain = not any(isinstance(cell, (list, dict)) for cells in table for cell in cells)
    made, ending = io.StringIO(), path.suffix.lower()
    if ending == ".jsonl":
        made.writelines(json.dumps(row.fields, ensure_ascii=False) + "\n" for row in rows)
    elif ending == ".conll" and schema.field_of("tokens") and schema.field_of("tags"):
        for row in rows:
            words = zip(row.fields["tokens"], row.fields["tags"], strict=True)
            made.write("".join(f"{token}\t{tag}\n" for token, tag in words) + "\n")
    elif ending == ".csv" and plain:
        csv.writer(made, lineterminator="\n").writerows(table)
    elif ending == ".tsv" and plain and not any(set('\t\r\n"') & set(str(cell)) for cells in table for cell in cells):
        made.writelines("\t".join(map(str, cells)) + "\n" for cells in table)
    else:
        raise DataError("lint.output", path=path)
    publish_file(path, lambda temporary: temporary.write_bytes(made.getvalue().encode()))
