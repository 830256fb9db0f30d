"""What stands on hidden states: the matrix that makes logits, and log-probabilities that never hold all of them.

Legend: B batch, S query length, D hidden size, V vocabulary, N rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.models.config import Cache, LanguageModel

IGNORE_INDEX = -100
CHUNK_ROWS = 128  # small blocks are memory that the allocator has at hand: the system maps larger ones anew each time
CACHED_LOGITS = 2**16  # a few rows, which with their exponentials stay in a processor's own cache


class LanguageModelHead(nn.Module):
    """Hidden states to logits: by a matrix of its own, or, when tied, by the token embedding that it is handed."""

    def __init__(self, hidden_size: int, vocab_size: int, *, tied: bool) -> None:
        super().__init__()
        self.output = None if tied else nn.Linear(hidden_size, vocab_size, bias=False)

    def forward(self, hidden: Tensor, embedding_VD: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D)."""
        return F.linear(hidden, embedding_VD if self.output is None else self.output.weight)


class LanguageModelCalls(nn.Module):
    """What every language model does alike, given its ``hidden`` and ``logits`` (see ``config.LanguageModel``)."""

    def forward(
        self: LanguageModel,
        input_ids_BS: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (B, S, V) of the token after each position."""
        return self.logits(
            self.hidden(input_ids_BS, mask=mask, positions=positions, document_ids=document_ids, cache=cache)
        )

    def target_log_probs(
        self: LanguageModel,
        input_ids_BS: Tensor,
        labels_BS: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Natural-log probability (B, S) of each label in float32, 0 where the label is -100; logits are chunked."""
        hidden_BSD = self.hidden(input_ids_BS, mask=mask, positions=positions, document_ids=document_ids, cache=cache)
        return log_probs_of_targets(hidden_BSD, labels_BS, self.logits)


def log_probs_of_targets(hidden_BSD: Tensor, labels_BS: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Natural-log probability (B, S) of each label in float32, 0 where the label is -100.

    Logits are made for ``CHUNK_ROWS`` targets at a time, and only where there is a target; the softmax is float32.
    """
    wanted_BS = labels_BS != IGNORE_INDEX
    hidden_ND, labels_N = hidden_BSD[wanted_BS], labels_BS[wanted_BS]
    chunks = [
        _of_chunk(logits(hidden_nD).float(), labels_n)  # of the logits no more than these are held
        for hidden_nD, labels_n in zip(
            torch.split(hidden_ND, CHUNK_ROWS), torch.split(labels_N, CHUNK_ROWS), strict=True
        )
    ]
    log_probs_BS = torch.zeros(labels_BS.shape, dtype=torch.float32, device=hidden_BSD.device)
    return log_probs_BS.masked_scatter(wanted_BS, torch.cat(chunks)) if len(labels_N) else log_probs_BS


def _of_chunk(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Log-probabilities (N) of labels, the softmax taken in pieces, as its scratch is as large as the logits."""
    rows = max(1, CACHED_LOGITS // logits_NV.shape[1]) if logits_NV.device.type == "cpu" else CHUNK_ROWS
    pieces = zip(torch.split(logits_NV, rows), torch.split(labels_N, rows), strict=True)
    return torch.cat([-F.cross_entropy(logits_nV, labels_n, reduction="none") for logits_nV, labels_n in pieces])
