"""A sentence a line, each word with its tag behind a slash: ``迈向/v 充满/v 希望/n``, or ``The/at jury/nn``."""

from __future__ import annotations

from wenlu.core.errors import DataError
from wenlu.data.examples import Asked, Rows, Schema, SourceFile

SUFFIXES = ("tagged", "pos", "txt")


def fits(head: str, schema: Schema) -> bool:
    """Tags are asked for, and every word of the first line has one."""
    words = next((line.split() for line in head.splitlines() if line.strip()), [])
    return schema.field_of("tags") is not None and bool(words) and all(_parts(word) for word in words)


def read(source: SourceFile, asked: Asked) -> Rows:
    """The sentences; a slash inside a word may have a backslash before it, as in the Penn Treebank."""
    names = [asked.schema.field_of(kind) or kind for kind in ("tokens", "tags")]
    for number, line in asked.lines(source):
        words = line.split()
        if wrong := [word for word in words if not _parts(word)]:
            yield number, DataError("examples.no_tag", where=f"{source}:{number}", word=wrong[0])
        elif words:
            yield number, dict(zip(names, map(list, zip(*map(_parts, words), strict=True)), strict=True))


def _parts(word: str) -> tuple[str, str] | None:
    text, _, tag = word.rpartition("/")
    return (text.replace("\\/", "/"), tag) if text and tag else None
