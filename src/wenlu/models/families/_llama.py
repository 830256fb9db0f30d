"""What Llama and Qwen share: rotary positions, RMSNorm, a gated feed-forward, grouped keys and values."""

from __future__ import annotations

from dataclasses import dataclass

from wenlu.models.config import (
    DEFAULT_ROPE_THETA,
    Activation,
    Bias,
    ModelSettings,
    QueryKeyNorm,
    RopeScaling,
    StackConfig,
    TransformerConfig,
    given,
)
from wenlu.models.families._files import HFConfig
from wenlu.models.families._transformer import COMMON, TransformerFamily, table

ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
ATTENTION_BIASES: frozenset[Bias] = frozenset({"q", "k", "v", "o"})
FFN_BIASES: frozenset[Bias] = frozenset({"ffn"})

NAMES = """
    model.embed_tokens                         -> decoder.embeddings.token
    model.layers.{}.input_layernorm            -> decoder.layers.{}.self_attention_norm
    model.layers.{}.self_attn.q_proj           -> decoder.layers.{}.self_attention.q
    model.layers.{}.self_attn.k_proj           -> decoder.layers.{}.self_attention.k
    model.layers.{}.self_attn.v_proj           -> decoder.layers.{}.self_attention.v
    model.layers.{}.self_attn.o_proj           -> decoder.layers.{}.self_attention.o
    model.layers.{}.post_attention_layernorm   -> decoder.layers.{}.ffn_norm
    model.layers.{}.mlp.gate_proj              -> decoder.layers.{}.ffn.gate
    model.layers.{}.mlp.up_proj                -> decoder.layers.{}.ffn.up
    model.layers.{}.mlp.down_proj              -> decoder.layers.{}.ffn.down
    model.norm                                 -> decoder.final_norm
    lm_head                                    -> head.output
"""
NORMS = """
    model.layers.{}.self_attn.q_norm           -> decoder.layers.{}.self_attention.q_norm
    model.layers.{}.self_attn.k_norm           -> decoder.layers.{}.self_attention.k_norm
"""


@dataclass(frozen=True)
class LlamaKind:
    """The little in which the Llama-like families differ."""

    model_type: str
    architecture: str
    fixed_biases: frozenset[Bias] | None = None  # None: the config.json says, in attention_bias and mlp_bias
    qk_norm: QueryKeyNorm = "none"
    head_dim: int | None = None  # what a config.json without head_dim means; None: hidden size / heads

    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a config.json; rotary settings in the older format (rope_theta) and the newer (rope_parameters)."""
        hf.require("use_sliding_window", False)
        hf.require_all("layer_types", "full_attention")
        theta, scaling = read_rope(hf)
        return TransformerConfig(
            vocab_size=hf.integer("vocab_size"),
            tie_embeddings=hf.boolean("tie_word_embeddings", False),
            start_token_id=hf.token_id("bos_token_id"),
            end_token_id=hf.token_id("eos_token_id"),
            decoder=StackConfig(
                hidden_size=hf.integer("hidden_size"),
                num_layers=hf.integer("num_hidden_layers"),
                num_heads=hf.integer("num_attention_heads"),
                num_kv_heads=hf.optional_integer("num_key_value_heads"),
                head_dim=hf.optional_integer("head_dim") or self.head_dim,
                intermediate_size=hf.integer("intermediate_size"),
                max_positions=hf.integer("max_position_embeddings", 2048),
                norm="rms_norm",
                norm_eps=hf.number("rms_norm_eps", 1e-6),
                qk_norm=self.qk_norm,
                position="rotary",
                rope_theta=theta,
                rope_scaling=scaling,
                ffn="gated",
                activation=hf.choice("hidden_act", ACTIVATIONS, "silu"),
                biases=self.biases(hf),
                embedding_dropout=hf.number("wenlu_embedding_dropout", 0.0),
                attention_dropout=hf.number("attention_dropout", 0.0),
                residual_dropout=hf.number("wenlu_residual_dropout", 0.0),
            ),
        )

    def biases(self, hf: HFConfig) -> frozenset[Bias]:
        """Which projections have biases."""
        if self.fixed_biases is not None:
            return self.fixed_biases
        attention = ATTENTION_BIASES if hf.boolean("attention_bias", False) else frozenset[Bias]()
        return attention | FFN_BIASES if hf.boolean("mlp_bias", False) else attention

    def to_hf(self, config: TransformerConfig) -> dict[str, object]:
        """Write a config.json, in the older rope format, which all readers know."""
        stack = config.decoder
        hf: dict[str, object] = {
            "architectures": [self.architecture],
            "vocab_size": config.vocab_size,
            "tie_word_embeddings": config.tie_embeddings,
            "bos_token_id": config.start_token_id,
            "eos_token_id": config.end_token_id,
            "hidden_size": stack.hidden_size,
            "num_hidden_layers": stack.num_layers,
            "num_attention_heads": stack.num_heads,
            "num_key_value_heads": stack.kv_heads,
            "head_dim": stack.head_size,
            "intermediate_size": stack.intermediate_size,
            "max_position_embeddings": stack.max_positions,
            "rms_norm_eps": stack.norm_eps,
            "hidden_act": {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[stack.activation],
            "attention_dropout": stack.attention_dropout,
            "rope_theta": stack.rope_theta,
            "attention_bias": stack.biases >= ATTENTION_BIASES,
            "mlp_bias": stack.biases >= FFN_BIASES,
        }
        if stack.rope_scaling is not None:
            hf["rope_scaling"] = {
                "rope_type": "llama3",
                "factor": stack.rope_scaling.factor,
                "low_freq_factor": stack.rope_scaling.low_frequency_factor,
                "high_freq_factor": stack.rope_scaling.high_frequency_factor,
                "original_max_position_embeddings": stack.rope_scaling.original_max_positions,
            }
        dropouts = {"embedding": stack.embedding_dropout, "residual": stack.residual_dropout}
        return hf | {f"wenlu_{name}_dropout": rate for name, rate in dropouts.items() if rate}

    def settings_to_config(self, settings: ModelSettings, vocab_size: int, sequence_length: int) -> TransformerConfig:
        """The config of a new model; by default four layers of 192, the gated width 8/3 of it rounded to 64."""
        hidden_size, dropout = given(settings.hidden_size, 192), given(settings.dropout, 0.0)
        num_heads = given(settings.num_heads, 2)
        return TransformerConfig(
            vocab_size=vocab_size,
            tie_embeddings=given(settings.tie_embeddings, False),
            decoder=StackConfig(
                hidden_size=hidden_size,
                num_layers=given(settings.num_layers, 4),
                num_heads=num_heads,
                num_kv_heads=given(settings.num_kv_heads, num_heads),
                head_dim=settings.head_dim,
                intermediate_size=given(settings.intermediate_size, max(64, round(hidden_size * 8 / 3 / 64) * 64)),
                max_positions=given(settings.max_positions, sequence_length),
                norm="rms_norm",
                norm_eps=1e-6,
                qk_norm=self.qk_norm,
                position="rotary",
                rope_theta=given(settings.rope_theta, DEFAULT_ROPE_THETA),
                ffn="gated",
                activation="silu",
                biases=given(self.fixed_biases, frozenset()),
                embedding_dropout=dropout,
                attention_dropout=dropout,
                residual_dropout=dropout,
            ),
        )

    def family(self) -> TransformerFamily:
        """The family that has these differences."""
        return TransformerFamily(
            model_type=self.model_type,
            config=self.config,
            to_hf=self.to_hf,
            settings_to_config=self.settings_to_config,
            entries=table(NAMES) + (table(NORMS) if self.qk_norm == "head" else ()),
            prefix="model.",
            uses=COMMON | {"num_kv_heads", "head_dim", "rope_theta"},
            scheme="wenlu",
            ignored=(r".*rotary_emb\.inv_freq",),  # computed
        )


def read_rope(hf: HFConfig) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary frequencies, from either format."""
    newer = hf.table("rope_parameters")
    theta = (newer or hf).number("rope_theta", hf.number("rope_theta", DEFAULT_ROPE_THETA))
    scaling = newer or hf.table("rope_scaling")
    if scaling is None:
        return theta, None
    scaling.require("partial_rotary_factor", 1.0)
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        hf.refuse("rope_type", kind, "default, llama3")
    return theta, RopeScaling(
        factor=scaling.number("factor"),
        low_frequency_factor=scaling.number("low_freq_factor"),
        high_frequency_factor=scaling.number("high_freq_factor"),
        original_max_positions=scaling.integer(
            "original_max_position_embeddings", hf.optional_integer("max_position_embeddings")
        ),
    )
