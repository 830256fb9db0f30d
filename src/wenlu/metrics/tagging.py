"""Scores of tagged tokens: tokens, entities by seqeval in strict mode, semantic roles by frames, words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence, Set
from itertools import accumulate, pairwise

import numpy as np

from wenlu.core.extras import load_extra, release
from wenlu.metrics.score import Score, counted_scores, precision_recall_f1, ratio

Tags = Sequence[str]
Spans = Set[tuple[object, ...]]

_CHUNK = re.compile(r"O|[BIMESLU](-.+)?", re.DOTALL)


def chunk_scheme(sequences: Iterable[Tags]) -> str | None:
    """How tags mark entities, by seqeval's names: IOB2, IOBES (also with M for I) or BILOU; None where they do not.

    IOB1 cannot be told from IOB2 by its letters: it must be converted before, see ``iob1_to_iob2``.
    """
    tags = {tag for sequence in sequences for tag in sequence}
    if tags <= {"O"} or not all(map(_CHUNK.fullmatch, tags)):
        return None
    letters = {tag[0] for tag in tags} - {"O"}
    schemes = {"IOB2": "BI", "IOBES": "BIMES", "BILOU": "BILU"}
    return next((scheme for scheme, allowed in schemes.items() if letters <= {*allowed}), None)


def iob1_to_iob2(tags: Tags) -> list[str]:
    """Tags whose entities all begin with B, of tags where B stands only between entities of one type."""
    begins = (tag[:2] == "I-" and tag[2:] != before[2:] for before, tag in pairwise(["O", *tags]))
    return ["B-" + tag[2:] if begin else tag for begin, tag in zip(begins, tags, strict=True)]


def token_accuracy(gold: Sequence[Tags], predicted: Sequence[Tags]) -> dict[str, Score]:
    """``token_accuracy``, the share of tokens whose tag is right; tokens of a sentence are drawn together."""
    hits = [sum(a == b for a, b in zip(*row, strict=True)) for row in zip(gold, predicted, strict=True)]
    columns = np.array([hits, [*map(len, gold)]], dtype=np.float64)
    definition = {"token_accuracy": "share of tokens whose tag is right"}
    return counted_scores(columns, lambda sums: ratio(sums[:1], sums[1:]), definition, unit="sentence")


def entities(gold: Sequence[Tags], predicted: Sequence[Tags], *, scheme: str | None = None) -> dict[str, Score]:
    """Micro ``entity_precision``, ``entity_recall`` and ``entity_f1``: right is an entity with its type and both ends.

    A predicted entity that the scheme does not allow (an I without B) is none: seqeval's strict mode.
    """
    scheme = scheme or chunk_scheme([*gold, *predicted]) or "IOB2"
    return _span_scores("entity", _entities(gold, scheme), _entities(predicted, scheme), note=_strict(scheme))


def roles(
    gold: Sequence[Sequence[Tags]], predicted: Sequence[Sequence[Tags]], *, without: Collection[str] = ("V",)
) -> dict[str, Score]:
    """Micro ``role_precision``, ``role_recall`` and ``role_f1`` of sentences of frames, each with IOB2 tags of its own.

    The tag of the predicate itself, which is given, is left out, as in CoNLL-2005's scorer.
    """
    joined = ([[tag for frame in row for tag in (*frame, "O")] for row in side] for side in (gold, predicted))
    spans = ([{span for span in row if span[0] not in without} for row in _entities(side, "IOB2")] for side in joined)
    return _span_scores("role", *spans, note=f"{_strict('IOB2')}|without:{','.join(sorted(without))}")


def segmentation(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Score]:
    """``word_precision``, ``word_recall`` and ``word_f1`` of texts as words: right is a word with both boundaries.

    Sproat and Emerson, "The First International Chinese Word Segmentation Bakeoff", SIGHAN 2003.
    """
    sides = ([{*pairwise(accumulate(map(len, words), initial=0))} for words in texts] for texts in (gold, predicted))
    return _span_scores("word", *sides, note="right:both boundaries")


def _strict(scheme: str) -> str:
    return f"mode:strict|scheme:{scheme}|{release('seqeval')}"


def _entities(sequences: Sequence[Tags], scheme: str) -> list[Spans]:
    """The (type, start, end) of each sequence's entities."""
    library = load_extra("seqeval.scheme", extra="eval")
    plain = [[f"I{tag[1:]}" if tag[0] == "M" else tag for tag in tags] for tags in sequences]
    found = library.Entities(plain, getattr(library, scheme)).entities
    return [{(entity.tag, entity.start, entity.end) for entity in row} for row in found]


def _span_scores(kind: str, gold: Sequence[Spans], predicted: Sequence[Spans], *, note: str) -> dict[str, Score]:
    """Micro P/R/F1 of the spans of each sentence."""
    both = [len(a & b) for a, b in zip(gold, predicted, strict=True)]
    columns = np.array([both, [*map(len, predicted)], [*map(len, gold)]], dtype=np.float64)
    definitions = {f"{kind}_{name}": f"micro {kind} {name}|{note}" for name in ("precision", "recall", "f1")}
    return counted_scores(columns, lambda sums: precision_recall_f1(*sums), definitions, unit="sentence")
