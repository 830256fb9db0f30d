"""How well an objective does on held-out text: its own rows of the text, the same ones in every evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from wenlu.core.errors import DataError, NotFiniteError
from wenlu.core.reproducibility import numpy_generator
from wenlu.data.store import TokenStore
from wenlu.models.device import device_of
from wenlu.tasks._base import IGNORE_INDEX, Batch, CorpusObjective, Score, stack
from wenlu.tasks._targets import Guesses
from wenlu.tokenization.tokenizer import Tokenizer

SEED = 0
"""Of all draws: what is masked depends on the text, the tokenizer, the objective and the length of rows only."""

_TOKENS_AT_ONCE = 2048


@dataclass(frozen=True)
class HeldOut:
    """The scores, and the parts of the rows that they come from."""

    scores: Mapping[str, Score]
    parts: tuple[Guesses, ...]

    def values(self) -> dict[str, float]:
        """The scores without their definitions."""
        return {name: score.value for name, score in self.scores.items()}


def held_out(
    objective: CorpusObjective,
    model: nn.Module,
    store: TokenStore,
    tokenizer: Tokenizer,
    *,
    sequence_length: int,
    max_tokens: int = 0,
) -> HeldOut:
    """Score a model on the rows of a split, or (``max_tokens`` above 0) on a sample of them that is always the same.

    Raises:
        DataError: ``evaluation.no_documents``, ``evaluation.no_targets``.
        NotFiniteError: ``evaluation.not_finite``: no model is better or worse than one that says NaN.
    """
    parts: list[Guesses] = []
    device, was_training = device_of(model), model.training
    model.eval()
    try:
        for batch in _batches(objective, store, tokenizer, sequence_length=sequence_length, max_tokens=max_tokens):
            found = objective.predict(model, {name: tensor.to(device) for name, tensor in batch.items()})
            guessed = [*found, *(part.pairs for part in found if part.pairs is not None)]
            if any(np.isnan(one.log_probs).any() for one in guessed):
                raise NotFiniteError("evaluation.not_finite")
            parts += found
    finally:
        model.train(was_training)
    return HeldOut(objective.scores(parts), tuple(parts))


def refuse_no_targets(
    objective: CorpusObjective, store: TokenStore, tokenizer: Tokenizer, *, sequence_length: int, max_tokens: int = 0
) -> None:
    """Refuse, without a model, what ``held_out`` would refuse; looks at rows until one has a target."""
    batches = _batches(objective, store, tokenizer, sequence_length=sequence_length, max_tokens=max_tokens)
    if not any(bool((batch["labels"] != IGNORE_INDEX).any()) for batch in batches):
        objective.scores([])


def _batches(
    objective: CorpusObjective, store: TokenStore, tokenizer: Tokenizer, *, sequence_length: int, max_tokens: int
) -> Iterator[Batch]:
    """The rows that are scored."""
    epoch = objective.epoch(store, tokenizer, sequence_length=sequence_length, seed=SEED, epoch=0, shuffle=False)
    count = len(epoch)
    if max_tokens:
        count = min(count, -(-max_tokens // sequence_length))
    if not count:
        raise DataError("evaluation.no_documents")
    chosen = np.sort(numpy_generator(SEED, "tasks.held_out").permutation(len(epoch))[:count]).tolist()
    at_once = max(1, _TOKENS_AT_ONCE // sequence_length)
    for first in range(0, count, at_once):
        rows = [epoch.row(number) for number in chosen[first : first + at_once]]
        yield stack(rows)
