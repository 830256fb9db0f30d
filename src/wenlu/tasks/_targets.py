"""What objectives that predict tokens share: the loss at their targets alone, and how well the targets are guessed.

The logits of a whole batch over a vocabulary are never held: both take the targets a chunk at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.core.errors import DataError
from wenlu.models.config import LanguageModel
from wenlu.tasks._base import IGNORE_INDEX, Score, Term


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


def cross_entropy(module: nn.Module, hidden_BSD: Tensor, labels_BS: Tensor, *, chunk_rows: int) -> Term:
    """The sum of -ln p over the labels that are not ignored, and their number."""
    labels, hidden_ND = labels_BS.flatten(), hidden_BSD.flatten(0, 1)
    targets = labels != IGNORE_INDEX
    count = int(targets.sum())
    if count < len(labels):
        hidden_ND, labels = hidden_ND[targets], labels[targets]
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    logits = cast(LanguageModel, module).logits
    return Term(chunked_cross_entropy(hidden_ND, labels, logits, rows=chunk_rows, parameters=parameters), count)


def guesses(
    module: nn.Module, hidden_BSD: Tensor, labels_BS: Tensor, *, chunk_rows: int, is_text: Tensor | None = None
) -> list[Guesses]:
    """What a model makes of the targets of each row. Without ``is_text`` every target counts."""
    parts, logits = [], cast(LanguageModel, module).logits
    counted_BS = torch.ones_like(labels_BS) if is_text is None else is_text
    for hidden_SD, labels_S, counted_S in zip(hidden_BSD, labels_BS, counted_BS, strict=True):
        at = labels_S != IGNORE_INDEX
        chunks = zip(torch.split(hidden_SD[at], chunk_rows), torch.split(labels_S[at], chunk_rows), strict=True)
        parts.append(guessed(((logits(hidden_nD), labels_n) for hidden_nD, labels_n in chunks), counted_S[at]))
    return parts


def guessed(chunks: Iterable[tuple[Tensor, Tensor]], is_text_N: Tensor) -> Guesses:
    """The same of chunks of logits (n, C) and labels (n)."""
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for logits_nC, labels_n in chunks:
        log_probs_nC = torch.log_softmax(logits_nC.float(), dim=-1)
        found_n = log_probs_nC.gather(-1, labels_n[:, None])[:, 0]
        columns.append((found_n.cpu().double(), log_probs_nC.argmax(dim=-1).cpu(), labels_n.cpu()))
    log_probs, likeliest, labels = (torch.cat(column).numpy() for column in zip(*columns, strict=True))
    return Guesses(log_probs, likeliest, labels, is_text_N.bool().cpu().numpy())


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


Logits = Callable[[Tensor], Tensor]

_BLOCK_ELEMENTS = 1 << 19  # 2 MiB in float32: on a processor a block's passes stay in the second-level cache


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Takes each chunk to its gradients while its logits exist, in the forward pass; backward only scales them.

    So the head's product with the vocabulary is computed once, not again in the backward pass, at the price of keeping
    one gradient of the head's parameters. The softmax and its gradient overwrite the logits.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, labels_N: Tensor, logits: Logits, rows: int, *parameters: Tensor
    ) -> Tensor:
        total = hidden_ND.new_zeros((), dtype=torch.promote_types(hidden_ND.dtype, torch.float32))
        hidden_gradient = torch.empty_like(hidden_ND)
        sums: list[Tensor | None] = [None] * len(parameters)
        for start in range(0, len(labels_N), rows):
            chunk = hidden_ND[start : start + rows].detach().requires_grad_()
            with torch.enable_grad():
                logits_NV = logits(chunk)
            loss, gradient_NV = _loss_and_gradient(logits_NV.detach(), labels_N[start : start + rows])
            gradients = torch.autograd.grad(logits_NV, [chunk, *parameters], gradient_NV, allow_unused=True)
            total += loss
            hidden_gradient[start : start + rows] = gradients[0]
            for number, gradient in enumerate(gradients[1:]):
                if gradient is not None:
                    held = sums[number]
                    sums[number] = gradient if held is None else held.add_(gradient)
        ctx.gradients = (hidden_gradient, sums)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, sums = ctx.gradients
        del ctx.gradients
        scaled = [None if held is None else held.mul_(upstream[0]) for held in sums]
        return (hidden_gradient.mul_(upstream[0].to(hidden_gradient.dtype)), None, None, None, *scaled)


def _loss_and_gradient(logits_NV: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of -log softmax at the labels, and its gradient, softmax - 1 at the label, in the logits' own memory.

    Computed in float32 or wider. Overwriting is safe for a head that ends in a product, which keeps its factors for the
    backward pass and not its result; for any other, autograd notices and raises.
    """
    x_NV = _at_least_float32(logits_NV)
    rows = max(1, _BLOCK_ELEMENTS // x_NV.shape[-1] if x_NV.device.type == "cpu" else len(x_NV))
    blocks = zip(torch.split(x_NV, rows), torch.split(labels_N[:, None], rows), strict=True)
    loss = torch.stack([_to_gradient(x_RV, column_R1) for x_RV, column_R1 in blocks]).sum()
    return loss, x_NV if x_NV is logits_NV else logits_NV.copy_(x_NV)


def _to_gradient(x_RV: Tensor, column_R1: Tensor) -> Tensor:
    """Overwrite a block of logits by its gradient; the block's loss."""
    x_RV.sub_(x_RV.amax(dim=-1, keepdim=True))
    at_label_R1 = x_RV.gather(-1, column_R1)
    sums_R1 = x_RV.exp_().sum(dim=-1, keepdim=True)
    x_RV.div_(sums_R1)
    x_RV.scatter_add_(-1, column_R1, x_RV.new_full((), -1.0).expand(column_R1.shape))
    return (sums_R1.log() - at_label_R1).sum()


def chunked_cross_entropy(
    hidden_ND: Tensor, labels_N: Tensor, logits: Logits, *, rows: int, parameters: Sequence[Tensor]
) -> Tensor:
    """Sum over N positions of -log softmax(logits(hidden))[label], in float32 or wider; natural logarithm.

    Args:
        hidden_ND: hidden states, only of positions with a target.
        labels_N: their labels, all valid.
        logits: the head; called with at most ``rows`` hidden states at a time.
        rows: positions a chunk.
        parameters: every parameter that ``logits`` may use; one gradient of each that it does use is held.
    """
    if not torch.is_grad_enabled():
        total = hidden_ND.new_zeros((), dtype=torch.promote_types(hidden_ND.dtype, torch.float32))
        for start in range(0, len(labels_N), rows):
            chunk = _at_least_float32(logits(hidden_ND[start : start + rows]))
            total += F.cross_entropy(chunk, labels_N[start : start + rows], reduction="sum")
        return total
    apply = cast(Callable[..., Tensor], _ChunkedCrossEntropy.apply)
    return apply(hidden_ND, labels_N, logits, rows, *parameters)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
