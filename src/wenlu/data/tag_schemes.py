"""Tags of spans: BIO, IOB1 and BIOES (BMES, BILOU) told apart, converted, and read as spans.

BIO and IOB1: Ramshaw and Marcus 1995; Tjong Kim Sang and Veenstra 1999. What contradicts a scheme is refused by place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wenlu.core.errors import DataError

SpanScheme = Literal["BIO", "IOB1", "BIOES"]
Scheme = Literal["BIO", "IOB1", "BIOES", "plain"]
_CONTINUING: Mapping[SpanScheme, str] = {"BIO": "I", "IOB1": "B", "BIOES": "IE"}  # stand only where a span goes on
_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}  # BMES and BILOU are BIOES


@dataclass(frozen=True)
class Span:
    """Tokens ``start`` to ``end`` (half-open) and their type, ``""`` where tags have none (word segmentation)."""

    start: int
    end: int
    type: str


def detect(sentences: Iterable[tuple[Sequence[str], str]]) -> Scheme:
    """The scheme of all sentences, each with its place; ``plain`` where tags do not make spans (parts of speech).

    Raises:
        DataError: ``tags.mixed``: tags that only BIO has, and tags that only IOB1 has; ``tags.unknown``: tags with and
            without a scheme.
    """
    seen: dict[str, tuple[str, str]] = {}  # the first place and tag of each kind of evidence
    for tags, where in sentences:
        for number, (letter, type, _, goes_on) in enumerate(_steps(tags)):
            place = (f"{where}, {number + 1}", tags[number])
            if type:
                seen.setdefault("typed" if letter else "plain", place)
            if letter in ("E", "S"):
                seen.setdefault("BIOES", place)
            elif letter in ("B", "I") and not goes_on:
                seen.setdefault("BIO" if letter == "B" else "IOB1", place)
    if "plain" in seen:
        if "typed" in seen:
            raise DataError("tags.unknown", place=seen["plain"][0], tag=seen["plain"][1], spans=seen["typed"][1])
        return "plain"
    if "BIOES" in seen:
        return "BIOES"
    if "BIO" in seen and "IOB1" in seen:
        raise DataError("tags.mixed", bio=": ".join(seen["BIO"]), iob1=": ".join(seen["IOB1"]))
    return "IOB1" if "IOB1" in seen else "BIO"


def split(tag: str) -> tuple[str, str]:
    """Letter (``B``, ``I``, ``E``, ``S`` or ``O``) and type of a tag; ``("", tag)`` when it is none of these."""
    if tag == "O":
        return "O", ""
    letter, separator, type = tag[:1], tag[1:2], tag[2:]
    if letter in _LETTERS and (not separator or (separator in "-_" and type)):
        return _LETTERS[letter], type
    return "", tag


def _steps(tags: Iterable[str]) -> Iterator[tuple[str, str, bool, bool]]:
    """Letter and type of each tag, whether a span is open before it, and whether that has its type."""
    before, opened = "", False
    for letter, type in map(split, tags):
        yield letter, type, opened, opened and before == type
        before, opened = type, letter in ("B", "I")


def spans(tags: Sequence[str], scheme: SpanScheme = "BIO", *, where: str = "-") -> list[Span]:
    """The spans of a sentence, in order.

    Raises:
        DataError: ``tags.inconsistent``: a tag that cannot stand there in this scheme, with ``where`` and its number.
    """
    for number, (letter, _, opened, goes_on) in enumerate(_steps([*tags, "O"])):
        allowed = "OBI" if scheme != "BIOES" else "IE" if opened else "OBS"
        if not letter or letter not in allowed or (letter in _CONTINUING[scheme] and not goes_on):
            shown, previous = [*tags, "-"][number], ["-", *tags][number]
            place = {"where": where, "number": number + 1}
            raise DataError("tags.inconsistent", **place, tag=shown, previous=previous, scheme=scheme)
    return given_spans(as_bio(tags) if scheme == "IOB1" else tags, closed=scheme == "BIOES")


def as_bio(tags: Sequence[str]) -> list[str]:
    """Tags of which every span begins with B: IOB1 in BIO, and an I that continues nothing begins a span."""
    steps = zip(tags, _steps(tags), strict=True)
    return [f"B{tag[1:]}" if letter == "I" and not goes_on else tag for tag, (letter, _, _, goes_on) in steps]


def given_spans(tags: Sequence[str], *, closed: bool) -> list[Span]:
    """The spans of tags that a model gave and that may contradict their scheme: what it does not allow is no span.

    So seqeval counts in its strict mode. ``closed`` spans of more than one token need an end (BIOES).
    """
    found: list[Span] = []
    start, type = -1, ""
    for number, tag in enumerate([*tags, "O"]):
        letter, other = split(tag)
        if start >= 0 and letter in ("I", "E") and other == type:
            if letter == "E":
                found.append(Span(start, number + 1, type))
                start = -1
            continue
        if start >= 0 and not closed:
            found.append(Span(start, number, type))
        start, type = number if letter == "B" else -1, other
        if letter == "S":
            found.append(Span(number, number + 1, other))
    return found


def to_bio(tags: Sequence[str], scheme: Scheme, *, where: str = "-") -> list[str]:
    """The same spans in BIO; plain tags stay as they are. Raises what ``spans`` does."""
    return list(tags) if scheme == "plain" else from_spans(spans(tags, scheme, where=where), len(tags))


def from_spans(found: Iterable[Span], length: int, *, scheme: Literal["BIO", "BIOES"] = "BIO") -> list[str]:
    """Tags of ``length`` tokens from spans that do not overlap."""
    tags = ["O"] * length
    for span in found:
        letters = ["B", *"I" * (span.end - span.start - 1)]
        if scheme == "BIOES":
            letters[-1] = "E" if len(letters) > 1 else "S"
        tags[span.start : span.end] = [f"{letter}-{span.type}" if span.type else letter for letter in letters]
    return tags
