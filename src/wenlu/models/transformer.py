"""The Transformer of all families: embeddings, identical layers, norms, in one stack or two, and the heads.

    before: x ──┬──▶ norm ──▶ attention ──▶ (+) ──┬──▶ norm ──▶ feed-forward ──▶ (+) ──▶
                └──────────────────────────▲──┘   └────────────────────────────▲──┘
    after:  x ──┬──▶ attention ──▶ (+) ──▶ norm ──┬──▶ feed-forward ──▶ (+) ──▶ norm ──▶
                └─────────────────▲───┘           └───────────────────▲───┘

What differs between families is a choice on ``StackConfig``; the branches that the choices make stand in ``forward`` of
Embeddings, Layer, Attention and Stack and nowhere else.

Legend: B batch, S query length, T key length, D hidden size, E size of a token's embedding, F feed-forward size,
V vocabulary, M mel bins.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.core.errors import RequestError
from wenlu.models.attention import (
    ACTIVATIONS,
    Attention,
    Backend,
    KeyValueCache,
    LayerCache,
    Placement,
    Visibility,
    build_norm,
    masked_documents,
    place,
    see_memory,
)
from wenlu.models.config import Reading, StackConfig, TransformerConfig
from wenlu.models.heads import Heads, log_probs_of_targets
from wenlu.models.meta import meta_device
from wenlu.models.positions import relative_buckets, rotation, sinusoids
from wenlu.models.statistics import Statistics, transformer_statistics


class FeedForward(nn.Module):
    """Two matrices with an activation between; gated has a third that multiplies (Shazeer 2020, section 2)."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        bias = "ffn" in config.biases
        gated = config.ffn == "gated"
        self.gate = nn.Linear(config.hidden_size, config.intermediate_size, bias=bias) if gated else None
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=bias)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=bias)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.ffn_dropout)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Transform every position by itself."""
        up_BSF = self.up(x_BSD)
        inner_BSF = self.activation(up_BSF) if self.gate is None else self.activation(self.gate(x_BSD)) * up_BSF
        output: Tensor = self.down(self.dropout(inner_BSF))
        return output


class Layer(nn.Module):
    """Self-attention, attention to an encoder's memory if there is one, feed-forward, each added to its input."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        around = config.norm_placement == "around"
        self.self_attention_norm = build_norm(config)
        self.self_attention = Attention(config)
        self.self_attention_end_norm = build_norm(config) if around else None
        crossing = config.memory_size is not None
        self.cross_attention_norm = build_norm(config) if crossing else None
        self.cross_attention = Attention(config, memory_size=config.memory_size) if crossing else None
        self.ffn_norm = build_norm(config)
        self.ffn = FeedForward(config)
        self.ffn_end_norm = build_norm(config) if around else None
        self.dropout = nn.Dropout(config.residual_dropout)
        self.norm_placement = config.norm_placement

    def forward(
        self,
        x_BSD: Tensor,
        visible: Visibility,
        rotation: tuple[Tensor, Tensor] | None,
        cache: LayerCache | None,
        kept: LayerCache | None,
        memory: tuple[Visibility, Tensor] | None,
    ) -> Tensor:
        """One layer; ``cache`` holds the keys and values of this layer alone, ``kept`` those of an encoder's memory.

        ``memory`` is what is seen of the encoder's states, and these.
        """
        attend = functools.partial(self.self_attention, visible=visible, rotation=rotation, cache=cache)
        x_BSD = self.residual(x_BSD, self.self_attention_norm, attend, self.self_attention_end_norm)
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            assert memory is not None, "a decoder with cross-attention needs a memory"
            attend = functools.partial(self.cross_attention, visible=memory[0], cache=kept, memory_BTD=memory[1])
            x_BSD = self.residual(x_BSD, self.cross_attention_norm, attend)
        return self.residual(x_BSD, self.ffn_norm, self.ffn, self.ffn_end_norm)

    def residual(
        self, x_BSD: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor], end_norm: nn.Module | None = None
    ) -> Tensor:
        """Where the norm stands: before the sublayer, at both its ends, or after the addition."""
        after = self.norm_placement == "after"
        added = sublayer(x_BSD if after else norm(x_BSD))
        x_BSD = x_BSD + self.dropout(added if end_norm is None else end_norm(added))
        output_BSD: Tensor = norm(x_BSD) if after else x_BSD
        return output_BSD


class SpectrogramReader(nn.Module):
    """Two convolutions over time, the second halves it (Radford et al. 2022, section 2.2)."""

    def __init__(self, mel_bins: int, hidden_size: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(mel_bins, hidden_size, kernel_size=3, padding=1)
        self.second = nn.Conv1d(hidden_size, hidden_size, kernel_size=3, stride=2, padding=1)

    def forward(self, features_BMS: Tensor) -> Tensor:
        """States (B, S / 2, D) of log-mel frames (B, M, S)."""
        states_BDS: Tensor = F.gelu(self.second(F.gelu(self.first(features_BMS))))
        return states_BDS.transpose(1, 2)


class Embeddings(nn.Module):
    """Inputs to vectors: tokens or spectrograms, with positions and segments added where the stack has them.

    ``vocab_size`` None: the tokens' embedding is that of another stack.
    """

    def __init__(self, config: StackConfig, vocab_size: int | None) -> None:
        super().__init__()
        size, places = config.token_size, config.max_positions + config.position_offset
        spectrograms = config.mel_bins is not None
        self.token = nn.Embedding(vocab_size, size) if vocab_size is not None and not spectrograms else None
        self.spectrogram = None if config.mel_bins is None else SpectrogramReader(config.mel_bins, size)
        self.position = nn.Embedding(places, size) if config.position == "learned" else None
        self.segment = nn.Embedding(config.num_segments, size) if config.num_segments else None
        self.norm = build_norm(config, size) if "embedding" in config.outer_norms else None
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.projection = nn.Linear(size, config.hidden_size) if config.embedding_size is not None else None
        self.config = config

    def forward(self, x_BSE: Tensor, positions_BS: Tensor, segments_BS: Tensor | None) -> Tensor:
        """The residual stream's first state, from the tokens' vectors."""
        config = self.config
        if config.embedding_scale != 1.0:
            x_BSE = x_BSE * torch.tensor(config.embedding_scale, dtype=x_BSE.dtype, device=x_BSE.device)
        if self.position is not None:
            x_BSE = x_BSE + self.position(positions_BS + config.position_offset)
        elif config.position == "sinusoidal":
            x_BSE = x_BSE + sinusoids(positions_BS + config.position_offset, config.token_size).to(x_BSE.dtype)
        if self.segment is not None:
            x_BSE = x_BSE + self.segment(torch.zeros_like(positions_BS) if segments_BS is None else segments_BS)
        if self.norm is not None:
            x_BSE = self.norm(x_BSE)
        x_BSE = self.dropout(x_BSE)
        return x_BSE if self.projection is None else self.projection(x_BSE)


class Stack(nn.Module):
    """One tower: embeddings, identical layers, a final norm where it has one."""

    def __init__(self, config: StackConfig, vocab_size: int | None) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config, vocab_size)
        relative = config.position == "relative"
        self.relative = nn.Embedding(config.relative_buckets, config.num_heads) if relative else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.distinct_layers))
        self.final_norm = build_norm(config) if "final" in config.outer_norms else None
        self.dropout = nn.Dropout(config.final_dropout)

    def forward(
        self,
        inputs: Tensor,
        positions_BS: Tensor,
        visible: Visibility,
        *,
        tokens_VE: Tensor | None = None,
        segments_BS: Tensor | None = None,
        cache: KeyValueCache | None = None,
        memory: tuple[Visibility, Tensor] | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, of token ids (B, S) or of a spectrogram's states (B, S, E).

        ``tokens_VE`` is another stack's table, for one without. Tokens are looked up here, as all that is compiled.
        """
        config = self.config
        S = inputs.shape[1]
        if inputs.is_floating_point():
            x_BSE = inputs
        elif self.embeddings.token is not None:
            x_BSE = self.embeddings.token(inputs)
        else:
            assert tokens_VE is not None, "a stack without a table of tokens needs another's"
            x_BSE = F.embedding(inputs, tokens_VE)
        T = S if cache is None else cache.length
        x_BSD = self.embeddings(x_BSE, positions_BS, segments_BS)
        if self.relative is not None:
            buckets_ST = relative_buckets(S, T, config, x_BSD.device)
            visible = visible.with_bias(self.relative(buckets_ST).permute(2, 0, 1))
        windows = {config.window_of(number) for number in range(config.num_layers)}
        near = {window: visible.within(window, S, T, x_BSD.device) for window in windows}
        angles = {window: rotation(positions_BS, config, window) for window in windows}
        for number in range(config.num_layers):
            layer, window = self.layers[number * config.distinct_layers // config.num_layers], config.window_of(number)
            own = None if cache is None else cache.layers[number]
            kept = None if cache is None or memory is None else cache.memories[number]
            x_BSD = layer(x_BSD, near[window], angles[window], own, kept, memory)
        if self.final_norm is not None:
            x_BSD = self.final_norm(x_BSD)
        output: Tensor = self.dropout(x_BSD)
        return output


class Context(Reading, total=False):
    """What a call may say of its inputs; see ``Transformer.hidden``."""

    segments: Tensor | None
    memory: Tensor | None
    memory_mask: Tensor | None
    memory_document_ids: Tensor | None


class Transformer(nn.Module):
    """A model of any family. One with a decoder implements ``wenlu.models.config.LanguageModel``.

    The calls ``forward``, ``hidden`` and ``target_log_probs`` are those of the decoder, or of a lone encoder.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.kind: str | None = None  # of several families that can express the model, the one it comes from
        self.vocab_size, self.max_positions = config.vocab_size, config.main.max_positions
        self.encoder = None if config.encoder is None else Stack(config.encoder, self.vocab_size)
        shared = self.encoder is not None and self.encoder.embeddings.token is not None
        self.decoder = None if config.decoder is None else Stack(config.decoder, None if shared else self.vocab_size)
        self.head = Heads(config)

    @property
    def main(self) -> Stack:
        """The stack whose states the heads read: the decoder, or a lone encoder."""
        stack = self.decoder or self.encoder
        assert stack is not None
        return stack

    @property
    def token_embedding(self) -> nn.Embedding:
        """The vectors of the tokens, which two stacks share."""
        tables = (stack.embeddings.token for stack in (self.encoder, self.decoder) if stack is not None)
        return next(table for table in tables if table is not None)

    @property
    def attention_backend(self) -> Backend:
        """How attention is computed: ``sdpa`` (fused) or ``eager`` (written out; its weights can be hooked)."""
        return self._attentions()[0].backend

    @attention_backend.setter
    def attention_backend(self, backend: Backend) -> None:
        for attention in self._attentions():
            attention.backend = backend

    def forward(self, input_ids_BS: Tensor, **context: Unpack[Context]) -> Tensor:
        """Logits (B, S, V): a decoder's of the token after each position, a lone encoder's of the token there."""
        return self.logits(self.hidden(input_ids_BS, **context))

    def target_log_probs(self, input_ids_BS: Tensor, labels_BS: Tensor, **context: Unpack[Context]) -> Tensor:
        """Natural-log probability (B, S) of each label in float32, 0 where the label is -100; logits are chunked."""
        return log_probs_of_targets(self.hidden(input_ids_BS, **context), labels_BS, self.logits)

    def hidden(
        self,
        input_ids_BS: Tensor,
        *,
        segments: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        memory_document_ids: Tensor | None = None,
        **reading: Unpack[Reading],
    ) -> Tensor:
        """Hidden states (B, S, D) after the final norm.

        Args:
            mask: bool (B, S), False at padding, which is a document of its own that sees itself.
            positions: int64 (B, S); counted within each document when not given.
            segments: int64 (B, S), of an encoder that has them: 0 the first text of a pair, 1 the second.
            document_ids: int64 (B, S), -1 at padding; a token sees only its own document.
            memory: (B, T, D) of ``encode``, for a decoder that attends to it; with a cache, read at its first call.
            memory_mask: bool (B, T), False at padding.
            memory_document_ids: int64 (B, T), -1 at padding; with them, ``document_ids`` say who sees what.
            cache: made by ``new_cache``; the other arguments then describe the new tokens only.

        Raises:
            RequestError: ``models.too_long`` beyond a learned position table, ``models.cache_full`` beyond the cache.
        """
        cache = reading.get("cache")
        if self.decoder is None:
            assert cache is None and memory is None, "an encoder has neither a cache nor a memory"
            return self.encode(input_ids_BS, segments=segments, **reading)
        assert cache is None or isinstance(cache, KeyValueCache), "a Transformer needs the cache that it made"
        positions_BS, visible, documents = _place(input_ids_BS, self.decoder.config, reading)
        seen = None
        if memory is not None:
            memory_documents = masked_documents(memory_mask, memory_document_ids)
            if cache is not None:
                memory_documents = cache.keep_memory(memory_documents, memory.shape[1])
            documents = None if memory_document_ids is None else documents  # unsaid, the last document goes on
            seen = see_memory(memory_documents, documents), memory
        output: Tensor = self.decoder(
            input_ids_BS, positions_BS, visible,
            tokens_VE=self.token_embedding.weight if self.decoder.embeddings.token is None else None,
            segments_BS=segments, cache=cache, memory=seen,
        )  # fmt: skip
        return output

    def encode(self, inputs: Tensor, *, segments: Tensor | None = None, **reading: Unpack[Reading]) -> Tensor:
        """The encoder's hidden states (B, T, D) of token ids (B, T), or of a spectrogram (B, M, 2 T).

        Raises:
            RequestError: ``models.too_long`` beyond a learned position table.
        """
        assert self.encoder is not None, "this model has no encoder"
        reader = self.encoder.embeddings.spectrogram
        inputs = inputs if reader is None else reader(inputs)
        positions_BS, visible, _ = _place(inputs if reader is None else inputs[:, :, 0], self.encoder.config, reading)
        output: Tensor = self.encoder(inputs, positions_BS, visible, segments_BS=segments)
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D)."""
        output: Tensor = self.head(hidden, self.token_embedding.weight)
        return output

    def new_cache(self, batch_size: int, max_length: int) -> KeyValueCache:
        """An empty cache for ``batch_size`` rows of at most ``max_length`` positions."""
        assert self.decoder is not None, "only a decoder goes on from what it has read"
        device = self.token_embedding.weight.device
        num_layers = self.decoder.config.num_layers
        return KeyValueCache(num_layers=num_layers, batch_size=batch_size, max_length=max_length, device=device)

    def statistics(self, *, sequence_length: int) -> Statistics:
        """Parameters, FLOPs and bytes at this sequence length."""
        return transformer_statistics(self, sequence_length=sequence_length)

    def _attentions(self) -> list[Attention]:
        return [module for module in self.modules() if isinstance(module, Attention)]


def _place(inputs_BS: Tensor, stack: StackConfig, reading: Reading) -> Placement:
    """Where inputs stand and what they see: asked outside the stack, as questions of values break a compiled one."""
    placed = place(inputs_BS, attention=stack.attention, **reading)
    if stack.position == "learned" and (length := int(placed.positions.max()) + 1) > stack.max_positions:
        raise RequestError("models.too_long", length=length, max_positions=stack.max_positions)
    return placed


def on_meta(config: TransformerConfig) -> Transformer:
    """The model without memory for its weights: to be filled by initialisation or by loading."""
    with meta_device():
        return Transformer(config)
