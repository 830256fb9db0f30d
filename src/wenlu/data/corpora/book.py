"""Plain-text books: chapters by their headings, hard-wrapped lines joined to paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from wenlu.data.corpora._rows import Counts, Files, Options, Rows, page_rows, paragraphs, work_title

_CHAPTER = re.compile(r"(?i)^\s*(?:chapter|part|book)\s+[\divxlc]+\b.{0,60}$")
_LONGEST_HEADING = 80
_SHORT_LINE = 50
_SPACES = re.compile(r"[ \t]{2,}")


def convert(files: Files, options: Options, counts: Counts) -> Rows:
    """One document a chapter, longer chapters split between paragraphs."""
    for name, path in files.items():
        work = work_title(name, options)
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        for heading, blocks in _chapters(paragraphs(text)):
            title = f"{work}: {heading}" if heading else work
            if heading and len(blocks) == 1:
                counts.drop("heading_without_text", heading)
            else:
                yield from page_rows(title, blocks, source=name, options=options)


def unwrap(block: str) -> str:
    """Join the lines of a hard-wrapped paragraph; verse (short or indented lines) keeps its line ends."""
    lines = block.split("\n")
    if len(lines) > 1:
        indented = any(line[:1].isspace() for line in lines[1:])
        if indented or max(map(len, lines)) < _SHORT_LINE:
            return "\n".join(line.rstrip() for line in lines)
    return _SPACES.sub(" ", " ".join(line.strip() for line in lines))


def _chapters(blocks: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Heading and blocks of each chapter; headings that follow each other ("PART I", "THE SEA") are one."""
    heading, chapter = "", list[str]()
    for block in blocks:
        if not _is_heading(block):
            chapter.append(unwrap(block))
        elif heading and len(chapter) == 1:
            heading = f"{heading}, {block.strip()}"
            chapter = [f"{chapter[0]}\n{block.strip()}"]
        else:
            if chapter:
                yield heading, chapter
            heading, chapter = block.strip(), [block.strip()]
    if chapter:
        yield heading, chapter


def _is_heading(block: str) -> bool:
    """One short line of capitals or Roman numerals, or "Chapter 7"."""
    if "\n" in block or len(block) > _LONGEST_HEADING:
        return False
    if _CHAPTER.match(block):
        return True
    return block.upper() == block and any(map(str.isalpha, block)) and block[0] not in "\"'" and block[-1] not in '!?",'
