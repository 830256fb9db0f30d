"""Tables: csv with its quotes; tab-separated text, whose quotes are text, as GLUE and many collections write it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from wenlu.core.errors import DataError
from wenlu.data.examples import Asked, FieldKind, Rows, Schema, SourceFile
from wenlu.data.readers import csv

SUFFIXES = ("csv", "tsv", "txt")
_QUOTED = re.compile(r'"((?:[^"]|"")*"")[^"]*"')  # with doubled quotes inside: written by a program that quotes


def fits(head: str, schema: Schema) -> bool:
    """No tags are asked for, or the header names the tokens."""
    return schema.field_of("tags") is None or schema.field_of("tokens") in head.partition("\n")[0].rstrip().split("\t")


def read(source: SourceFile, asked: Asked) -> Rows:
    """The rows below the header, or all where ``columns`` are given; ``labels`` stand between commas, ``tokens`` and
    ``tags`` between blanks, what is made of several values as JSON. An empty cell is no value.

    Raises:
        DataError: ``data.bad_csv``, ``examples.column_twice``.
    """
    names = list(asked.columns)
    kinds = {asked.names.get(name, name): kind for name, kind in asked.schema.fields.items()}
    table = csv.rows(source, asked.settings, asked.report) if source.format == "csv" else _tabs(source, asked)
    for line, cells in table:
        if not names:
            names = [name.strip() for name in cells]
            if len(set(names)) < len(names):
                raise DataError("examples.column_twice", path=source, line=line, names=", ".join(names))
        elif len(cells) != len(names):
            yield line, wrong_columns(f"{source}:{line}", len(cells), names)
        else:
            yield line, {name: _value(cell, kinds.get(name)) for name, cell in zip(names, cells, strict=True)}


def wrong_columns(where: str, found: int, names: list[str], needed: int = 0) -> DataError:
    """The error of a line that has not as many columns as these, or as are needed."""
    columns = ", ".join(names)
    return DataError("examples.columns", where=where, found=found, needed=needed or len(names), columns=columns)


def _tabs(source: SourceFile, asked: Asked) -> Iterator[tuple[int, list[str]]]:
    for number, line in asked.lines(source):
        if not line.isspace():
            cells = line.rstrip("\r\n").split("\t")
            yield number, [cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell for cell in cells]


def _value(cell: str, kind: FieldKind | None) -> object:
    """What a cell stands for; the text itself where it stands for nothing, which the check then refuses."""
    if kind in ("text", "label", None) or not cell.strip():
        return cell if cell.strip() else None
    if kind == "labels":
        return [label.strip() for label in cell.split(",") if label.strip()]
    if kind in ("tokens", "tags"):
        return cell.split()
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
