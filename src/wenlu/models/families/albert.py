"""ALBERT (Lan et al. 2020): BERT with one layer used again and again, and small embeddings that a matrix widens.

In training, their feed-forward output has no dropout and their judge of pairs has one; here it is the other way round.
"""

from __future__ import annotations

from wenlu.models.families._bert import KEYS, BertKind, architectures
from wenlu.models.families._transformer import COMMON, table

GROUP = "albert.encoder.albert_layer_groups.{}.albert_layers.0"
NAMES = """
    albert.embeddings.word_embeddings                  -> encoder.embeddings.token
    albert.embeddings.position_embeddings              -> encoder.embeddings.position
    albert.embeddings.token_type_embeddings            -> encoder.embeddings.segment
    albert.embeddings.LayerNorm                        -> encoder.embeddings.norm
    albert.encoder.embedding_hidden_mapping_in         -> encoder.embeddings.projection
    GROUP.attention.query                              -> encoder.layers.{}.self_attention.q
    GROUP.attention.key                                -> encoder.layers.{}.self_attention.k
    GROUP.attention.value                              -> encoder.layers.{}.self_attention.v
    GROUP.attention.dense                              -> encoder.layers.{}.self_attention.o
    GROUP.attention.LayerNorm                          -> encoder.layers.{}.self_attention_norm
    GROUP.ffn                                          -> encoder.layers.{}.ffn.up
    GROUP.ffn_output                                   -> encoder.layers.{}.ffn.down
    GROUP.full_layer_layer_norm                        -> encoder.layers.{}.ffn_norm
    albert.pooler                                      -> head.pooler
    predictions.dense                                  -> head.transform.dense
    predictions.LayerNorm                              -> head.transform.norm
    predictions.decoder                                -> head.output
    predictions                                        -> head
    sop_classifier.classifier                          -> head.pair
    classifier                                         -> head.classifier
    qa_outputs                                         -> head.span
"""

FAMILY = BertKind(
    model_type="albert",
    entries=table(NAMES.replace("GROUP", GROUP)),
    architectures=architectures("Albert", pairs="AlbertForPreTraining"),
    prefix="albert.",
    uses=COMMON | {"embedding_size"},
    keys=KEYS | {"classifier_dropout": "classifier_dropout_prob"},
    shared_layers=True,
    default_activation="gelu_new",
    ignored=(r"albert\.embeddings\.position_ids",),
    copies=(("predictions.decoder.bias", "predictions.bias"),),
)
