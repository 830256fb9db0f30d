"""A token a line, what is said of it in columns beside it, a blank line behind each sentence: CoNLL, BIO, BMES."""

from __future__ import annotations

import re
from itertools import chain

from wenlu.core.errors import DataError
from wenlu.data.examples import Asked, Rows, Schema, SourceFile
from wenlu.data.formats import slashed, table

SUFFIXES = ("conll", "bio", "bioes", "bmes", "iob", "iob2", "ner", "tsv", "txt")
_NUMBERED = re.compile(r"\s*(# [^\t\n]*\n|1(-\d+)?\t)")
_NO_TOKEN = re.compile(r"#.*|\d+[-.]\d+\t.*")  # of CoNLL-U: a comment, the range of a word, an empty node


def is_numbered(head: str) -> bool:
    """Whether a file begins as CoNLL-U does: with comments, or tokens that are numbered."""
    return _NUMBERED.match(head) is not None


def fits(head: str, schema: Schema) -> bool:
    """Tags are asked for, and it is no other format of theirs."""
    others = is_numbered(head) or slashed.fits(head, schema) or table.fits(head, schema)
    return schema.field_of("tags") is not None and not others


def read(source: SourceFile, asked: Asked, *, numbered: bool = False) -> Rows:
    """The sentences, each with the line of its first token; ``-DOCSTART-`` ends one too.

    ``numbered`` files are those of CoNLL-U: with comments, ranges and empty nodes, which are left out.
    """
    start, rows, fault = 0, list[list[str]](), None
    for number, line in chain(asked.lines(source), [(0, "")]):
        text = line.rstrip("\r\n")
        if not text.strip() or text.startswith("-DOCSTART-"):
            if rows:
                yield start, fault or _sentence(rows, asked, f"{source}:{start}", numbered)
            rows, fault = [], None
        elif not numbered or not _NO_TOKEN.fullmatch(text):
            start = start if rows else number
            rows.append(text.split("\t") if "\t" in text else text.split())
            if len(rows[-1]) != len(rows[0]):
                names = list(asked.columns) or ["tokens", "tags"]
                fault = fault or table.wrong_columns(f"{source}:{number}", len(rows[-1]), names, len(rows[0]))


def _sentence(rows: list[list[str]], asked: Asked, where: str, numbered: bool) -> dict[str, object] | DataError:
    width, columns = len(rows[0]), list(asked.columns)
    if not columns:
        tag = (3 if width >= 10 else 2) if numbered else max(width - 1, 1)
        columns = ["-"] * (tag + 1)
        columns[int(numbered)] = asked.schema.field_of("tokens") or "-"
        columns[tag] = asked.schema.field_of("tags") or "-"
    if any(name in asked.schema.fields and name not in asked.schema.optional for name in columns[width:]):
        return table.wrong_columns(where, width, columns)
    return {name: [row[place] for row in rows] for place, name in enumerate(columns[:width]) if name != "-"}
