"""A novel as a JSON list of chapters: the first line of each is its heading, its paragraphs begin with a tab."""

from __future__ import annotations

import json

from wenlu.data.corpora._rows import Counts, Files, Options, Rows, page_rows, work_title


def convert(files: Files, options: Options, counts: Counts) -> Rows:
    """One document a chapter, longer chapters split between paragraphs."""
    for name, path in files.items():
        work = work_title(name, options)
        for chapter in json.loads(path.read_text(encoding="utf-8")):
            blocks = [line.strip() for line in str(chapter).splitlines() if line.strip()]
            if blocks:
                yield from page_rows(f"{work} {blocks[0]}", blocks, source=name, options=options)
            else:
                counts.drop("empty", str(chapter))
