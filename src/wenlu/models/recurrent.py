"""The LSTM language model: embedding, LSTM layers, output layer; the yardstick for attention.

S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", 1997; as a language model M. Sundermeyer et al., "LSTM
Neural Networks for Language Modeling", 2012. The state is carried from window to window in the cache (truncated
back-propagation) and forgotten where a document begins, also inside a window.

B batch, S length, H hidden, L layers, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.core.reproducibility import derive_seed
from wenlu.models.config import Reading, check_dropout, check_size
from wenlu.models.heads import LanguageModelCalls
from wenlu.models.positions import document_starts
from wenlu.models.statistics import Statistics

_STATE = ("hidden", "cell")


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """Sizes of an LSTM language model."""

    vocab_size: int
    end_token_id: int
    embedding_size: int = 50
    hidden_size: int = 256
    num_layers: int = 2
    tie_embeddings: bool = True  # the output layer projects to the embedding size and shares the embedding
    dropout: float = 0.0  # on the embedding, between layers and before the output layer

    def __post_init__(self) -> None:
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_layers"):
            check_size(name, getattr(self, name))
        check_dropout("dropout", self.dropout)


class LSTMCache:
    """The state after the last slot read. Implements ``Cache``, and ``wenlu.tasks._base.Carried`` for training."""

    def __init__(self, state_LBH: Sequence[Tensor]) -> None:
        self.state_LBH = list(state_LBH)  # the hidden states and the cells
        self.length = 0

    def reorder(self, index_N: Tensor) -> None:
        """Let row i continue what was row ``index_N[i]``; the number of rows may change."""
        self.state_LBH = [part[:, index_N] for part in self.state_LBH]

    def truncate(self, length: int) -> None:
        """Forget all slots from ``length`` on: nothing to do, or everything; a state has no way back to between."""
        if length not in (0, self.length):
            raise ValueError("an LSTM state goes back to its beginning only")
        if length == 0:
            self.state_LBH = [torch.zeros_like(part) for part in self.state_LBH]
        self.length = length

    def detach_(self) -> None:
        """Cut the gradient path to the windows before."""
        self.state_LBH = [part.detach() for part in self.state_LBH]

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, for a checkpoint."""
        return {**dict(zip(_STATE, self.state_LBH, strict=True)), "length": torch.tensor(self.length)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``tensors`` gave."""
        self.state_LBH, self.length = [tensors[name].clone() for name in _STATE], int(tensors["length"])


class RecurrentModel(LanguageModelCalls):
    """An LSTM language model. Implements ``wenlu.models.config.LanguageModel``."""

    max_positions: int | None = None

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        between = config.dropout if config.num_layers > 1 else 0.0
        self.lstm = nn.LSTM(
            config.embedding_size, config.hidden_size, config.num_layers, batch_first=True, dropout=between
        )
        self.dropout = nn.Dropout(config.dropout)
        self.projection: nn.Linear | None = None
        if config.tie_embeddings:
            self.projection = nn.Linear(config.hidden_size, config.embedding_size)
            self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        else:
            self.head = nn.Linear(config.hidden_size, config.vocab_size)

    @torch.no_grad()
    def initialize(self, *, seed: int) -> None:
        """Draw every parameter by a generator seeded with (seed, its name).

        Embeddings normal (0, 1), or (0, 1 / sqrt(size)) when tied, so that logits begin small; input matrices uniform
        with unit gain, recurrent ones orthogonal a gate; biases 0, but 1 for the forget gate (R. Jozefowicz et al.,
        "An Empirical Exploration of Recurrent Network Architectures", 2015); the untied output layer 0.
        """
        hidden = self.config.hidden_size
        for name, parameter in self.named_parameters():
            generator = torch.Generator(parameter.device)
            generator.manual_seed(derive_seed(seed, f"initialization {name}"))
            if name == "embedding.weight":
                spread = self.config.embedding_size**-0.5 if self.config.tie_embeddings else 1.0
                parameter.normal_(0, spread, generator=generator)
            elif name.startswith("lstm.weight_hh"):
                for gate in torch.split(parameter, hidden):
                    nn.init.orthogonal_(gate, generator=generator)
            elif parameter.dim() == 2 and not name.startswith("head"):
                bound = math.sqrt(3 / parameter.shape[1])
                parameter.uniform_(-bound, bound, generator=generator)
            else:
                parameter.zero_()
            if name.startswith("lstm.bias_ih"):
                parameter[hidden : 2 * hidden] = 1.0

    def hidden(self, input_ids_BS: Tensor, **reading: Unpack[Reading]) -> Tensor:
        """Output of the last layer (B, S, H). The LSTM itself is always computed in the weights' own precision.

        ``positions`` say only where documents begin: at 0. With a cache a first position above 0 continues its state.
        """
        cache, starts_BS = reading.get("cache"), document_starts(input_ids_BS, **reading)
        assert cache is None or isinstance(cache, LSTMCache), "an LSTM needs the cache that it made"
        with torch.autocast(input_ids_BS.device.type, enabled=False):
            x_BSE = self.dropout(self.embedding(input_ids_BS))
            state = (self.new_cache(len(input_ids_BS), 0) if cache is None else cache).state_LBH
            parts = []
            # Where any row begins a document the window is cut: the LSTM runs from cut to cut in one call each.
            cuts = [0, *(starts_BS[:, 1:].any(dim=0).nonzero().squeeze(1) + 1).tolist(), input_ids_BS.shape[1]]
            for begin, end in itertools.pairwise(cuts):
                keep_B1 = ~starts_BS[:, begin, None]
                state = [torch.where(keep_B1, part, 0.0) for part in state]
                part_BSH, state = self.lstm(x_BSE[:, begin:end], state)
                parts.append(part_BSH)
            if cache is not None:
                cache.state_LBH = state
                cache.length += input_ids_BS.shape[1]
            hidden_BSH: Tensor = self.dropout(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        return hidden_BSH

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., H)."""
        if self.projection is None:
            return F.linear(hidden, self.head.weight, self.head.bias)
        return F.linear(self.projection(hidden), self.embedding.weight, self.bias)

    def new_cache(self, batch_size: int, max_length: int) -> LSTMCache:
        """The state before the first token for ``batch_size`` rows; its size does not depend on ``max_length``."""
        shape = (self.config.num_layers, batch_size, self.config.hidden_size)
        return LSTMCache([self.embedding.weight.new_zeros(shape) for _ in _STATE])

    def statistics(self, *, sequence_length: int) -> Statistics:
        """Parameters, FLOPs and bytes a token; the state, which does not grow, is spread over the sequence."""
        c, embedding = self.config, self.embedding.weight.numel()
        total = sum(parameter.numel() for parameter in self.parameters())
        matrices = sum(parameter.numel() for parameter in self.parameters() if parameter.dim() == 2)
        forward = 2.0 * (matrices if c.tie_embeddings else matrices - embedding)
        return Statistics(
            parameters=total,
            embedding_parameters=embedding,
            non_embedding_parameters=total - embedding,
            forward_flops_per_token=forward,
            backward_flops_per_token=2 * forward,
            activation_bytes_per_token=4 * 17 * c.hidden_size * c.num_layers,  # what autograd keeps, counted
            cache_bytes_per_token=math.ceil(2 * 4 * c.num_layers * c.hidden_size / sequence_length),
        )
