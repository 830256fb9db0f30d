"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, dense GELU, biases everywhere; one fused q, k, v."""

from __future__ import annotations

from wenlu.models.config import Activation, ModelSettings, StackConfig, TransformerConfig, given
from wenlu.models.families._files import HFConfig, written_choice
from wenlu.models.families._transformer import TransformerFamily, read_ids, table

ACTIVATIONS: dict[str, Activation] = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}

NAMES = """
    transformer.wte       -> decoder.embeddings.token
    transformer.wpe       -> decoder.embeddings.position
    transformer.h.{}.ln_1 -> decoder.layers.{}.self_attention_norm
    transformer.h.{}.ln_2 -> decoder.layers.{}.ffn_norm
    transformer.ln_f      -> decoder.final_norm
    lm_head               -> head.output
    score                 -> head.classifier
"""
TRANSPOSED = """
    transformer.h.{}.attn.c_attn -> decoder.layers.{}.self_attention.q decoder.layers.{}.self_attention.k decoder.layers.{}.self_attention.v
    transformer.h.{}.attn.c_proj -> decoder.layers.{}.self_attention.o
    transformer.h.{}.mlp.c_fc    -> decoder.layers.{}.ffn.up
    transformer.h.{}.mlp.c_proj  -> decoder.layers.{}.ffn.down
"""  # noqa: E501


class GPT2(TransformerFamily):
    """How its config.json reads, and is written."""

    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a GPT-2 config.json."""
        hf.require("scale_attn_by_inverse_layer_idx", False)
        hf.require("add_cross_attention", False)
        return TransformerConfig(
            vocab_size=hf.integer("vocab_size"),
            tie_embeddings=hf.boolean("tie_word_embeddings", True),
            **read_ids(hf),
            pooled_position="last",
            classifier_bias=False,
            decoder=StackConfig(
                hidden_size=hf.integer("n_embd"),
                num_layers=hf.integer("n_layer"),
                num_heads=hf.integer("n_head"),
                intermediate_size=hf.integer("n_inner", 4 * hf.integer("n_embd")),
                max_positions=hf.integer("n_positions", 1024),
                norm_eps=hf.number("layer_norm_epsilon", 1e-5),
                activation=hf.choice("activation_function", ACTIVATIONS, "gelu_new"),
                attention_scale=None if hf.boolean("scale_attn_weights", True) else 1.0,
                embedding_dropout=hf.number("embd_pdrop", 0.1),
                attention_dropout=hf.number("attn_pdrop", 0.1),
                residual_dropout=hf.number("resid_pdrop", 0.1),
            ),
        )

    def own_hf(self, config: TransformerConfig) -> dict[str, object]:
        """What a config.json says of the choices."""
        stack = config.main
        return {
            "n_embd": stack.hidden_size,
            "n_layer": stack.num_layers,
            "n_head": stack.num_heads,
            "n_inner": stack.intermediate_size,
            "n_positions": stack.max_positions,
            "layer_norm_epsilon": stack.norm_eps,
            "activation_function": written_choice(ACTIVATIONS, stack.activation),
            "scale_attn_weights": stack.attention_scale is None,
            "embd_pdrop": stack.embedding_dropout,
            "attn_pdrop": stack.attention_dropout,
            "resid_pdrop": stack.residual_dropout,
        }

    def new_hf(self, settings: ModelSettings, vocab_size: int, sequence_length: int) -> dict[str, object]:
        """By default four layers of 192."""
        hidden_size, dropout = given(settings.hidden_size, 192), given(settings.dropout, 0.0)
        return {
            "vocab_size": vocab_size,
            "tie_word_embeddings": given(settings.tie_embeddings, True),
            "n_embd": hidden_size,
            "n_layer": given(settings.num_layers, 4),
            "n_head": given(settings.num_heads, 2),
            "n_inner": given(settings.intermediate_size, 4 * hidden_size),
            "n_positions": given(settings.max_positions, sequence_length),
            **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout),
        }


FAMILY = GPT2(
    model_type="gpt2",
    entries=table(NAMES) + table(TRANSPOSED, form="transposed"),
    architectures={
        "GPT2LMHeadModel": frozenset({"language_model"}),
        "GPT2ForSequenceClassification": frozenset({"sequence"}),
    },
    prefix="transformer.",
    ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),  # causal masks
)
