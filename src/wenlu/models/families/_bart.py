"""What BART, Marian and Whisper share: two stacks of one width, dense feed-forwards, learned positions or sinusoids."""

from __future__ import annotations

from dataclasses import dataclass

from wenlu.models.config import (
    ALL_BIASES,
    AttentionKind,
    Bias,
    ModelSettings,
    NormPlacement,
    OuterNorm,
    Position,
    StackConfig,
    TransformerConfig,
    given,
)
from wenlu.models.families._bert import ACTIVATIONS
from wenlu.models.families._files import HFConfig, written_choice
from wenlu.models.families._transformer import TransformerFamily, read_ids, table

STACK = """
    model.{s}.layers.{}.self_attn.q_proj             -> {s}.layers.{}.self_attention.q
    model.{s}.layers.{}.self_attn.k_proj             -> {s}.layers.{}.self_attention.k
    model.{s}.layers.{}.self_attn.v_proj             -> {s}.layers.{}.self_attention.v
    model.{s}.layers.{}.self_attn.out_proj           -> {s}.layers.{}.self_attention.o
    model.{s}.layers.{}.self_attn_layer_norm         -> {s}.layers.{}.self_attention_norm
    model.{s}.layers.{}.fc1                          -> {s}.layers.{}.ffn.up
    model.{s}.layers.{}.fc2                          -> {s}.layers.{}.ffn.down
    model.{s}.layers.{}.final_layer_norm             -> {s}.layers.{}.ffn_norm
    model.{s}.embed_positions                        -> {s}.embeddings.position
    model.{s}.layernorm_embedding                    -> {s}.embeddings.norm
    model.{s}.layer_norm                             -> {s}.final_norm
"""
CROSS = """
    model.decoder.layers.{}.encoder_attn.q_proj      -> decoder.layers.{}.cross_attention.q
    model.decoder.layers.{}.encoder_attn.k_proj      -> decoder.layers.{}.cross_attention.k
    model.decoder.layers.{}.encoder_attn.v_proj      -> decoder.layers.{}.cross_attention.v
    model.decoder.layers.{}.encoder_attn.out_proj    -> decoder.layers.{}.cross_attention.o
    model.decoder.layers.{}.encoder_attn_layer_norm  -> decoder.layers.{}.cross_attention_norm
"""
STACKS = table(STACK.replace("{s}", "encoder") + STACK.replace("{s}", "decoder") + CROSS)
EMBEDDINGS = tuple((f"model.{stack}.embed_tokens.weight", "model.shared.weight") for stack in ("encoder", "decoder"))


@dataclass(frozen=True, kw_only=True)
class BartKind(TransformerFamily):
    """The little in which they differ."""

    position: Position = "learned"
    position_offset: int = 0
    norm_placement: NormPlacement = "after"
    outer_norms: frozenset[OuterNorm] = frozenset()
    biases: frozenset[Bias] = ALL_BIASES
    scaled: bool = False  # embeddings of a new model
    head_bias: bool = True
    spectrograms: bool = False
    new_activation: str = "gelu"  # of a new model

    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a config.json."""
        hf.require("normalize_before", False)
        hf.require("share_encoder_decoder_embeddings", True)
        width, dropout = hf.integer("d_model"), hf.number("dropout", 0.1)
        scaled = hf.boolean("scale_embedding", False)

        def stack(name: str, attention: AttentionKind, positions: int, memory_size: int | None = None) -> StackConfig:
            spectrogram = self.spectrograms and name == "encoder"
            return StackConfig(
                hidden_size=width,
                num_layers=hf.integer(f"{name}_layers"),
                num_heads=hf.integer(f"{name}_attention_heads"),
                intermediate_size=hf.integer(f"{name}_ffn_dim"),
                max_positions=positions,
                attention=attention,
                memory_size=memory_size,
                norm_placement=self.norm_placement,
                outer_norms=self.outer_norms,
                position=self.position,
                position_offset=self.position_offset,
                embedding_scale=width**0.5 if scaled and not spectrogram else 1.0,
                mel_bins=hf.integer("num_mel_bins", 80) if spectrogram else None,
                activation=hf.choice("activation_function", ACTIVATIONS, "gelu"),
                biases=self.biases,
                embedding_dropout=dropout,
                attention_dropout=hf.number("attention_dropout", 0.0),
                ffn_dropout=hf.number("activation_dropout", 0.0),
                residual_dropout=dropout,
            )

        source, target = ("max_source_positions", "max_target_positions") if self.spectrograms else (_POSITIONS,) * 2
        return TransformerConfig(
            vocab_size=hf.integer("vocab_size"),
            tie_embeddings=hf.boolean("tie_word_embeddings", True),
            head_bias=self.head_bias,
            pooled_position="last",
            classifier_dropout=hf.number("classifier_dropout", 0.0),
            **read_ids(hf),
            encoder=stack("encoder", "bidirectional", hf.integer(source)),
            decoder=stack("decoder", "causal", hf.integer(target), width),
        )

    def own_hf(self, config: TransformerConfig) -> dict[str, object]:
        """What a config.json says of the choices."""
        main = config.main
        hf: dict[str, object] = {
            "is_encoder_decoder": True,
            "d_model": main.hidden_size,
            "scale_embedding": main.embedding_scale != 1.0,
            "activation_function": written_choice(ACTIVATIONS, main.activation),
            "dropout": main.residual_dropout,
            "attention_dropout": main.attention_dropout,
            "activation_dropout": main.ffn_dropout,
            "classifier_dropout": config.classifier_dropout,
        }
        for name, stack in zip(("encoder", "decoder"), config.stacks, strict=False):
            hf[f"{name}_layers"] = stack.num_layers
            hf[f"{name}_attention_heads"] = stack.num_heads
            hf[f"{name}_ffn_dim"] = stack.intermediate_size
        if not self.spectrograms:
            return hf | {_POSITIONS: main.max_positions}
        encoder = config.stacks[0]
        places = {"max_source_positions": encoder.max_positions, "max_target_positions": main.max_positions}
        return hf | places | {"num_mel_bins": encoder.mel_bins}

    def new_hf(self, settings: ModelSettings, vocab_size: int, sequence_length: int) -> dict[str, object]:
        """By default four layers of 192 in each stack."""
        width, positions = given(settings.hidden_size, 192), given(settings.max_positions, sequence_length)
        hf: dict[str, object] = {
            "vocab_size": vocab_size,
            "tie_word_embeddings": given(settings.tie_embeddings, True),
            "d_model": width,
            "activation_function": self.new_activation,
            "scale_embedding": self.scaled,
            "dropout": given(settings.dropout, 0.0),
            **dict.fromkeys((_POSITIONS, "max_source_positions", "max_target_positions"), positions),
        }
        for name in ("encoder", "decoder"):
            hf[f"{name}_layers"] = given(settings.num_layers, 4)
            hf[f"{name}_attention_heads"] = given(settings.num_heads, 3)
            hf[f"{name}_ffn_dim"] = given(settings.intermediate_size, 4 * width)
        return hf


_POSITIONS = "max_position_embeddings"
