"""CoNLL-U (Universal Dependencies), and the ``.iob2`` files of Universal NER, which number their tokens too."""

from __future__ import annotations

from wenlu.data.examples import Asked, Rows, Schema, SourceFile
from wenlu.data.formats import conll

SUFFIXES = ("conllu", "conll", "iob2")


def fits(head: str, schema: Schema) -> bool:
    """Tags are asked for, and comments or numbered tokens begin the file."""
    return schema.field_of("tags") is not None and conll.is_numbered(head)


def read(source: SourceFile, asked: Asked) -> Rows:
    """The sentences; tags are UPOS (of Universal NER, the names) where no columns are named."""
    return conll.read(source, asked, numbered=True)
