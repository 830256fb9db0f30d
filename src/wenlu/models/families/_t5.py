"""What T5, T5 v1.1 and mT5 share: two stacks with relative positions, RMSNorm, no biases and unscaled scores."""

from __future__ import annotations

from dataclasses import dataclass

from wenlu.models.config import (
    Activation,
    AttentionKind,
    FeedForwardKind,
    ModelSettings,
    StackConfig,
    TransformerConfig,
    given,
)
from wenlu.models.families._files import HFConfig, written_choice
from wenlu.models.families._transformer import COMMON, Entry, TransformerFamily, read_ids, table

PROJECTIONS: dict[str, tuple[FeedForwardKind, Activation]] = {
    "relu": ("dense", "relu"),
    "gated-gelu": ("gated", "gelu_tanh"),
    "gated-silu": ("gated", "silu"),
}
OWN = """
    {s}.block.{}.layer.0.SelfAttention.q                      -> {s}.layers.{}.self_attention.q
    {s}.block.{}.layer.0.SelfAttention.k                      -> {s}.layers.{}.self_attention.k
    {s}.block.{}.layer.0.SelfAttention.v                      -> {s}.layers.{}.self_attention.v
    {s}.block.{}.layer.0.SelfAttention.o                      -> {s}.layers.{}.self_attention.o
    {s}.block.{}.layer.0.layer_norm                           -> {s}.layers.{}.self_attention_norm
    {s}.block.0.layer.0.SelfAttention.relative_attention_bias -> {s}.relative
    {s}.block.{}.layer.{f}.DenseReluDense.wo                  -> {s}.layers.{}.ffn.down
    {s}.block.{}.layer.{f}.layer_norm                         -> {s}.layers.{}.ffn_norm
    {s}.final_layer_norm                                      -> {s}.final_norm
"""
DENSE = "{s}.block.{}.layer.{f}.DenseReluDense.wi -> {s}.layers.{}.ffn.up"
GATED = """
    {s}.block.{}.layer.{f}.DenseReluDense.wi_0                -> {s}.layers.{}.ffn.gate
    {s}.block.{}.layer.{f}.DenseReluDense.wi_1                -> {s}.layers.{}.ffn.up
"""
BETWEEN = """
    shared                                                    -> encoder.embeddings.token
    decoder.block.{}.layer.1.EncDecAttention.q                -> decoder.layers.{}.cross_attention.q
    decoder.block.{}.layer.1.EncDecAttention.k                -> decoder.layers.{}.cross_attention.k
    decoder.block.{}.layer.1.EncDecAttention.v                -> decoder.layers.{}.cross_attention.v
    decoder.block.{}.layer.1.EncDecAttention.o                -> decoder.layers.{}.cross_attention.o
    decoder.block.{}.layer.1.layer_norm                       -> decoder.layers.{}.cross_attention_norm
    lm_head                                                   -> head.output
"""


def stack_entries(stack: str, *, ffn: int) -> tuple[Entry, ...]:
    """The rows of one stack, whose feed-forward is the sublayer with this number."""
    own, dense, gated = (text.replace("{s}", stack).replace("{f}", str(ffn)) for text in (OWN, DENSE, GATED))
    return table(own) + table(dense, only="dense") + table(gated, only="gated")


@dataclass(frozen=True, kw_only=True)
class T5Kind(TransformerFamily):
    """The little in which they differ."""

    scaled: bool  # False: no config.json scales the hidden states before the output matrix
    projection: str  # what a config.json without feed_forward_proj means
    entries: tuple[Entry, ...] = table(BETWEEN) + stack_entries("encoder", ffn=1) + stack_entries("decoder", ffn=2)
    prefix: str = ""
    uses: frozenset[str] = COMMON | {"head_dim"}
    ignored: tuple[str, ...] = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
    copies: tuple[tuple[str, str], ...] = tuple(
        (f"{stack}.embed_tokens.weight", "shared.weight") for stack in ("encoder", "decoder")
    )
    untied_copies: bool = False

    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a config.json; with tied embeddings the hidden states are scaled before the output matrix."""
        width, dropout = hf.integer("d_model"), hf.number("dropout_rate", 0.1)
        tied = hf.boolean("tie_word_embeddings", True)
        ffn, activation = hf.choice("feed_forward_proj", PROJECTIONS, self.projection)

        def stack(key: str, attention: AttentionKind, memory_size: int | None = None) -> StackConfig:
            return StackConfig(
                hidden_size=width,
                num_layers=hf.optional_integer(key) or hf.integer("num_layers"),
                num_heads=hf.integer("num_heads"),
                head_dim=hf.integer("d_kv", 64),
                intermediate_size=hf.integer("d_ff"),
                max_positions=hf.integer("n_positions", 512),
                attention=attention,
                memory_size=memory_size,
                norm="rms_norm",
                norm_eps=hf.number("layer_norm_epsilon", 1e-6),
                position="relative",
                relative_buckets=hf.integer("relative_attention_num_buckets", 32),
                relative_distance=hf.integer("relative_attention_max_distance", 128),
                ffn=ffn,
                activation=activation,
                biases=frozenset(),
                attention_scale=1.0,
                embedding_dropout=dropout,
                attention_dropout=dropout,
                ffn_dropout=dropout,
                residual_dropout=dropout,
                final_dropout=dropout,
            )

        return TransformerConfig(
            vocab_size=hf.integer("vocab_size"),
            tie_embeddings=tied,
            head_scale=hf.scale("d_model") if hf.boolean("scale_decoder_outputs", tied) and self.scaled else 1.0,
            **read_ids(hf),
            encoder=stack("num_layers", "bidirectional"),
            decoder=stack("num_decoder_layers", "causal", width),
        )

    def own_hf(self, config: TransformerConfig) -> dict[str, object]:
        """What a config.json says of the choices."""
        stack, encoder = config.main, config.encoder
        return {
            "scale_decoder_outputs": config.head_scale != 1.0,
            "d_model": stack.hidden_size,
            "d_kv": stack.head_size,
            "d_ff": stack.intermediate_size,
            "num_layers": 0 if encoder is None else encoder.num_layers,
            "num_decoder_layers": stack.num_layers,
            "num_heads": stack.num_heads,
            "n_positions": stack.max_positions,
            "relative_attention_num_buckets": stack.relative_buckets,
            "relative_attention_max_distance": stack.relative_distance,
            "layer_norm_epsilon": stack.norm_eps,
            "feed_forward_proj": written_choice(PROJECTIONS, (stack.ffn, stack.activation)),
            "dropout_rate": stack.residual_dropout,
        }

    def new_hf(self, settings: ModelSettings, vocab_size: int, sequence_length: int) -> dict[str, object]:
        """T5 v1.1, by default four layers of 192 in each stack."""
        hidden_size, num_heads = given(settings.hidden_size, 192), given(settings.num_heads, 3)
        return {
            "vocab_size": vocab_size,
            "tie_word_embeddings": given(settings.tie_embeddings, False),
            "d_model": hidden_size,
            "d_kv": given(settings.head_dim, hidden_size // num_heads),
            "d_ff": given(settings.intermediate_size, max(64, round(hidden_size * 8 / 3 / 64) * 64)),
            "num_layers": given(settings.num_layers, 4),
            "num_heads": num_heads,
            "n_positions": given(settings.max_positions, sequence_length),
            "feed_forward_proj": "gated-gelu",
            "dropout_rate": given(settings.dropout, 0.0),
        }
