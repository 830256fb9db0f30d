"""An almanac of countries, one JSON file each: the fields that are prose become one document a country."""

from __future__ import annotations

import html
import json
import re

from wenlu.data.corpora._rows import Counts, Files, Options, Rows, page_rows

_BREAK = re.compile(r"(?i)<\s*(?:br|/?p)\s*/?\s*>")
_TAG = re.compile(r"<[^<>]{0,200}>")
_SPACES = re.compile(r"[^\S\n]+")
_NAME = ("Government/Country name/conventional short form", "Government/Country name/conventional long form")
_SHORTEST = 200


def convert(files: Files, options: Options, counts: Counts) -> Rows:
    """``options.fields`` are ``Section/Field`` names in the order in which they stand in the document."""
    for name, path in files.items():
        record = json.loads(path.read_text(encoding="utf-8"))
        country = next((found for field in _NAME if (found := _field(record, field)) not in ("", "none")), path.stem)
        blocks = [country]
        for field in options.fields:
            if text := _field(record, field):
                label = field.rpartition("/")[2]
                blocks += [f"{label}: {text[0].upper()}{text[1:]}"] if label != "Background" else text.split("\n")
        if sum(map(len, blocks)) < _SHORTEST:
            counts.drop("too_short", "\n".join(blocks))
        else:
            yield from page_rows(country, blocks, source=name, options=options)


def _field(record: object, path: str) -> str:
    for key in (*path.split("/"), "text"):
        if not isinstance(record, dict) or key not in record:
            return ""
        record = record[key]
    text = html.unescape(_TAG.sub("", _BREAK.sub("\n", str(record))))
    return "\n".join(line for line in (_SPACES.sub(" ", line).strip() for line in text.split("\n")) if line)
