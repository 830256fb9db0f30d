"""What objectives that predict tokens share: the loss at their targets alone, and how well the targets are guessed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wenlu.tasks._base import IGNORE_INDEX, Score, Term
from wenlu.tasks._chunked import chunked_cross_entropy

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Guesses:
    """The targets of one row in order: natural-log probabilities, the likeliest ids, and the labels themselves.

    ``pairs`` are the same of sentence pairs, where a row has any.
    """

    log_probs: npt.NDArray[np.float64]
    guesses: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    pairs: Guesses | None = field(default=None)


def cross_entropy(module: nn.Module, logits: Logits, hidden_BSD: Tensor, labels_BS: Tensor, *, chunk_rows: int) -> Term:
    """The sum of -ln p over the labels that are not ignored, and their number."""
    labels, hidden_ND = labels_BS.flatten(), hidden_BSD.flatten(0, 1)
    targets = labels != IGNORE_INDEX
    count = int(targets.sum())
    if count < len(labels):
        hidden_ND, labels = hidden_ND[targets], labels[targets]
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Term(chunked_cross_entropy(hidden_ND, labels, logits, rows=chunk_rows, parameters=parameters), count)


def guesses(logits: Logits, hidden_BSD: Tensor, labels_BS: Tensor, *, chunk_rows: int) -> list[Guesses]:
    """What a model makes of the targets of each row; logits are chunked."""
    parts = []
    for hidden_SD, labels_S in zip(hidden_BSD, labels_BS, strict=True):
        targets = labels_S != IGNORE_INDEX
        kept_ND, labels_N = hidden_SD[targets], labels_S[targets]
        log_probs, likeliest = [torch.empty(0)], [labels_N[:0].cpu()]
        for start in range(0, len(labels_N), chunk_rows):
            rows = slice(start, start + chunk_rows)
            found = torch.log_softmax(logits(kept_ND[rows]).float(), dim=-1)
            log_probs.append(found.gather(-1, labels_N[rows, None])[:, 0].cpu())
            likeliest.append(found.argmax(dim=-1).cpu())
        parts.append(
            Guesses(torch.cat(log_probs).double().numpy(), torch.cat(likeliest).numpy(), labels_N.cpu().numpy())
        )
    return parts


def scores(parts: Sequence[Guesses], *, what: str) -> dict[str, Score]:
    """Loss and accuracy over all targets, beside the accuracy of always guessing the most frequent of them."""
    labels = np.concatenate([part.labels for part in parts])
    hits = sum(int((part.guesses == part.labels).sum()) for part in parts)
    count = len(labels)
    nats = -math.fsum(float(part.log_probs.sum()) for part in parts)
    commonest = int(np.bincount(labels).max()) if count else 0
    return {
        "loss": Score(nats / max(count, 1), f"mean -ln p over {what}", count),
        "accuracy": Score(hits / max(count, 1), f"share of {what} that the likeliest token hits", count),
        "unigram_accuracy": Score(commonest / max(count, 1), f"share of the most frequent of {what}", count),
    }
