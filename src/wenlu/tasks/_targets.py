"""What objectives that predict tokens share: the loss at their targets alone, and how well the targets are guessed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wenlu.core.errors import DataError
from wenlu.tasks._base import IGNORE_INDEX, Score, Term
from wenlu.tasks._chunked import chunked_cross_entropy

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Guesses:
    """The targets of one row in order: natural-log probabilities, the likeliest ids, and the labels themselves.

    ``is_text`` is False where accuracy does not count: at sentinels and ends, and at tokens that were not hidden.
    ``pairs`` are the same of sentence pairs, where a row has any.
    """

    log_probs: npt.NDArray[np.float64]
    guesses: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    is_text: npt.NDArray[np.bool_]
    pairs: Guesses | None = None

    @property
    def hits(self) -> int:
        """How many counted targets the likeliest token hits."""
        return int(((self.guesses == self.labels) & self.is_text).sum())


def cross_entropy(module: nn.Module, logits: Logits, hidden_BSD: Tensor, labels_BS: Tensor, *, chunk_rows: int) -> Term:
    """The sum of -ln p over the labels that are not ignored, and their number."""
    labels, hidden_ND = labels_BS.flatten(), hidden_BSD.flatten(0, 1)
    targets = labels != IGNORE_INDEX
    count = int(targets.sum())
    if count < len(labels):
        hidden_ND, labels = hidden_ND[targets], labels[targets]
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Term(chunked_cross_entropy(hidden_ND, labels, logits, rows=chunk_rows, parameters=parameters), count)


def guesses(
    logits: Logits, hidden_BSD: Tensor, labels_BS: Tensor, *, chunk_rows: int, is_text: Tensor | None = None
) -> list[Guesses]:
    """What a model makes of the targets of each row; logits are chunked. Without ``is_text`` every target counts."""
    parts = []
    counted_BS = torch.ones_like(labels_BS) if is_text is None else is_text
    for hidden_SD, labels_S, counted_S in zip(hidden_BSD, labels_BS, counted_BS, strict=True):
        targets = labels_S != IGNORE_INDEX
        kept_ND, labels_N = hidden_SD[targets], labels_S[targets]
        log_probs, likeliest = [torch.empty(0)], [labels_N[:0].cpu()]
        for start in range(0, len(labels_N), chunk_rows):
            rows = slice(start, start + chunk_rows)
            found, best = _of_logits(logits(kept_ND[rows]), labels_N[rows])
            log_probs.append(found)
            likeliest.append(best)
        at_labels, likeliest_ids = torch.cat(log_probs).double().numpy(), torch.cat(likeliest).numpy()
        counted = counted_S[targets].bool().cpu().numpy()
        parts.append(Guesses(at_labels, likeliest_ids, labels_N.cpu().numpy(), counted))
    return parts


def guessed(logits_NC: Tensor, labels_N: Tensor) -> Guesses:
    """The same of logits of a few classes."""
    found, best = _of_logits(logits_NC, labels_N)
    return Guesses(found.double().numpy(), best.numpy(), labels_N.cpu().numpy(), np.ones(len(labels_N), dtype=np.bool_))


def _of_logits(logits_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of each label, and the likeliest class, on the processor."""
    log_probs_NC = torch.log_softmax(logits_NC.float(), dim=-1)
    return log_probs_NC.gather(-1, labels_N[:, None])[:, 0].cpu(), log_probs_NC.argmax(dim=-1).cpu()


def scores(parts: Sequence[Guesses], *, what: str, counted: str | None = None) -> dict[str, Score]:
    """Loss over all targets, and accuracy over those that count, beside that of always guessing the most frequent.

    Raises:
        DataError: ``evaluation.no_targets``: what has no target would score as well as a perfect model.
    """
    counted = counted or what
    count = sum(len(part.labels) for part in parts)
    if not count:
        raise DataError("evaluation.no_targets", what=what)
    nats = -math.fsum(float(part.log_probs.sum()) for part in parts)
    labels = np.concatenate([part.labels[part.is_text] for part in parts])
    hits, commonest = sum(part.hits for part in parts), int(np.bincount(labels).max()) if len(labels) else 0
    text = len(labels)
    return {
        "loss": Score(nats / count, f"mean -ln p over {what}", count),
        "accuracy": Score(hits / max(text, 1), f"share of {counted} that the likeliest token hits", text),
        "unigram_accuracy": Score(commonest / max(text, 1), f"share of the most frequent of {counted}", text),
    }
