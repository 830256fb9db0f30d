"""What T5, T5 v1.1 and mT5 share: two stacks with relative positions, RMSNorm, no biases and unscaled scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wenlu.models.config import Activation, FeedForwardKind, StackConfig, TransformerConfig
from wenlu.models.families._files import HFConfig, written_choice
from wenlu.models.families._tables import Entry, Key, table
from wenlu.models.families._transformer import COMMON, TransformerFamily

PROJECTIONS: dict[str, tuple[FeedForwardKind, Activation]] = {
    "relu": ("dense", "relu"),
    "gated-gelu": ("gated", "gelu_tanh"),
    "gated-silu": ("gated", "silu"),
}
OWN = """
    {s}.block.{}.layer.0.SelfAttention.{q,k,v,o}              -> {s}.layers.{}.self_attention.{q,k,v,o}
    {s}.block.{}.layer.0.layer_norm                           -> {s}.layers.{}.self_attention_norm
    {s}.block.0.layer.0.SelfAttention.relative_attention_bias -> {s}.relative
    {s}.block.{}.layer.{f}.DenseReluDense.wo                  -> {s}.layers.{}.ffn.down
    {s}.block.{}.layer.{f}.layer_norm                         -> {s}.layers.{}.ffn_norm
    {s}.final_layer_norm                                      -> {s}.final_norm
"""
DENSE = "{s}.block.{}.layer.{f}.DenseReluDense.wi -> {s}.layers.{}.ffn.up"
GATED = "{s}.block.{}.layer.{f}.DenseReluDense.{wi_0,wi_1} -> {s}.layers.{}.ffn.{gate,up}"
BETWEEN = """
    shared                                                    -> encoder.embeddings.token
    decoder.block.{}.layer.1.EncDecAttention.{q,k,v,o}        -> decoder.layers.{}.cross_attention.{q,k,v,o}
    decoder.block.{}.layer.1.layer_norm                       -> decoder.layers.{}.cross_attention_norm
    lm_head                                                   -> head.output
"""
DROPOUTS = "residual_dropout embedding_dropout attention_dropout ffn_dropout final_dropout"
KEYS = (
    Key("d_model", "hidden_size"),
    Key("d_kv", "head_dim", 64),
    Key("d_ff", "intermediate_size"),
    Key("num_heads", "num_heads"),
    Key("n_positions", "max_positions", 512),
    Key("relative_attention_num_buckets", "relative_buckets", 32),
    Key("relative_attention_max_distance", "relative_distance", 128),
    Key("layer_norm_epsilon", "norm_eps", 1e-6),
    Key("dropout_rate", DROPOUTS, 0.1),
)
NEW: dict[str, object] = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}


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
    new_heads: int = 3
    gated: bool = True

    def keys_of(self, stack: str) -> tuple[Key, ...]:
        """What a config.json says of the encoder or the decoder."""
        return *KEYS, Key("num_layers" if stack == "encoder" else "num_decoder_layers", "num_layers")

    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a config.json; with tied embeddings the hidden states are scaled before the output matrix."""
        whole, width = self.read_whole(hf), hf.integer("d_model")
        ffn, activation = hf.choice("feed_forward_proj", PROJECTIONS, self.projection)
        scaled = hf.boolean("scale_decoder_outputs", whole["tie_embeddings"]) and self.scaled

        def stack(name: str, **own: Any) -> StackConfig:
            return StackConfig(
                **self.read_stack(hf, name, num_decoder_layers=hf.integer("num_layers")),
                **own,
                norm="rms_norm",
                position="relative",
                ffn=ffn,
                activation=activation,
                biases=frozenset(),
                attention_scale=1.0,
            )

        return TransformerConfig(
            **whole,
            head_scale=hf.scale("d_model") if scaled else 1.0,
            encoder=stack("encoder", attention="bidirectional"),
            decoder=stack("decoder", memory_size=width),
        )

    def own_hf(self, config: TransformerConfig) -> dict[str, object]:
        """What a config.json says of the choices."""
        return {
            "scale_decoder_outputs": config.head_scale != 1.0,
            "feed_forward_proj": written_choice(PROJECTIONS, (config.main.ffn, config.main.activation)),
        }
