"""Encoding very long texts in pieces with exactly the ids of the whole, in memory that does not grow with the text.

A text is cut only where every pre-tokenizer of ``kinds`` cuts too: behind a letter A-Z, a-z or a common Chinese
character, before a blank, a line end or a mark. No alternative of the patterns spans such a place or looks back over
it, and no normalization joins the two sides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast, get_args

from wenlu.tokenization.kinds import TokenizerKind, TokenizerSettings, untrained

PIECE_CHARACTERS = 65_536
"""A piece ends at the first safe place behind this many characters."""
LONGEST_BLANKS = 500_000
"""More blanks in a row than this are encoded without the pattern, whose engine gives up at ten million."""

_SAFE = re.compile(r"[A-Za-z\u4e00-\u9fff](?=[ \n,.;，。；！？])")
_CONTEXT_FREE_NORMALIZERS = {"NFC", "NFKC", "Lowercase", "BertNormalizer"}


class Piece(NamedTuple):
    """A part of a text; a pre-token on its own is ``whole``, and its pattern need not be applied."""

    text: str
    whole: bool = False


def pieces(text: str, *, blanks: bool) -> Iterator[Piece]:
    """The text in order as pieces that can be encoded one by one; ``blanks``: cut out very long runs of blanks."""
    start = 0
    if blanks and len(text) > LONGEST_BLANKS:
        blanks_alone = re.compile(rf"(?<!\s)[ \t\u3000]{{{LONGEST_BLANKS},}}(?!\s)")
        for match in blanks_alone.finditer(text):
            yield from _cut(text[start : match.start()])
            # `\s+(?!\S)` leaves the last blank to what follows it, and takes it too at the end of the text
            start = match.end() - (1 if match.end() < len(text) else 0)
            yield Piece(text[match.start() : start], whole=True)
    yield from _cut(text[start:])


def cuttable(kind: TokenizerKind, description: Mapping[str, Any]) -> bool:
    """Whether a tokenizer (tokenizer.json, parsed) may be given its text in pieces."""
    normalizer = description["normalizer"]
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    return (
        description["pre_tokenizer"] == pre_tokenizer_of(kind)
        and all(token["special"] for token in description["added_tokens"])
        and all(step["type"] in _CONTEXT_FREE_NORMALIZERS for step in steps)
    )


def pre_tokenizer_of(kind: TokenizerKind) -> object:
    """How tokenizer.json describes the pre-tokenizer of a kind."""
    return json.loads(untrained(TokenizerSettings(kind=kind)).to_str())["pre_tokenizer"]


def kind_of(description: Mapping[str, Any]) -> TokenizerKind | None:
    """The kind of a tokenizer (tokenizer.json, parsed); None for a model that is none of them."""
    model = description["model"]["type"]
    if model == "WordLevel":
        return "characters" if description["pre_tokenizer"] == pre_tokenizer_of("characters") else "words"
    return cast(TokenizerKind, model.lower()) if model.lower() in get_args(TokenizerKind) else None


def _cut(text: str) -> Iterator[Piece]:
    start = 0
    while len(text) - start > PIECE_CHARACTERS and (match := _SAFE.search(text, start + PIECE_CHARACTERS)):
        yield Piece(text[start : match.end()])
        start = match.end()
    if start < len(text):
        yield Piece(text[start:] if start else text)
