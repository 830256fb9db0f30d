"""How a model wants one text or two: the special tokens around them, such as ``[CLS] a [SEP] b [SEP]``, and segments.

A tokenizer.json says it in its post-processor. What it does is found out once, by trying, and then done with lists of
ids, so that texts may come from a token store.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer, processors

BERT = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
"""One text and two, as BERT reads them."""

_TRIALS = ("a", "0", "的", "▁", " ")


@dataclass(frozen=True)
class Sequenced:
    """The ids of one text or two with the special tokens around them; ``segments`` has 0 or 1 for each id."""

    ids: list[int]
    segments: list[int]


@dataclass(frozen=True)
class _Part:
    """A special token, or (``id`` None) the place of a text."""

    id: int | None
    text: int
    segment: int


class Template:
    """What the post-processor of a tokenizer does with one text and with two."""

    def __init__(self, library: Tokenizer) -> None:
        trial = next((text for text in _TRIALS if library.encode(text, add_special_tokens=False).ids), None)
        self._single = _parts(library, trial, None) if trial else [_Part(None, 0, 0)]
        self._pair = _parts(library, trial, trial) if trial else [_Part(None, 0, 0), _Part(None, 1, 0)]

    @property
    def num_special(self) -> tuple[int, int]:
        """How many special tokens stand around one text, and around two."""
        single, pair = (sum(part.id is not None for part in parts) for parts in (self._single, self._pair))
        return single, pair

    def apply(self, first: Sequence[int], second: Sequence[int] | None = None) -> Sequenced:
        """Put the special tokens around the ids of one text or two."""
        texts = (first, second or ())
        ids: list[int] = []
        segments: list[int] = []
        for part in self._single if second is None else self._pair:
            piece = texts[part.text] if part.id is None else (part.id,)
            ids.extend(piece)
            segments.extend([part.segment] * len(piece))
        return Sequenced(ids, segments)


def set_template(library: Tokenizer, single: str, pair: str) -> None:
    """Give a tokenizer the post-processor that two lines describe, if it has their special tokens.

    ``$A`` and ``$B`` are the texts; ``:1`` behind a word is its segment: ``[CLS] $A [SEP] $B:1 [SEP]:1``.
    """
    words = {word.partition(":")[0] for word in f"{single} {pair}".split()}
    ids = {word: library.token_to_id(word) for word in sorted(words) if not word.startswith("$")}
    known = [(word, id) for word, id in ids.items() if id is not None]
    if len(known) == len(ids):
        library.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=known)


def has_template(library: Tokenizer) -> bool:
    """Whether a tokenizer has a post-processor that adds tokens (the byte-level one only moves offsets)."""
    processor = json.loads(library.to_str())["post_processor"]
    return processor is not None and processor["type"] != "ByteLevel"


def _parts(library: Tokenizer, first: str, second: str | None) -> list[_Part]:
    """The special tokens and places that the library puts around texts, in order."""
    encoding = library.encode(first, second, add_special_tokens=True)
    parts: list[_Part] = []
    for id, text, segment in zip(encoding.ids, encoding.sequence_ids, encoding.type_ids, strict=True):
        place = _Part(id if text is None else None, text or 0, segment)
        if text is None or place not in parts:
            parts.append(place)
    return parts
