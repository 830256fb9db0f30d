"""Which documents are held out: by the hash of their text, so that a text is on one side whatever stands around it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from wenlu.core.log import notice, warn
from wenlu.data.settings import DataSettings
from wenlu.data.spool import Spool
from wenlu.data.store import SPLITS, Split

Rule = Literal["hash", "tails", "given", "nothing"]

FEWEST_FOR_HASHING = 20
TAIL = 0.1  # of each file, when there are fewer documents
_FEWEST_CHARACTERS = 10
_SENTENCE_ENDS = ("\n", "。", "！", "？", ". ", " ")


def split_of(hash: int, settings: DataSettings) -> Split:
    """The split of a document by 64 bits of its digest."""
    place = hash / 2.0**64
    if not settings.validation_paths:
        if place < settings.validation_fraction:
            return "validation"
        place -= settings.validation_fraction
    return "test" if not settings.test_paths and 0 <= place < settings.test_fraction else "train"


def complete(spool: Spool, settings: DataSettings, directory: Path) -> tuple[Spool, Rule]:
    """Make sure that every wanted split has a document; gives the spool to use and the name of the rule.

    With fewer than 20 documents the last tenth of each file is held out instead. With more, a split that no hash fell
    into gets the document with the smallest hash.
    """
    fractions = {"validation": settings.validation_fraction, "test": settings.test_fraction}
    given = {"validation": settings.validation_paths, "test": settings.test_paths}
    wanted = [split for split in SPLITS if fractions.get(split) and not given[split]]
    own = np.flatnonzero(spool.rows()["file"] > 0)  # file 0: the given validation and test files
    if not wanted:
        return spool, "given" if any(given.values()) else "nothing"
    if len(own) < FEWEST_FOR_HASHING:
        notice("data.split_by_tails", documents=len(own), fewest=FEWEST_FOR_HASHING)
        return _hold_out_tails(spool, wanted, directory), "tails"
    for split in wanted:
        rows = spool.rows()
        candidates = own[rows["split"][own] == 0]
        if len(candidates) and not len(spool.in_split(split)):
            spool.move(int(candidates[np.argmin(rows["hash"][candidates])]), split)
            notice("data.split_of_one", split=split, documents=len(own))
    return spool, "hash"


def cut_place(text: str, near: int) -> int:
    """A place to cut near this one: behind a line end if there is one, else a sentence end, a blank, or right here."""
    reach = max(_FEWEST_CHARACTERS, len(text) // 50)
    low, high = max(1, near - reach), min(len(text) - 1, near + reach)
    for mark in _SENTENCE_ENDS:
        places = [text.rfind(mark, low, near), text.find(mark, near, high)]
        behind = [place + len(mark) for place in places if place >= 0]
        if behind:
            return min(behind, key=lambda place: abs(place - near))
    return near


def _hold_out_tails(spool: Spool, wanted: list[Split], directory: Path) -> Spool:
    """A new spool in which the last tenth of each file (one tenth a split) is held out; documents are cut for it."""
    order: list[Split] = ["train", *reversed(wanted)]
    rows = spool.rows()
    totals = np.bincount(rows["file"], weights=rows["characters"]).astype(np.int64).tolist()  # of each file
    passed = [0] * len(totals)
    with Spool(directory) as made:
        for row, text in zip(rows, spool.texts(), strict=True):
            file = int(row["file"])
            language = spool.language_names[int(row["language"])]
            given = [(SPLITS[int(row["split"])], text)]
            pieces = _divide(text, order, start=passed[file], total=totals[file]) if file else given
            passed[file] += len(text)
            left = int(row["original_bytes"])
            for number, (split, piece) in reversed(list(enumerate(pieces))):
                size = len(piece.encode()) if number else left
                left -= size
                made.add(piece, original_bytes=size, hash=int(row["hash"]), file=file, language=language, split=split)
    if any(not len(made.in_split(split)) for split in wanted):
        warn("data.nothing_held_out")
    return made


def _divide(text: str, order: list[Split], *, start: int, total: int) -> list[tuple[Split, str]]:
    """The pieces of a text that begins ``start`` characters into a file, without those that are blank."""
    if total < _FEWEST_CHARACTERS:
        return [("train", text)]
    tails = len(order) - 1
    places = [0]
    for number in range(tails):
        near = min(max(round(total * (1 - TAIL * (tails - number))) - start, places[-1]), len(text))
        places.append(cut_place(text, near) if 0 < near < len(text) else near)
    places.append(len(text))
    pieces = [(split, text[low:high]) for split, low, high in zip(order, places, places[1:], strict=False)]
    return [(split, piece) for split, piece in pieces if piece.strip()]
