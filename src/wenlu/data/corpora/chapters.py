"""A novel as a JSON list of chapters: the first line of each is its heading, its paragraphs begin with a tab."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from wenlu.data.corpora._rows import Counts, Options, Row, page_rows, work_title


def convert(files: Mapping[str, Path], options: Options, counts: Counts) -> Iterator[Row]:
    """One document a chapter, longer chapters split between paragraphs."""
    for name, path in files.items():
        work = work_title(name, options)
        for chapter in json.loads(path.read_text(encoding="utf-8")):
            blocks = [line.strip() for line in str(chapter).splitlines() if line.strip()]
            if not blocks:
                counts.drop("empty", str(chapter))
                continue
            yield from page_rows(f"{work} {blocks[0]}", blocks, source=name, options=options)
