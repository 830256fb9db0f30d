"""Short dialogues in lists of lists, the one shape of YAML that this corpus uses.

    conversations:
    - - first line
      - answer

Lines may be plain, quoted, folded over several lines, or a block after ``|``. Everything else that YAML knows (tags,
anchors, maps) is not read: the conversation that holds it is dropped and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from wenlu.data.corpora._rows import Counts, Files, Options, Rows, page_rows

_LANGUAGES = {"chinese": "zh", "traditionalchinese": "zh", "english": "en"}
_ITEM = re.compile(r"^(?P<indent> *)(?P<dashes>(?:- +)+)(?P<text>.*)$")
_TOP = re.compile(r"^[a-z_]+:\s*$")
_BLOCK = re.compile(r"^[|>][+-]?$")
_NOT_PLAIN = re.compile(r"""^[&*!%@`{}\[\]]|^\?\s|: |:$| #""")


def convert(files: Files, options: Options, counts: Counts) -> Rows:
    """Conversations of one file that follow each other share a document, with a blank line between them."""
    for name, path in files.items():
        folder, stem = PurePosixPath(name).parent.name, PurePosixPath(name).stem
        language = _LANGUAGES[folder]
        characters = options.page_characters if language == "en" else options.page_characters // 3
        own = replace(options, language=language, page_characters=characters)
        blocks = map("\n".join, read_conversations(path.read_text(encoding="utf-8"), counts))
        yield from page_rows(f"{folder} {stem}", blocks, source=name, options=own)


def read_conversations(text: str, counts: Counts) -> Iterator[list[str]]:
    """The lists below ``conversations:``; one that cannot be read, has fewer than two lines or repeats is dropped."""
    seen: set[tuple[str, ...]] = set()
    for raw in _conversations(text):
        try:
            lines = [_scalar(item) for item in raw]
        except ValueError:
            counts.drop("not_a_list_of_texts", "\n".join("\n".join(item) for item in raw))
            continue
        lines = [line for line in lines if line]
        if len(lines) < 2:
            counts.drop("one_line", "\n".join(lines))
        elif tuple(lines) in seen:
            counts.drop("repeated", "\n".join(lines))
        else:
            seen.add(tuple(lines))
            yield lines


def _conversations(text: str) -> Iterator[list[list[str]]]:
    """Raw items: each the lines of one list item, the first without its dashes, the others as they stand."""
    inside = False
    conversation: list[list[str]] = []
    for line in text.splitlines():
        item = _ITEM.match(line)
        deeper = bool(conversation) and len(line) - len(line.lstrip(" ")) > 2
        if _TOP.match(line):
            inside = line.startswith("conversations:")
        elif not inside or line.startswith(("#", "---")):
            continue
        elif item is None or deeper:
            if conversation:
                conversation[-1].append(line)
        else:
            if conversation and (item["dashes"].count("-") == 2 or not item["indent"]):
                yield conversation
                conversation = []
            conversation.append([item["text"]])
    if conversation:
        yield conversation


def _scalar(lines: list[str]) -> str:
    """The text of one item.

    Raises:
        ValueError: the item is something other than a text.
    """
    first = lines[0].strip()
    if _BLOCK.match(first):
        return _block(lines[1:], folded=first.startswith(">"))
    joined = _fold([first, *(line.strip() for line in lines[1:])])
    if joined.startswith("'"):
        if len(joined) < 2 or not joined.endswith("'") or "'" in joined[1:-1].replace("''", ""):
            raise ValueError(joined)
        return joined[1:-1].replace("''", "'").strip()
    if joined.startswith('"'):
        return str(json.loads(joined)).strip()
    if _NOT_PLAIN.search(joined):
        raise ValueError(joined)
    return joined


def _block(lines: list[str], *, folded: bool) -> str:
    depth = min((len(line) - len(line.lstrip(" ")) for line in lines if line.strip()), default=0)
    stripped = [line[depth:].rstrip() for line in lines]
    return _fold(stripped) if folded else "\n".join(stripped).strip("\n")


def _fold(lines: list[str]) -> str:
    """YAML's folding: one line end becomes a space, an empty line a line end."""
    text = ""
    for line in lines:
        text += line if not text or text.endswith("\n") else (f" {line}" if line else "\n")
    return text.strip()
