"""What tasks have alike whose examples are plain texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from wenlu.tasks._base import Finding, Score
from wenlu.tasks._targets import Guesses


class TextTask:
    """A language model is its own head, and reads documents; see ``tasks/_base.py`` for what each method means."""

    def examples(self, source: Sequence[str], generator: torch.Generator) -> Iterator[str]:
        """The documents in a random order."""
        for index in torch.randperm(len(source), generator=generator).tolist():
            yield source[index]

    def check(self, rows: Sequence[str]) -> Iterator[Finding]:
        """Only an empty document is wrong."""
        for number, row in enumerate(rows, start=1):
            if not row.strip():
                yield Finding("tasks.empty_document", str(number))

    def build(self, model: nn.Module) -> nn.Module:
        """A language model is its own head."""
        return model


class GuessingTask(TextTask, ABC):
    """A task whose answers are guesses of tokens that the model did not see."""

    @abstractmethod
    def scores(self, parts: Sequence[Guesses]) -> dict[str, Score]:
        """The scores of guesses, with their definitions and counts."""

    def merge(self, parts: Sequence[Guesses]) -> list[Guesses]:
        """The guesses of a document."""
        return list(parts)

    def metrics(self, predictions: Sequence[list[Guesses]], references: Sequence[str]) -> dict[str, Score]:
        """The scores of all documents."""
        return self.scores([part for parts in predictions for part in parts])
