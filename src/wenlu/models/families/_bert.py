"""What BERT and its descendants share: an encoder that sees both ways, norms after sublayers, a transform for words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wenlu.models.config import Activation, Head, ModelSettings, OuterNorm, StackConfig, TransformerConfig, given
from wenlu.models.families._files import HFConfig, written_choice
from wenlu.models.families._transformer import TransformerFamily, read_ids

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
EMBEDDING_NORM: frozenset[OuterNorm] = frozenset({"embedding"})
KEYS = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "classifier_dropout": "classifier_dropout",
}


def architectures(name: str, *, pooled: bool = True, pairs: str = "") -> dict[str, frozenset[Head]]:
    """Their classes and what heads each has; ``pairs`` names the one that judges pairs besides predicting words."""
    found: dict[str, frozenset[Head]] = {
        f"{name}ForMaskedLM": frozenset({"language_model"}),
        f"{name}Model": frozenset({"pooler"} if pooled else ()),
        f"{name}ForSequenceClassification": frozenset({"pooler", "sequence"}),
        f"{name}ForTokenClassification": frozenset({"token"}),
        f"{name}ForQuestionAnswering": frozenset({"span"}),
    }
    if pairs:
        found[pairs] = frozenset({"language_model", "pooler", "pair"})
    return found


@dataclass(frozen=True, kw_only=True)
class BertKind(TransformerFamily):
    """The little in which they differ."""

    keys: Mapping[str, str]  # their names of sizes
    position_offset: int = 0
    segments: int | None = 2  # of a new model; None: no segments
    shared_layers: bool = False  # and an embedding of its own size
    norm_eps: float | None = None  # None: the config.json says
    default_activation: str = "gelu"
    pooler_activation: Activation = "tanh"

    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a config.json."""
        hf.require("position_embedding_type", "absolute")
        hf.require("is_decoder", False)
        hf.require("add_cross_attention", False)
        keys = self.keys
        dropout = hf.number(keys["dropout"], 0.1)
        activation = hf.choice(keys["activation"], ACTIVATIONS, self.default_activation)
        offset = self.position_offset
        if self.shared_layers:
            hf.require("inner_group_num", 1)
        if offset:
            hf.require("pad_token_id", offset - 1)  # their positions begin after it
        return TransformerConfig(
            vocab_size=hf.integer("vocab_size"),
            tie_embeddings=hf.boolean("tie_word_embeddings", True),
            head_transform=activation,
            head_bias=True,
            pooler_activation=self.pooler_activation,
            classifier_dropout=hf.number(keys["classifier_dropout"], dropout),
            **read_ids(hf),
            encoder=StackConfig(
                hidden_size=hf.integer(keys["hidden_size"]),
                num_layers=hf.integer(keys["num_layers"]),
                num_heads=hf.integer(keys["num_heads"]),
                intermediate_size=hf.integer(keys["intermediate_size"]),
                max_positions=hf.integer(keys["max_positions"], 512) - offset,
                num_distinct_layers=hf.integer("num_hidden_groups", 1) if self.shared_layers else None,
                embedding_size=hf.integer("embedding_size", 128) if self.shared_layers else None,
                attention="bidirectional",
                norm_eps=given(self.norm_eps, 0.0) or hf.number("layer_norm_eps", 1e-12),
                norm_placement="after",
                outer_norms=EMBEDDING_NORM,
                position_offset=offset,
                num_segments=0 if self.segments is None else hf.integer("type_vocab_size", 2),
                activation=activation,
                embedding_dropout=dropout,
                attention_dropout=hf.number(keys["attention_dropout"], 0.1),
                residual_dropout=dropout,
            ),
        )

    def own_hf(self, config: TransformerConfig) -> dict[str, object]:
        """What a config.json says of the choices."""
        stack, keys = config.main, self.keys
        hf: dict[str, object] = {
            keys["hidden_size"]: stack.hidden_size,
            keys["num_layers"]: stack.num_layers,
            keys["num_heads"]: stack.num_heads,
            keys["intermediate_size"]: stack.intermediate_size,
            keys["max_positions"]: stack.max_positions + self.position_offset,
            keys["activation"]: written_choice(ACTIVATIONS, stack.activation),
            keys["dropout"]: stack.residual_dropout,
            keys["attention_dropout"]: stack.attention_dropout,
            keys["classifier_dropout"]: config.classifier_dropout,
        }
        if self.position_offset:
            hf["pad_token_id"] = self.position_offset - 1
        if self.segments is not None:
            hf["type_vocab_size"] = stack.num_segments
        if self.norm_eps is None:
            hf["layer_norm_eps"] = stack.norm_eps
        if self.shared_layers:
            hf |= {"num_hidden_groups": stack.distinct_layers, "embedding_size": stack.token_size}
        return hf

    def new_hf(self, settings: ModelSettings, vocab_size: int, sequence_length: int) -> dict[str, object]:
        """By default four layers of 192."""
        hidden_size = given(settings.hidden_size, 192)
        return {
            "vocab_size": vocab_size,
            "tie_word_embeddings": given(settings.tie_embeddings, True),
            "pad_token_id": None,
            "type_vocab_size": self.segments,
            "embedding_size": given(settings.embedding_size, 128),
            self.keys["hidden_size"]: hidden_size,
            self.keys["num_layers"]: given(settings.num_layers, 4),
            self.keys["num_heads"]: given(settings.num_heads, 4),
            self.keys["intermediate_size"]: given(settings.intermediate_size, 4 * hidden_size),
            self.keys["max_positions"]: given(settings.max_positions, sequence_length) + self.position_offset,
            self.keys["dropout"]: given(settings.dropout, 0.0),
            self.keys["attention_dropout"]: given(settings.dropout, 0.0),
        }
