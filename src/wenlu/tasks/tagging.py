"""Tags of tokens: names, parts of speech, words of unspaced scripts; a head judges the state of each token.

A word of the user may be several tokens of the model. Its tag is learned, and read, at the first of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from wenlu.core.errors import DataError
from wenlu.core.log import notice
from wenlu.data.examples import Example, Schema
from wenlu.data.tag_schemes import detect, given_spans, to_bio
from wenlu.metrics import tagging as scores_of
from wenlu.metrics.words import spacing, word_places
from wenlu.tasks._base import IGNORE_INDEX, Score, Skip
from wenlu.tasks._labelled import Features, Judged, JudgingTask, LabelledSettings, Prediction
from wenlu.tasks._words import before, kept_places, pieces
from wenlu.tokenization.tokenizer import Tokenizer

OUTSIDE = "O"


@dataclass(frozen=True)
class TaggingSettings(LabelledSettings):
    """The ``[task]`` table of a task with a tag for each token."""

    name: str = "tagging"
    truncation: Literal["head", "error"] = "head"


class Tagging(JudgingTask):
    """The task; see ``tasks/_base.py`` for what each method means."""

    schema = Schema("tagging", {"tokens": "tokens", "tags": "tags"})
    head = "token"
    settings: TaggingSettings = TaggingSettings()

    @property
    def best(self) -> str:
        """F1 of entities where the tags make them."""
        return "entity_f1" if self._marks_spans else "token_accuracy"

    @property
    def _marks_spans(self) -> bool:
        return scores_of.chunk_scheme([self.settings.labels]) is not None

    def inventory(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """The tags, sorted."""
        return tuple(sorted({tag for example in examples for tag in example.fields.get("tags", ())}))

    def converted(self, examples: Sequence[Example]) -> list[Example]:
        """Spans in IOB1 become BIO, and it is said; tags that are neither stay as they are."""
        tagged = [(example.fields.get("tags", ()), example.where) for example in examples]
        with suppress(DataError):
            if detect(tagged) == "IOB1":
                tags = [to_bio(given, "IOB1", where=where) for given, where in tagged]
                notice("tasks.iob1", where=examples[0].where, count=len(examples))
                pairs = zip(examples, tags, strict=True)
                return [replace(one, fields={**one.fields, "tags": bio} if bio else one.fields) for one, bio in pairs]
        return list(examples)

    def of_text(self, text: str, where: str) -> Example:
        """The words, numbers and marks of a plain text, each with its place; characters where no blanks stand."""
        places = word_places(text)
        return Example({"tokens": [text[start:end] for start, end in places], "places": places}, where)

    def encode(self, example: Example, tokenizer: Tokenizer) -> list[Features] | Skip:
        """The sentence; labels stand at the first token of each word, and nowhere where a word was cut off."""
        words = example.fields["tokens"]
        ids, firsts = pieces(words, tokenizer, example.where)
        if not ids:
            return Skip("empty")
        row = self.framed(ids, None, tokenizer, example.where)
        places = kept_places(firsts, row, before(tokenizer), tokenizer)
        extra = places, words, example.fields.get("places")
        return [self.tagged(row, places, example.fields.get("tags"), extra=extra)]

    def tagged(
        self, row: Features, places: Sequence[int | None], tags: Sequence[str] | None, *, extra: object
    ) -> Features:
        """The row with the numbers of the words' tags at these places; a tag without a number is no target."""
        columns = dict(row.columns)
        if tags is not None:
            labels = np.full(len(columns["input_ids"]), IGNORE_INDEX)
            numbers = {tag: number for number, tag in enumerate(self.settings.labels)}
            for place, tag in zip(places, tags, strict=True):
                if place is not None:
                    labels[place] = numbers.get(tag, IGNORE_INDEX)
            columns["labels"] = labels
        return replace(row, columns=columns, extra=extra)

    def merge(self, parts: Sequence[Judged]) -> Prediction:
        """The likeliest tag of each word with its probability; ``O`` at 0 for a word that was cut off.

        Where tags mark spans, these too: half-open, in characters of a plain text, else in tokens; the probability of
        one is the product of those of its tags.
        """
        [part] = parts
        firsts, words, places = part.extra
        tags, probabilities = self.likeliest(part.probabilities, firsts)
        answer: dict[str, object] = {"tags": tags, "tokens": list(words), "probabilities": probabilities}
        if self._marks_spans:
            closed = any(label[0] in "ELSU" for label in self.settings.labels)
            answer["spans"] = [
                {
                    "label": span.type,
                    "start": span.start if places is None else places[span.start][0],
                    "end": span.end if places is None else places[span.end - 1][1],
                    "tokens": list(words[span.start : span.end]),
                    "probability": math.prod(probabilities[span.start : span.end]),
                }
                for span in given_spans(tags, closed=closed)
            ]
        return answer

    def shown(self, answer: Prediction) -> str:
        """Each word with its tag; where tags mark spans with types, these alone."""
        if any(span["label"] for span in answer.get("spans", ())):
            blank = " " if spacing(answer["tokens"]) == "spaced" else ""
            return ", ".join(f"{blank.join(span['tokens'])}/{span['label']}" for span in answer["spans"])
        return " ".join(map("/".join, zip(answer["tokens"], answer["tags"], strict=True)))

    def likeliest(
        self, probabilities_SC: np.ndarray[Any, Any], places: Sequence[int | None]
    ) -> tuple[list[str], list[float]]:
        """The likeliest tag at each place with its probability; ``O`` at 0 where there is none."""
        tags, probabilities = [], []
        for place in places:
            best = 0 if place is None else int(probabilities_SC[place].argmax())
            tags.append(OUTSIDE if place is None else self.settings.labels[best])
            probabilities.append(0.0 if place is None else float(probabilities_SC[place][best]))
        return tags, probabilities

    def metrics(self, predictions: Sequence[Prediction], references: Sequence[Example]) -> dict[str, Score]:
        """The share of words that are tagged right; where tags make entities, their precision, recall and F1."""
        gold, found = [one.fields["tags"] for one in references], [one["tags"] for one in predictions]
        scores = scores_of.token_accuracy(gold, found)
        if self._marks_spans:
            scores |= scores_of.entities(gold, found, scheme=scores_of.chunk_scheme([self.settings.labels]))
        return scores


SETTINGS = TaggingSettings
create = Tagging
