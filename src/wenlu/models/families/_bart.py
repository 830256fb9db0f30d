"""What BART, Marian and Whisper share: two stacks of one width, dense feed-forwards, learned positions or sinusoids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wenlu.models.config import (
    ALL_BIASES,
    Bias,
    NormPlacement,
    OuterNorm,
    Position,
    StackConfig,
    TransformerConfig,
)
from wenlu.models.families._bert import ACTIVATIONS
from wenlu.models.families._files import HFConfig
from wenlu.models.families._tables import Key, table
from wenlu.models.families._transformer import TransformerFamily

STACK = """
    model.{s}.layers.{}.self_attn.{q,k,v,out}_proj            -> {s}.layers.{}.self_attention.{q,k,v,o}
    model.{s}.layers.{}.self_attn_layer_norm                  -> {s}.layers.{}.self_attention_norm
    model.{s}.layers.{}.{fc1,fc2}                             -> {s}.layers.{}.ffn.{up,down}
    model.{s}.layers.{}.final_layer_norm                      -> {s}.layers.{}.ffn_norm
    model.{s}.embed_positions                                 -> {s}.embeddings.position
    model.{s}.layernorm_embedding                             -> {s}.embeddings.norm
    model.{s}.layer_norm                                      -> {s}.final_norm
"""
CROSS = """
    model.decoder.layers.{}.encoder_attn.{q,k,v,out}_proj     -> decoder.layers.{}.cross_attention.{q,k,v,o}
    model.decoder.layers.{}.encoder_attn_layer_norm           -> decoder.layers.{}.cross_attention_norm
"""
STACKS = table(STACK.replace("{s}", "encoder") + STACK.replace("{s}", "decoder") + CROSS)
EMBEDDINGS = tuple((f"model.{stack}.embed_tokens.weight", "model.shared.weight") for stack in ("encoder", "decoder"))
SPECTROGRAM_POSITIONS = {"encoder": "max_source_positions", "decoder": "max_target_positions"}


@dataclass(frozen=True, kw_only=True)
class BartKind(TransformerFamily):
    """The little in which they differ."""

    new_heads: int = 3
    new_dropouts: tuple[str, ...] = ("residual_dropout",)
    position: Position = "learned"
    position_offset: int = 0
    norm_placement: NormPlacement = "after"
    outer_norms: frozenset[OuterNorm] = frozenset()
    biases: frozenset[Bias] = ALL_BIASES
    head_bias: bool = True
    spectrograms: bool = False

    def keys_of(self, stack: str) -> tuple[Key, ...]:
        """What a config.json says of the encoder or the decoder."""
        bands = (Key("num_mel_bins", "mel_bins", 80),) if self._reads_spectrograms(stack) else ()
        return (
            Key("d_model", "hidden_size"),
            Key(f"{stack}_layers", "num_layers"),
            Key(f"{stack}_attention_heads", "num_heads"),
            Key(f"{stack}_ffn_dim", "intermediate_size"),
            Key(SPECTROGRAM_POSITIONS[stack] if self.spectrograms else "max_position_embeddings", "max_positions"),
            Key("activation_function", "activation", "gelu", ACTIVATIONS),
            Key("dropout", "residual_dropout embedding_dropout", 0.1),
            Key("attention_dropout", "attention_dropout", 0.0),
            Key("activation_dropout", "ffn_dropout", 0.0),
            *bands,
        )

    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a config.json."""
        hf.require("normalize_before", False)
        hf.require("share_encoder_decoder_embeddings", True)
        scaled = hf.boolean("scale_embedding", False)

        def stack(name: str, **own: Any) -> StackConfig:
            sizes = self.read_stack(hf, name)
            return StackConfig(
                **sizes,
                **own,
                norm_placement=self.norm_placement,
                outer_norms=self.outer_norms,
                position=self.position,
                position_offset=self.position_offset,
                embedding_scale=sizes["hidden_size"] ** 0.5 if scaled and not self._reads_spectrograms(name) else 1.0,
                biases=self.biases,
            )

        return TransformerConfig(
            **self.read_whole(hf),
            head_bias=self.head_bias,
            pooled_position="last",
            classifier_dropout=hf.number("classifier_dropout", 0.0),
            encoder=stack("encoder", attention="bidirectional"),
            decoder=stack("decoder", memory_size=hf.integer("d_model")),
        )

    def own_hf(self, config: TransformerConfig) -> dict[str, object]:
        """What a config.json says of the choices."""
        return {
            "is_encoder_decoder": True,
            "scale_embedding": config.main.embedding_scale != 1.0,
            "classifier_dropout": config.classifier_dropout,
        }

    def _reads_spectrograms(self, stack: str) -> bool:
        return self.spectrograms and stack == "encoder"
