"""What Llama, Mistral, Qwen and Gemma share: rotary positions, RMSNorm, gated feed-forward, grouped keys."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

from wenlu.models.config import (
    DEFAULT_ROPE_THETA,
    Activation,
    Bias,
    Head,
    ModelSettings,
    QueryKeyNorm,
    RopeScaling,
    Scheme,
    StackConfig,
    TransformerConfig,
    given,
)
from wenlu.models.families._files import HFConfig
from wenlu.models.families._tables import Entry, Key, table
from wenlu.models.families._transformer import COMMON, Architectures, TransformerFamily

ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
ATTENTION_BIASES: frozenset[Bias] = frozenset({"q", "k", "v", "o"})
WINDOW = 4096  # of a family that has one, where the config.json does not say
FFN_BIASES: frozenset[Bias] = frozenset({"ffn"})
KEYS = (
    Key("hidden_size", "hidden_size"),
    Key("num_hidden_layers", "num_layers"),
    Key("num_attention_heads", "num_heads"),
    Key("num_key_value_heads", "num_kv_heads", optional=True),
    Key("head_dim", "head_dim", optional=True),
    Key("intermediate_size", "intermediate_size"),
    Key("max_position_embeddings", "max_positions", 2048),
    Key("rms_norm_eps", "norm_eps", 1e-6),
    Key("attention_dropout", "attention_dropout", 0.0),
    Key("wenlu_embedding_dropout", "embedding_dropout", 0.0),
    Key("wenlu_residual_dropout", "residual_dropout", 0.0),
)

NAMES = """
    model.embed_tokens                         -> decoder.embeddings.token
    model.layers.{}.input_layernorm            -> decoder.layers.{}.self_attention_norm
    model.layers.{}.self_attn.{q,k,v,o}_proj   -> decoder.layers.{}.self_attention.{q,k,v,o}
    model.layers.{}.mlp.{gate,up,down}_proj    -> decoder.layers.{}.ffn.{gate,up,down}
    model.norm                                 -> decoder.final_norm
    lm_head                                    -> head.output
    score                                      -> head.classifier
"""
BEFORE = "model.layers.{}.post_attention_layernorm -> decoder.layers.{}.ffn_norm"
AROUND = """
    model.layers.{}.post_attention_layernorm   -> decoder.layers.{}.self_attention_end_norm
    model.layers.{}.pre_feedforward_layernorm  -> decoder.layers.{}.ffn_norm
    model.layers.{}.post_feedforward_layernorm -> decoder.layers.{}.ffn_end_norm
"""
NORMS = "model.layers.{}.self_attn.{q,k}_norm -> decoder.layers.{}.self_attention.{q,k}_norm"


@dataclass(frozen=True, kw_only=True)
class LlamaKind(TransformerFamily):
    """The little in which the Llama-like families differ."""

    entries: tuple[Entry, ...] = field(init=False)
    architectures: Architectures = field(init=False)
    uses: frozenset[str] = COMMON | {"num_kv_heads", "head_dim", "rope_theta"}
    scheme: Scheme = "wenlu"
    ignored: tuple[str, ...] = (r".*rotary_emb\.inv_freq",)  # computed
    name: str  # of their classes, as in LlamaForCausalLM
    fixed_biases: frozenset[Bias] | None = None  # None: the config.json says, in attention_bias and mlp_bias
    qk_norm: QueryKeyNorm = "none"
    head_dim: int | None = None  # what a config.json without head_dim means; None: hidden size / heads
    tied: bool = False
    gated: bool = True
    windowed: bool = False  # sliding_window holds, in all layers or in those that layer_types names
    full_every: int | None = None  # without layer_types
    rope_theta: float = DEFAULT_ROPE_THETA  # what a config.json without it means
    window_rope_theta: float | None = None  # likewise, of layers with a window; None: they have none of their own
    attention_softcap: float | None = None  # likewise
    logit_softcap: float | None = None  # likewise
    gemma: bool = False  # norms of weight + 1 at both ends of a sublayer, scaled embeddings, caps

    def __post_init__(self) -> None:
        entries = (
            table(NAMES) + table(AROUND if self.gemma else BEFORE) + table(NORMS if self.qk_norm == "head" else "")
        )
        heads: dict[str, Head] = {"CausalLM": "language_model", "SequenceClassification": "sequence"}
        classes = {f"{self.name}For{what}": frozenset({head}) for what, head in heads.items()}
        object.__setattr__(self, "entries", entries)
        object.__setattr__(self, "architectures", classes)
        activation = ("hidden_activation", "gelu_pytorch_tanh") if self.gemma else ("hidden_act", "silu")
        object.__setattr__(self, "keys", (*KEYS, Key(activation[0], "activation", activation[1], ACTIVATIONS)))

    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a config.json; rotary settings in the older format (rope_theta) and the newer (rope_parameters)."""
        theta, scaling, local_theta = read_rope(hf, self.rope_theta, self.window_rope_theta)
        window, full_every = self.windows(hf)
        sizes = self.read_stack(hf, "decoder")
        sizes["head_dim"] = sizes["head_dim"] or self.head_dim
        softcap = hf.optional_number("attn_logit_softcapping", self.attention_softcap) if self.gemma else None
        return TransformerConfig(
            **self.read_whole(hf),
            pooled_position="last",
            classifier_bias=False,
            logit_softcap=hf.optional_number("final_logit_softcapping", self.logit_softcap) if self.gemma else None,
            decoder=StackConfig(
                **sizes,
                norm="rms_norm_plus_one" if self.gemma else "rms_norm",
                norm_placement="around" if self.gemma else "before",
                qk_norm=self.qk_norm,
                position="rotary",
                rope_theta=theta,
                rope_scaling=scaling,
                window=window,
                full_every=full_every,
                window_rope_theta=None if window is None else local_theta,
                embedding_scale=sizes["hidden_size"] ** 0.5 if self.gemma else 1.0,
                ffn="gated",
                biases=self.biases(hf),
                attention_scale=hf.scale("query_pre_attn_scalar", 256) if self.gemma else None,
                attention_softcap=softcap,
            ),
        )

    def windows(self, hf: HFConfig) -> tuple[int | None, int | None]:
        """The window of attention, and which layers are without: each n-th."""
        types, window = hf.names("layer_types"), hf.optional_integer("sliding_window", WINDOW)
        hf.require("use_bidirectional_attention", False)
        if not self.windowed or window is None or set(types) == {"full_attention"}:
            hf.require("use_sliding_window", False)
            if set(types) - {"full_attention"}:
                hf.refuse("layer_types", types, "full_attention")
            return None, None
        every = types.index("full_attention") + 1 if "full_attention" in types else None
        every = every if types else hf.optional_integer("sliding_window_pattern") or self.full_every
        if types and types != (expected := layer_types(len(types), every)):
            hf.refuse("layer_types", ", ".join(types), ", ".join(expected))
        return window, every

    def biases(self, hf: HFConfig) -> frozenset[Bias]:
        """Which projections have biases."""
        if self.fixed_biases is not None:
            return self.fixed_biases
        attention = ATTENTION_BIASES if hf.boolean("attention_bias", False) else frozenset[Bias]()
        return attention | FFN_BIASES if hf.boolean("mlp_bias", False) else attention

    def own_hf(self, config: TransformerConfig) -> dict[str, object]:
        """What a config.json says of the choices, in the older rope format, which all readers know."""
        stack = config.main
        hf: dict[str, object] = {
            "rope_theta": stack.rope_theta,
            "attention_bias": stack.biases >= ATTENTION_BIASES,
            "mlp_bias": stack.biases >= FFN_BIASES,
        }
        if self.windowed:
            hf["sliding_window"] = stack.window
        if stack.full_every is not None:
            hf["layer_types"] = layer_types(stack.num_layers, stack.full_every)
        elif self.full_every is not None and stack.window is None:  # theirs asks for a window's size all the same
            hf |= {"layer_types": layer_types(stack.num_layers, 1), "sliding_window": stack.max_positions}
        if stack.window is not None and (stack.window_rope_theta or self.window_rope_theta) is not None:
            hf["rope_local_base_freq"] = given(stack.window_rope_theta, stack.rope_theta)
        if self.gemma and stack.attention_scale is not None:
            hf["query_pre_attn_scalar"] = round(stack.attention_scale**-2)
            hf["attn_logit_softcapping"] = stack.attention_softcap
            hf["final_logit_softcapping"] = config.logit_softcap
        if stack.rope_scaling is not None:
            hf["rope_scaling"] = stack.rope_scaling.to_hf()
        return hf

    def new_hf(self, settings: ModelSettings, vocab_size: int, sequence_length: int) -> dict[str, object]:
        """By default four layers of 192, the gated width 8/3 of it rounded to 64, without windows and caps."""
        hf = super().new_hf(settings, vocab_size, sequence_length)
        hf["rope_theta"] = given(settings.rope_theta, DEFAULT_ROPE_THETA)
        hf["query_pre_attn_scalar"] = max(1, cast(int, hf["head_dim"]))
        hf["head_dim"] = settings.head_dim
        return hf | dict.fromkeys(("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"))

    def settings_to_config(self, settings: ModelSettings, vocab_size: int, sequence_length: int) -> TransformerConfig:
        """The config of a new model, whose heads divide its width whatever those of the published ones do."""
        config = super().settings_to_config(settings, vocab_size, sequence_length)
        return replace(config, decoder=replace(config.main, head_dim=settings.head_dim))


def layer_types(num_layers: int, full_every: int | None) -> list[str]:
    """What newer config.json files list: which layers have a window."""
    full = [full_every is not None and (number + 1) % full_every == 0 for number in range(num_layers)]
    return ["full_attention" if one else "sliding_attention" for one in full]


def read_rope(
    hf: HFConfig, default: float, local_default: float | None
) -> tuple[float, RopeScaling | None, float | None]:
    """Base and scaling of the rotary frequencies, and the base of layers with a window if another, from any format."""
    newer, local_theta = hf.table("rope_parameters"), hf.optional_number("rope_local_base_freq", local_default)
    if newer is not None and "full_attention" in newer.values:
        local, newer = newer.table("sliding_attention"), newer.table("full_attention")
        if local is not None:
            local.require("rope_type", "default")
            local.require("partial_rotary_factor", 1.0)
            local_theta = local.number("rope_theta", local_theta)
    theta = (newer or hf).number("rope_theta", hf.number("rope_theta", default))
    table = newer or hf.table("rope_scaling")
    scaling = None if table is None else _scaling(hf, table)
    return theta, scaling, None if scaling is None and local_theta == theta else local_theta


def _scaling(hf: HFConfig, table: HFConfig) -> RopeScaling | None:
    table.require("partial_rotary_factor", 1.0)
    kind = table.text("rope_type", table.text("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(factor=table.number("factor"))
    if kind != "llama3":
        hf.refuse("rope_type", kind, "default, linear, llama3")
    longest = table.integer("original_max_position_embeddings", hf.optional_integer("max_position_embeddings"))
    return RopeScaling(
        factor=table.number("factor"),
        low_frequency_factor=table.number("low_freq_factor"),
        high_frequency_factor=table.number("high_freq_factor"),
        original_max_positions=longest,
    )
