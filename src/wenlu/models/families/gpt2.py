"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, dense GELU, biases everywhere; one fused q, k, v."""

from __future__ import annotations

from wenlu.models.config import Activation, StackConfig, TransformerConfig
from wenlu.models.families._files import HFConfig
from wenlu.models.families._tables import Key, table
from wenlu.models.families._transformer import TransformerFamily

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
    transformer.h.{}.attn.c_attn -> decoder.layers.{}.self_attention.{q,k,v}
    transformer.h.{}.attn.c_proj -> decoder.layers.{}.self_attention.o
    transformer.h.{}.mlp.c_fc    -> decoder.layers.{}.ffn.up
    transformer.h.{}.mlp.c_proj  -> decoder.layers.{}.ffn.down
"""


class GPT2(TransformerFamily):
    """What of its config.json the keys do not say."""

    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a GPT-2 config.json."""
        sizes = self.read_stack(hf, "decoder", n_inner=4 * hf.integer("n_embd"))
        scale = None if hf.boolean("scale_attn_weights", True) else 1.0
        return TransformerConfig(
            **self.read_whole(hf),
            pooled_position="last",
            classifier_bias=False,
            decoder=StackConfig(**sizes, attention_scale=scale),
        )

    def own_hf(self, config: TransformerConfig) -> dict[str, object]:
        """Whether scores are scaled."""
        return {"scale_attn_weights": config.main.attention_scale is None}


FAMILY = GPT2(
    model_type="gpt2",
    entries=table(NAMES) + table(TRANSPOSED, form="transposed"),
    architectures={
        "GPT2LMHeadModel": frozenset({"language_model"}),
        "GPT2ForSequenceClassification": frozenset({"sequence"}),
    },
    keys=(
        Key("n_embd", "hidden_size"),
        Key("n_layer", "num_layers"),
        Key("n_head", "num_heads"),
        Key("n_inner", "intermediate_size"),
        Key("n_positions", "max_positions", 1024),
        Key("layer_norm_epsilon", "norm_eps", 1e-5),
        Key("activation_function", "activation", "gelu_new", ACTIVATIONS),
        Key("embd_pdrop", "embedding_dropout", 0.1),
        Key("attn_pdrop", "attention_dropout", 0.1),
        Key("resid_pdrop", "residual_dropout", 0.1),
    ),
    required={"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    prefix="transformer.",
    ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),  # causal masks
)
