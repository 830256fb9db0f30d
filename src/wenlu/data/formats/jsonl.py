"""JSON Lines, and one JSON list of objects (``.json``): each object is a row."""

from __future__ import annotations

import json
import re
from itertools import chain

from wenlu.core.errors import DataError
from wenlu.data.examples import Asked, Rows, Schema, SourceFile
from wenlu.data.readers.jsonl import as_object, objects

SUFFIXES = ("jsonl", "ndjson", "json")
_BETWEEN = re.compile(r"\s*([,\[]?)\s*(\]?)")


def fits(head: str, schema: Schema) -> bool:
    """Every JSON file."""
    return True


def read(source: SourceFile, asked: Asked) -> Rows:
    """The objects, line by line, or all of a list.

    Raises:
        DataError: ``examples.bad_json`` where a list is damaged.
    """
    lines = asked.lines(source, newline="\n")
    begun = [next(((number, line) for number, line in lines if not line.isspace()), (1, ""))]
    if source.format == "json" and begun[0][1].lstrip().startswith("["):
        text = "\n" * (begun[0][0] - 1) + "".join(line for _, line in chain(begun, lines))
        return _elements(text, source)
    return objects(chain(filter(all, begun), lines), source)


def _elements(text: str, source: SourceFile) -> Rows:
    """The elements of a JSON list, each with its line."""
    decoder = json.JSONDecoder()
    line, place = 1, 0
    try:
        while (between := _BETWEEN.match(text, place)) and not (between[2] and between[1] == ("" if place else "[")):
            if between[1] != ("," if place else "["):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, between.end())
            line += between[0].count("\n")
            value, end = decoder.raw_decode(text, between.end())
            yield line, as_object(value, source, line)
            line, place = line + text.count("\n", between.end(), end), end
    except (ValueError, RecursionError) as error:
        raise bad_json(source, error, line) from error


def bad_json(source: SourceFile, error: Exception, line: int = 1) -> DataError:
    """What a decoder says of a document, as an error of ours."""
    line, column = getattr(error, "lineno", line), getattr(error, "colno", 1)
    return DataError("examples.bad_json", path=source, line=line, column=column, reason=getattr(error, "msg", error))
