"""What BERT and its descendants share: an encoder that sees both ways, norms after sublayers, a transform for words."""

from __future__ import annotations

from dataclasses import dataclass

from wenlu.models.config import Activation, Head, ModelSettings, OuterNorm, StackConfig, TransformerConfig, given
from wenlu.models.families._files import HFConfig
from wenlu.models.families._tables import Key
from wenlu.models.families._transformer import TransformerFamily

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
EMBEDDING_NORM: frozenset[OuterNorm] = frozenset({"embedding"})
POSITIONS = Key("max_position_embeddings", "max_positions", 512)


def keys(activation: str = "gelu", *more: Key) -> tuple[Key, ...]:
    """What the config.json of all but DistilBERT say; by default with this activation."""
    return (
        Key("hidden_size", "hidden_size"),
        Key("num_hidden_layers", "num_layers"),
        Key("num_attention_heads", "num_heads"),
        Key("intermediate_size", "intermediate_size"),
        POSITIONS,
        Key("hidden_act", "activation", activation, ACTIVATIONS),
        Key("hidden_dropout_prob", "residual_dropout embedding_dropout", 0.1),
        Key("attention_probs_dropout_prob", "attention_dropout", 0.1),
        Key("type_vocab_size", "num_segments", 2),
        Key("layer_norm_eps", "norm_eps", 1e-12),
        *more,
    )


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

    new_heads: int = 4
    position_offset: int = 0
    classifier_dropout: str = "classifier_dropout"  # what they call it
    pooler_activation: Activation = "tanh"

    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a config.json."""
        hf.require("position_embedding_type", "absolute")
        hf.require("is_decoder", False)
        hf.require("add_cross_attention", False)
        if self.position_offset:
            hf.require("pad_token_id", self.position_offset - 1)  # their positions begin after it
        sizes = {"num_segments": 0, "norm_eps": 1e-12, **self.read_stack(hf, "encoder")}
        sizes["max_positions"] -= self.position_offset
        return TransformerConfig(
            **self.read_whole(hf),
            head_transform=sizes["activation"],
            head_bias=True,
            pooler_activation=self.pooler_activation,
            classifier_dropout=hf.number(self.classifier_dropout, sizes["residual_dropout"]),
            encoder=StackConfig(
                **sizes,
                attention="bidirectional",
                norm_placement="after",
                outer_norms=EMBEDDING_NORM,
                position_offset=self.position_offset,
            ),
        )

    def own_hf(self, config: TransformerConfig) -> dict[str, object]:
        """What a config.json says of the choices."""
        hf: dict[str, object] = {self.classifier_dropout: config.classifier_dropout}
        if self.position_offset:
            positions = config.main.max_positions + self.position_offset
            hf |= {POSITIONS.theirs: positions, "pad_token_id": self.position_offset - 1}
        return hf

    def new_hf(self, settings: ModelSettings, vocab_size: int, sequence_length: int) -> dict[str, object]:
        """By default four layers of 192; the rows of positions before the first count, too."""
        positions = given(settings.max_positions, sequence_length) + self.position_offset
        return super().new_hf(settings, vocab_size, sequence_length) | {POSITIONS.theirs: positions}
