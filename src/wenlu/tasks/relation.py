"""Relations of two marked parts of a text: which one, in which direction, or none.

The head stands between one sign and the tail between another, ``the @ author @ of a # keygen #``; what is judged is the
mean of the states at the two opening signs (Baldini Soares et al. 2019, "Matching the Blanks", section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from wenlu.data.examples import Example, Schema
from wenlu.metrics import classification as scores_of
from wenlu.models.roles import architecture
from wenlu.models.transformer import Transformer
from wenlu.tasks._base import Batch, Score, Skip
from wenlu.tasks._labelled import Features, Prediction
from wenlu.tasks._words import MarkedSettings, framed_part, marked_pieces
from wenlu.tasks.classification import Classification, ClassificationSettings
from wenlu.tokenization.tokenizer import Tokenizer

NO_RELATION = ("no_relation", "Other", "unknown", "NA", "无关系")
"""What published data call it."""


@dataclass(frozen=True)
class RelationSettings(MarkedSettings, ClassificationSettings):
    """The ``[task]`` table: that of ``classification``, and how relations are marked and counted.

    ``signs`` stand around the head and the tail. ``no_relation`` is the label of pairs without one, by default the
    first of ``NO_RELATION`` among the labels. ``state`` is what the head judges: the mean of the states at the two
    opening ``signs``, the state that stands for the whole ``text``, or (``auto``) the signs of an encoder and the text
    of a model that reads from left to right, in which signs know nothing of what they open.
    """

    name: str = "relation"
    signs: tuple[str, str] = ("@", "#")
    no_relation: str = ""
    state: Literal["auto", "signs", "text"] = "auto"


class Relation(Classification):
    """The task; see ``tasks/_base.py`` for what each method means."""

    schema = Schema("relation", {"text": "text", "head": "span", "tail": "span", "label": "label"})
    best = "macro_f1"
    settings: RelationSettings = RelationSettings()

    @property
    def _none(self) -> str | None:
        return self.settings.no_relation or next((one for one in NO_RELATION if one in self.settings.labels), None)

    def encode(self, example: Example, tokenizer: Tokenizer) -> list[Features] | Skip:
        """The text with its signs; a text whose parts are too far apart for a row is skipped."""
        fields = example.fields
        words, numbers = _marked(fields["text"], fields["head"], fields["tail"], self.settings.signs)
        marked = marked_pieces(words, numbers, tokenizer, example.where)
        found = framed_part(self, marked, tokenizer, example.where)
        if found is None:
            return Skip("too_far_apart")
        row, moved = found
        columns = {**row.columns, "signs": np.array(marked.places[:2]) + moved}
        if "label" in fields:
            columns["labels"] = np.array(self.settings.labels.index(fields["label"]))
        return [replace(row, columns=columns)]

    def judged(self, module: nn.Module, batch: Batch) -> Tensor:
        """Logits of the labels in float32."""
        by_default = "signs" if architecture(module) == "encoder" else "text"
        if (by_default if self.settings.state == "auto" else self.settings.state) == "text":
            return super().judged(module, batch)
        hidden_BSD = self.states(module, batch)
        rows_B1 = torch.arange(len(hidden_BSD), device=hidden_BSD.device)[:, None]
        state_B1D = hidden_BSD[rows_B1, batch["signs"]].mean(dim=1, keepdim=True)
        return cast(Transformer, module).head.judge(self.head, state_B1D).float()

    def metrics(self, predictions: Sequence[Prediction], references: Sequence[Example]) -> dict[str, Score]:
        """Accuracy, precision, recall and F1 of all labels and, where there is a label for none, of the relations."""
        gold = [reference.fields["label"] for reference in references]
        return scores_of.classification(gold, [one["label"] for one in predictions], no_relation=self._none)


def _marked(
    text: str, head: Mapping[str, Any], tail: Mapping[str, Any], signs: tuple[str, str]
) -> tuple[list[str], list[int]]:
    """The text in pieces with the signs between them, and the numbers of the signs: two that open, two that close.

    Where several stand at one place, what ends comes first, and the inner one lies between the signs of the outer.
    """
    bounds = []
    for number, span in enumerate((head, tail)):
        bounds += [(span["start"], 1, -span["end"], number), (span["end"], 0, -span["start"], -number)]
    words: list[str] = []
    numbers = [0, 0, 0, 0]
    done = 0
    for place, opens, _, turned in sorted(bounds):
        number = abs(turned)
        words += [text[done:place].strip()] if text[done:place].strip() else []
        numbers[number if opens else 2 + number] = len(words)
        words.append(signs[number])
        done = place
    return [*words, *([text[done:].strip()] if text[done:].strip() else [])], numbers


SETTINGS = RelationSettings
create = Relation
