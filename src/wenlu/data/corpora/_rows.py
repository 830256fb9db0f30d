"""What a converter takes and gives, and the one rule by which long texts become documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")


@dataclass(frozen=True)
class Row:
    """One document of a fetched text: a line of its JSON Lines file."""

    text: str
    title: str
    source: str
    """The file inside the package that it comes from."""
    language: str


Files = Mapping[str, Path]
"""The files that were taken out of a wheel, by their names in it."""
Rows = Iterator[Row]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the catalogue tells a converter under ``[text.options]``."""

    language: str = "en"
    page_characters: int = 4000
    """A document that is longer is split between two paragraphs; documents are about this long, or shorter."""
    titles: dict[str, str] = field(default_factory=dict)
    """File name without folder and suffix to the title of the work."""
    fields: tuple[str, ...] = ()
    departments: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass
class Counts:
    """What a converter left out, by reason: how many pieces and how many characters."""

    dropped: dict[str, list[int]] = field(default_factory=dict)

    def drop(self, reason: str, text: str) -> None:
        """Count a piece of text that becomes no part of any document."""
        entry = self.dropped.setdefault(reason, [0, 0])
        entry[0] += 1
        entry[1] += len(text)


def paragraphs(text: str) -> list[str]:
    """The blocks of a text between blank lines, without the blanks around them."""
    return [block for block in (block.strip("\n") for block in _BLANK_LINES.split(text)) if block.strip()]


def pages(blocks: Iterable[str], *, characters: int) -> list[list[str]]:
    """Put blocks (paragraphs, entries, articles) together into pages of about ``characters``; order and text are kept.

    No block is cut. A page ends before the block that would make it longer than ``characters``, unless it is shorter
    than a quarter of that (a heading stays with its text); so short a last page is joined to the one before.
    """
    made: list[list[str]] = []
    length = 0
    for block in blocks:
        if not made or (length >= characters // 4 and length + len(block) > characters):
            made.append([])
            length = 0
        made[-1].append(block)
        length += len(block)
    if len(made) > 1 and length < characters // 4:
        made[-2:] = [made[-2] + made[-1]]
    return made


def page_rows(title: str, blocks: Iterable[str], *, source: str, options: Options, separator: str = "\n\n") -> Rows:
    """The documents of one chapter or section; of several pages each has its number behind the title: (1), (2), ..."""
    split = pages(blocks, characters=options.page_characters)
    for number, page in enumerate(split, start=1):
        page_title = title if len(split) == 1 else f"{title} ({number})"
        yield Row(separator.join(page), page_title, source, options.language)


def work_title(name: str, options: Options) -> str:
    """The title of the work in a file: from the catalogue, else the file's name."""
    stem = PurePosixPath(name).stem
    return options.titles.get(stem, stem)
