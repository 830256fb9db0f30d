"""What Wenlu says, in English and Chinese: one catalogue a language, ``en.toml`` and ``zh.toml`` beside this file.

``[error.<id>]`` holds the four parts of an error, ``[text]`` everything else (notices, help, table headers, reports).
An id is dotted, ``<package>.<name>``; a value is put in with ``{name}`` as in ``str.format``.
"""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
ERROR_PARTS = ("what", "where", "found", "fix")


def language() -> Language:
    """The reader's language: ``WENLU_LANG``, else the locale's environment variables, else English."""
    variables = ("WENLU_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
    said = next(filter(None, map(os.environ.get, variables)), "en")
    return "zh" if said.lower().startswith("zh") else "en"


@functools.cache
def catalogue(language: Language) -> Mapping[str, Mapping[str, Any]]:
    """The parsed catalogue of one language: ``{"error": {id: {part: text}}, "text": {id: text}}``, ids dotted."""
    raw = tomllib.loads((resources.files(__package__) / f"{language}.toml").read_text(encoding="utf-8"))
    return {"error": _dotted(raw.get("error", {}), leaf="what"), "text": _dotted(raw.get("text", {}), leaf=None)}


def text(id: str, /, **values: object) -> str:
    """The text with this id in the reader's language, with the values put in."""
    template: str = catalogue(language())["text"][id]
    return template.format(**values)


def error_parts(id: str, values: Mapping[str, object]) -> dict[str, str]:
    """The parts of an error message that apply: ``what``, ``where``, ``found``, ``fix``."""
    entry = catalogue(language())["error"][id]
    return {part: entry[part].format(**values) for part in ERROR_PARTS if part in entry}


def error_text(id: str, values: Mapping[str, object]) -> str:
    """An error message on one to four lines: what, then where, found and what to do."""
    parts = error_parts(id, values)
    lines = [parts.pop("what")]
    lines += [f"  {text(f'core.part_{part}')}: {value}" for part, value in parts.items()]
    return "\n".join(lines)


def _dotted(table: Mapping[str, object], *, leaf: str | None, prefix: str = "") -> dict[str, object]:
    """Flatten nested tables to dotted ids; a table that holds ``leaf`` is itself an entry."""
    entries: dict[str, object] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not (leaf and leaf in value):
            entries |= _dotted(value, leaf=leaf, prefix=f"{name}.")
        else:
            entries[name] = value
    return entries
