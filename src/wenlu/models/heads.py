"""What stands on hidden states: the matrices that make logits, and log-probabilities that never hold all of them.

Legend: B batch, S query length, D hidden size, V vocabulary, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.models.attention import ACTIVATIONS, build_norm, soft_cap
from wenlu.models.config import Activation, Head, LanguageModel, Reading, StackConfig, TransformerConfig

IGNORE_INDEX = -100
CHUNK_ROWS = 128  # small blocks are memory that the allocator has at hand: the system maps larger ones anew each time
CACHED_LOGITS = 2**16  # a few rows, which with their exponentials stay in a processor's own cache


class HeadTransform(nn.Module):
    """A matrix, an activation and a norm between the hidden states and the output matrix (BERT)."""

    def __init__(self, config: StackConfig, activation: Activation) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.token_size)
        self.norm = build_norm(config, config.token_size)
        self.activation = ACTIVATIONS[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) to the size of a token's embedding."""
        output: Tensor = self.norm(self.activation(self.dense(hidden)))
        return output


class Heads(nn.Module):
    """What reads the hidden states: logits of the vocabulary, and judgements of a row, of a token, of a pair.

    The output matrix is one of its own or, when tied, the token embedding that it is handed.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        heads, stack = config.heads, config.main
        D, labels = stack.hidden_size, len(config.labels)
        words = "language_model" in heads
        transform = config.head_transform if words else None
        self.transform = None if transform is None else HeadTransform(stack, transform)
        own = words and not config.tie_embeddings
        self.output = nn.Linear(stack.token_size, config.vocab_size, bias=False) if own else None
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if words and config.head_bias else None
        self.pooler = nn.Linear(D, D) if "pooler" in heads else None
        self.pair = nn.Linear(D, 2) if "pair" in heads else None
        self.classifier = nn.Linear(D, labels, bias=config.classifier_bias) if heads & {"sequence", "token"} else None
        self.span = nn.Linear(D, 2) if "span" in heads else None
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.config = config

    def forward(self, hidden: Tensor, embedding_VE: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D)."""
        c = self.config
        assert "language_model" in c.heads, "this model has no output matrix"
        if c.head_scale != 1.0:
            hidden = hidden * c.head_scale
        if self.transform is not None:
            hidden = self.transform(hidden)
        logits = F.linear(hidden, embedding_VE if self.output is None else self.output.weight, self.bias)
        return logits if c.logit_softcap is None else soft_cap(logits, c.logit_softcap)

    def pooled(self, hidden_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """One vector (B, D) a row: its first or last position that is no padding, through the pooler if any."""
        rows = torch.arange(len(hidden_BSD), device=hidden_BSD.device)
        S, last = hidden_BSD.shape[1], self.config.pooled_position == "last"
        positions_B = torch.full_like(rows, S - 1 if last else 0)
        if mask_BS is not None:
            order_S = torch.arange(S, device=hidden_BSD.device)
            positions_B = (order_S if last else order_S.flip(0)).expand_as(mask_BS).where(mask_BS, -1).argmax(dim=1)
        pooled_BD = hidden_BSD[rows, positions_B]
        if self.pooler is None:
            return pooled_BD
        return ACTIVATIONS[self.config.pooler_activation](self.pooler(pooled_BD))

    def judge(self, head: Head, hidden_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Logits of a head other than the language model's: (B, labels) of a row, (B, S, labels) of each position.

        ``pair`` has two: the texts belong together, or not. ``span`` has two: an answer begins, ends here.
        """
        matrix = {"pair": self.pair, "sequence": self.classifier, "token": self.classifier, "span": self.span}[head]
        assert matrix is not None and head in self.config.heads, f"this model has no head {head}"
        states = self.pooled(hidden_BSD, mask_BS) if head in ("pair", "sequence") else hidden_BSD
        logits: Tensor = matrix(self.dropout(states) if head in ("sequence", "token") else states)
        return logits


class LanguageModelCalls(nn.Module):
    """What every language model does alike, given its ``hidden`` and ``logits`` (see ``config.LanguageModel``)."""

    def forward(self: LanguageModel, input_ids_BS: Tensor, **reading: Unpack[Reading]) -> Tensor:
        """Logits (B, S, V) of the token after each position."""
        return self.logits(self.hidden(input_ids_BS, **reading))

    def target_log_probs(
        self: LanguageModel, input_ids_BS: Tensor, labels_BS: Tensor, **reading: Unpack[Reading]
    ) -> Tensor:
        """Natural-log probability (B, S) of each label in float32, 0 where the label is -100; logits are chunked."""
        return log_probs_of_targets(self.hidden(input_ids_BS, **reading), labels_BS, self.logits)


def log_probs_of_targets(hidden_BSD: Tensor, labels_BS: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Natural-log probability (B, S) of each label in float32, 0 where the label is -100.

    Logits are made for ``CHUNK_ROWS`` targets at a time, and only where there is a target; the softmax is float32.
    """
    wanted_BS = labels_BS != IGNORE_INDEX
    hidden_ND, labels_N = hidden_BSD[wanted_BS], labels_BS[wanted_BS]
    chunks = [  # of the logits no more than one is held
        _of_chunk(logits(hidden_nD).float(), labels_n)
        for hidden_nD, labels_n in in_chunks(CHUNK_ROWS, hidden_ND, labels_N)
    ]
    log_probs_BS = torch.zeros(labels_BS.shape, dtype=torch.float32, device=hidden_BSD.device)
    return log_probs_BS.masked_scatter(wanted_BS, torch.cat(chunks)) if len(labels_N) else log_probs_BS


def _of_chunk(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Log-probabilities (N) of labels; the softmax is taken in pieces, as its result is as large as the logits."""
    rows = max(1, CACHED_LOGITS // logits_NV.shape[1]) if logits_NV.device.type == "cpu" else CHUNK_ROWS
    pieces = in_chunks(rows, logits_NV, labels_N[:, None])
    return torch.cat([logits_nV.log_softmax(dim=1).gather(1, label_n1)[:, 0] for logits_nV, label_n1 in pieces])


def in_chunks(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of equal length, side by side in pieces of so many rows."""
    return zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)
