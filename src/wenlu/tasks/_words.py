"""Texts as words, some of them between signs that mark them; of a text that is too long the marked part stays.

A sign is a character that every vocabulary has: no embedding is to be learned from few examples, any model reads it,
and it does as well as new tokens (Zhou and Chen 2022, "An Improved Baseline for Sentence-level Relation Extraction").
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from wenlu.core.errors import SettingsError
from wenlu.metrics.words import spacing
from wenlu.tasks._labelled import Features, LabelledSettings, LabelledTask
from wenlu.tokenization.pieces import encode_parts
from wenlu.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class MarkedSettings(LabelledSettings):
    """The ``[task]`` table of a task whose texts have a marked part, which is never cut off.

    Of a text that is too long, ``head`` and ``tail`` keep the earliest or latest part that has all that is marked.
    """

    truncation: Literal["head", "tail", "error"] = "head"


def pieces(words: Sequence[str], tokenizer: Tokenizer, where: str) -> tuple[list[int], list[int | None]]:
    """The ids of the words as one text, and where each word begins among them; None for one without a token."""
    blank = " " if spacing(words) == "spaced" else ""
    found = tokenizer.encode_with_offsets(blank.join(words), where=where)
    stops = [stop for _, stop in found.offsets]
    firsts: list[int | None] = []
    for word, end in zip(words, accumulate(len(word) + len(blank) for word in words), strict=True):
        piece = bisect_right(stops, end - len(blank) - len(word))
        inside = piece < len(stops) and found.offsets[piece][0] < end - len(blank)
        firsts.append(piece if inside else None)
    known = [first for first in firsts if first is not None]
    if len(set(known)) == len(known):
        return found.ids, firsts
    ids: list[int] = []
    firsts = []  # where a token reaches over several words, they are encoded apart
    for part in encode_parts(tokenizer, [[word + blank] for word in words], where=where):
        firsts.append(len(ids) if part else None)
        ids += part
    return ids, firsts


class Marked(NamedTuple):
    """A text of words: its ids, where each word begins among them, and where the signs stand."""

    ids: list[int]
    firsts: list[int | None]
    places: list[int]


def marked_pieces(words: Sequence[str], signs: Sequence[int], tokenizer: Tokenizer, where: str) -> Marked:
    """The words as one text; ``signs`` are the numbers of those that are signs.

    Raises:
        SettingsError: ``tasks.sign`` for one that the tokenizer does not know.
    """
    ids, firsts = pieces(words, tokenizer, where)
    places = [place for number in signs if (place := firsts[number]) is not None and ids[place] != tokenizer.unknown_id]
    if len(places) < len(signs):
        raise SettingsError("tasks.sign", signs=" ".join(sorted({words[number] for number in signs})))
    return Marked(ids, firsts, places)


def marked_word(words: Sequence[str], at: int, sign: str, tokenizer: Tokenizer, where: str) -> Marked:
    """The same of words one of which stands between two signs; where these begin is left out."""
    signed = [*words[:at], sign, words[at], sign, *words[at + 1 :]]
    ids, firsts, places = marked_pieces(signed, (at, at + 2), tokenizer, where)
    return Marked(ids, [*firsts[:at], firsts[at + 1], *firsts[at + 3 :]], places)


def framed_part(
    task: LabelledTask[Any], marked: Marked, tokenizer: Tokenizer, where: str
) -> tuple[Features, int] | None:
    """The row of a text, or of the part that has these places and fits, and how far tokens have moved in the row.

    None where the places are too far apart.

    Raises:
        DataError: ``tasks.too_long`` where nothing may be cut.
    """
    settings, start, ids, places = task.settings, 0, marked.ids, marked.places
    room = settings.max_length - tokenizer.template.num_special[0]
    over = max(0, len(ids) - room)
    if over and settings.truncation != "error":
        if max(places) + 1 - min(places) > room:
            return None
        start = max(0, max(places) + 1 - room) if settings.truncation == "head" else min(min(places), over)
        ids = ids[start : start + room]
    row = task.framed(ids, None, tokenizer, where)
    return replace(row, cut=over), before(tokenizer) - start


def kept_places(firsts: Sequence[int | None], row: Features, moved: int, tokenizer: Tokenizer) -> list[int | None]:
    """Where in a row of one text its tokens stand that were moved so far; None for those that were cut off."""
    low = before(tokenizer)
    high = low + len(row.columns["input_ids"]) - tokenizer.template.num_special[0]
    return [first + moved if first is not None and low <= first + moved < high else None for first in firsts]


def before(tokenizer: Tokenizer) -> int:
    """How many special tokens stand before a text."""
    return tokenizer.with_special_tokens([-1]).ids.index(-1)
