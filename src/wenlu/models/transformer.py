"""The Transformer of all families: embeddings, identical layers, a final norm, a head.

    x ──┬──▶ norm ──▶ self-attention ──▶ (+) ──┬──▶ norm ──▶ feed-forward ──▶ (+) ──▶
        └───────────────────────────────▲──┘   └──────────────────────────────▲──┘

What differs between families is a choice on ``StackConfig``; the branches that the choices make stand in ``forward`` of
Layer, Attention and Stack and nowhere else.

Legend: B batch, S query length, T key length, D hidden size, F feed-forward size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.core.errors import RequestError
from wenlu.models.attention import Attention, Backend, KeyValueCache, LayerCache, RMSNorm, Visibility, place
from wenlu.models.config import Activation, Cache, StackConfig, TransformerConfig
from wenlu.models.heads import LanguageModelCalls, LanguageModelHead
from wenlu.models.positions import rotation
from wenlu.models.statistics import Statistics, transformer_statistics

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """Two matrices with an activation between; gated has a third that multiplies (Shazeer 2020, section 2)."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        bias = "ffn" in config.biases
        self.gate = (
            nn.Linear(config.hidden_size, config.intermediate_size, bias=bias) if config.ffn == "gated" else None
        )
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Transform every position by itself."""
        up_BSF = self.up(x_BSD)
        inner_BSF = self.activation(up_BSF) if self.gate is None else self.activation(self.gate(x_BSD)) * up_BSF
        output: Tensor = self.down(inner_BSF)
        return output


class Layer(nn.Module):
    """Self-attention and feed-forward, each added to what came in."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.self_attention_norm = build_norm(config)
        self.self_attention = Attention(config)
        self.ffn_norm = build_norm(config)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self, x_BSD: Tensor, visible: Visibility, rotation: tuple[Tensor, Tensor] | None, cache: LayerCache | None
    ) -> Tensor:
        """One layer; ``cache`` holds the keys and values of this layer alone."""
        x_BSD = self.residual(
            x_BSD, self.self_attention_norm, lambda h: self.self_attention(h, visible, rotation, cache)
        )
        return self.residual(x_BSD, self.ffn_norm, self.ffn)

    def residual(self, x_BSD: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Where the norm stands: before the sublayer, so that the residual stream itself is never normalised."""
        added: Tensor = self.dropout(sublayer(norm(x_BSD)))
        return x_BSD + added


class Embeddings(nn.Module):
    """Token ids to vectors, with learned positions added where the scheme has them."""

    def __init__(self, config: StackConfig, vocab_size: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_positions, config.hidden_size) if config.position == "learned" else None
        self.dropout = nn.Dropout(config.embedding_dropout)

    def forward(self, input_ids_BS: Tensor, positions_BS: Tensor) -> Tensor:
        """The residual stream's first state."""
        x_BSD: Tensor = self.token(input_ids_BS)
        if self.position is not None:
            x_BSD = x_BSD + self.position(positions_BS)
        embedded: Tensor = self.dropout(x_BSD)
        return embedded


class Stack(nn.Module):
    """One tower: embeddings, identical layers, a final norm."""

    def __init__(self, config: StackConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config, vocab_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.final_norm = build_norm(config)

    def forward(
        self, input_ids_BS: Tensor, positions_BS: Tensor, visible: Visibility, cache: KeyValueCache | None
    ) -> Tensor:
        """Hidden states after the final norm."""
        config = self.config
        x_BSD = self.embeddings(input_ids_BS, positions_BS)
        angles = None
        if config.position == "rotary":
            angles = rotation(
                positions_BS, head_dim=config.head_size, theta=config.rope_theta, scaling=config.rope_scaling
            )
        for number, layer in enumerate(self.layers):
            x_BSD = layer(x_BSD, visible, angles, None if cache is None else cache.layers[number])
        output: Tensor = self.final_norm(x_BSD)
        return output


class Transformer(LanguageModelCalls):
    """A causal language model. Implements ``wenlu.models.config.LanguageModel``."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = Stack(config.decoder, config.vocab_size)
        self.head = LanguageModelHead(config.decoder.hidden_size, config.vocab_size, tied=config.tie_embeddings)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """The longest context that the model was made for."""
        return self.config.decoder.max_positions

    @property
    def attention_backend(self) -> Backend:
        """How attention is computed: ``sdpa`` (fused) or ``eager`` (written out; its weights can be hooked)."""
        return self._attentions()[0].backend

    @attention_backend.setter
    def attention_backend(self, backend: Backend) -> None:
        for attention in self._attentions():
            attention.backend = backend

    def hidden(
        self,
        input_ids_BS: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Hidden states (B, S, D) after the final norm.

        Args:
            mask: bool (B, S), False at padding, which is a document of its own that sees itself.
            positions: int64 (B, S); counted within each document when not given.
            document_ids: int64 (B, S), -1 at padding; a token sees only its own document.
            cache: made by ``new_cache``; the other arguments then describe the new tokens only.

        Raises:
            RequestError: ``models.too_long`` beyond a learned position table, ``models.cache_full`` beyond the cache.
        """
        assert cache is None or isinstance(cache, KeyValueCache), "a Transformer needs the cache that it made"
        placement = place(input_ids_BS, mask=mask, positions=positions, document_ids=document_ids, cache=cache)
        if self.config.decoder.position == "learned":  # asked here: a question of values would break a compiled stack
            length = int(placement.positions.max()) + 1
            if length > self.max_positions:
                raise RequestError("models.too_long", length=length, max_positions=self.max_positions)
        output: Tensor = self.decoder(input_ids_BS, placement.positions, placement.visible, cache)
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D)."""
        output: Tensor = self.head(hidden, self.decoder.embeddings.token.weight)
        return output

    def new_cache(self, batch_size: int, max_length: int) -> KeyValueCache:
        """An empty cache for ``batch_size`` rows of at most ``max_length`` positions."""
        device = self.decoder.embeddings.token.weight.device
        return KeyValueCache(
            num_layers=self.config.decoder.num_layers, batch_size=batch_size, max_length=max_length, device=device
        )

    def statistics(self, *, sequence_length: int) -> Statistics:
        """Parameters, FLOPs and bytes at this sequence length."""
        return transformer_statistics(self.config, sequence_length=sequence_length)

    def _attentions(self) -> list[Attention]:
        return [module for module in self.modules() if isinstance(module, Attention)]


def build_norm(config: StackConfig) -> nn.Module:
    """The norm that the stack chose, over the hidden size."""
    if config.norm == "rms_norm":
        return RMSNorm(config.hidden_size, eps=config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps)


def on_meta(config: TransformerConfig) -> Transformer:
    """The model without memory for its weights: to be filled by initialisation or by loading."""
    with torch.device("meta"):
        return Transformer(config)
