"""Articles of law in an SQLite file: one document a chapter or section of a law, as the law prints it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby

from wenlu.data.corpora._rows import Counts, Files, Options, Rows, page_rows

_IN_FORCE = "现行有效"
_ARTICLES = (
    "SELECT law_name, coalesce(chapter, ''), coalesce(section, ''), article_no, article_text, status, law_department"
    " FROM articles ORDER BY id"
)


def convert(files: Files, options: Options, counts: Counts) -> Rows:
    """Articles in force, of the catalogue's departments of law (all when it names none), in the file's order."""
    for name, path in files.items():
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            articles = _kept(database, options, counts)
            for (law, chapter, section), group in groupby(articles, key=lambda article: article[:3]):
                heading = [part for part in (law, chapter, section) if part]
                blocks = [f"{number}　{text.strip()}" for *_, number, text in group]
                blocks[0] = "\n".join([*heading, blocks[0]])
                yield from page_rows(" ".join(heading), blocks, source=name, options=options, separator="\n")


def _kept(database: sqlite3.Connection, options: Options, counts: Counts) -> Iterator[tuple[str, str, str, str, str]]:
    for law, chapter, section, number, text, status, department in database.execute(_ARTICLES):
        if status != _IN_FORCE:
            counts.drop("not_in_force", text)
        elif options.departments and department not in options.departments:
            counts.drop("other_department", text)
        else:
            yield law, chapter, section, number, text
