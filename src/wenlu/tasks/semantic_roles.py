"""Semantic roles: who did what to whom. One row a predicate, which stands between two signs; its roles are tagged.

As in Shi and Lin 2019, "Simple BERT Models for Relation Extraction and Semantic Role Labeling", section 3, where the
predicate is told by a segment of its own: signs do the same for models without segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from wenlu.core.log import warn
from wenlu.data.examples import Example, Schema
from wenlu.data.tag_schemes import given_spans
from wenlu.metrics import tagging as scores_of
from wenlu.tasks._base import Finding, Score, Skip
from wenlu.tasks._labelled import Features, Judged, LabelledTask, Prediction
from wenlu.tasks._words import MarkedSettings, framed_part, kept_places, marked_word
from wenlu.tasks.tagging import Tagging, TaggingSettings
from wenlu.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class SemanticRolesSettings(MarkedSettings, TaggingSettings):
    """The ``[task]`` table: that of ``tagging``. ``sign`` stands before and behind the predicate.

    Rare roles may miss in the training examples: ``unseen_roles`` of other examples are an error, or count as a
    ``miss``.
    """

    name: str = "semantic_roles"
    sign: str = "@"
    unseen_roles: Literal["error", "miss"] = "error"


class SemanticRoles(Tagging):
    """The task; see ``tasks/_base.py`` for what each method means."""

    schema = Schema("semantic_roles", {"tokens": "tokens", "frames": "frames"})
    best = "role_f1"
    settings: SemanticRolesSettings = SemanticRolesSettings()

    def inventory(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """The tags of all frames, sorted."""
        frames = (frame for example in examples for frame in example.fields["frames"])
        return tuple(sorted({tag for frame in frames for tag in frame.get("tags", ())}))

    def check(self, rows: Sequence[Example]) -> Iterator[Finding]:
        """Roles that the training examples do not have; those that are to count as a miss are only announced."""
        if self.settings.unseen_roles == "error":
            yield from super().check(rows)
        elif unknown := sorted({*self.inventory(rows)} - {*self.settings.labels}):
            warn("tasks.unseen_roles", names=", ".join(unknown))

    def of_text(self, text: str, where: str) -> Example:
        """None: a plain text does not say what its predicates are.

        Raises:
            RequestError: ``tasks.needs_fields``.
        """
        return LabelledTask.of_text(self, text, where)

    def converted(self, examples: Sequence[Example]) -> list[Example]:
        """As they are: tags of frames are BIO."""
        return list(examples)

    def encode(self, example: Example, tokenizer: Tokenizer) -> list[Features] | Skip:
        """The sentence once for each predicate; none of a sentence without one."""
        words, rows = example.fields["tokens"], []
        for frame in example.fields["frames"]:
            at = frame["predicate"]
            marked = marked_word(words, at, self.settings.sign, tokenizer, example.where)
            found = framed_part(self, marked, tokenizer, example.where)
            if found is None:
                return Skip("too_far_apart")
            row, moved = found
            places = kept_places(marked.firsts, row, moved, tokenizer)
            rows.append(self.tagged(row, places, frame.get("tags"), extra=(at, words, places)))
        return rows

    def merge(self, parts: Sequence[Judged]) -> Prediction:
        """The frames of a sentence, in order, each with the likeliest tag of each word; a role always begins with B.

        ``arguments`` are the roles as spans, half-open in tokens.
        """
        frames = []
        for part in parts:
            at, words, places = part.extra
            likeliest, probabilities = self.likeliest(part.probabilities, places)
            tags = scores_of.iob1_to_iob2(likeliest)
            arguments = [
                {"role": span.type, "start": span.start, "end": span.end, "tokens": list(words[span.start : span.end])}
                for span in given_spans(tags, closed=False)
            ]
            frame = {"predicate": at, "word": words[at], "arguments": arguments}
            frames.append({**frame, "tags": tags, "probabilities": probabilities})
        return {"frames": frames}

    def shown(self, answer: Prediction) -> str:
        """Each predicate with its roles."""
        frames = []
        for frame in answer["frames"]:
            roles = [" ".join([one["role"], *one["tokens"]]) for one in frame["arguments"]]
            frames.append(f"{frame['word']}({', '.join(roles)})")
        return "; ".join(frames)

    def metrics(self, predictions: Sequence[Prediction], references: Sequence[Example]) -> dict[str, Score]:
        """Precision, recall and F1 of roles, right with their name and both ends."""
        gold = [[frame["tags"] for frame in one.fields["frames"]] for one in references]
        return scores_of.roles(gold, [[frame["tags"] for frame in one["frames"]] for one in predictions])


SETTINGS = SemanticRolesSettings
create = SemanticRoles
