"""ALBERT (Lan et al. 2020): BERT with one layer used again and again, and small embeddings that a matrix widens.

In training, their feed-forward output has no dropout and their judge of pairs has one; here it is the other way round.
"""

from __future__ import annotations

from wenlu.models.families._bert import BertKind, architectures, keys
from wenlu.models.families._tables import Key, table
from wenlu.models.families._transformer import COMMON

GROUP = "albert.encoder.albert_layer_groups.{}.albert_layers.0"
NAMES = """
    albert.embeddings.{word,position,token_type}_embeddings -> encoder.embeddings.{token,position,segment}
    albert.embeddings.LayerNorm                             -> encoder.embeddings.norm
    albert.encoder.embedding_hidden_mapping_in              -> encoder.embeddings.projection
    GROUP.attention.{query,key,value,dense}                 -> encoder.layers.{}.self_attention.{q,k,v,o}
    GROUP.attention.LayerNorm                               -> encoder.layers.{}.self_attention_norm
    GROUP.{ffn,ffn_output}                                  -> encoder.layers.{}.ffn.{up,down}
    GROUP.full_layer_layer_norm                             -> encoder.layers.{}.ffn_norm
    albert.pooler                                           -> head.pooler
    predictions.{dense,LayerNorm}                           -> head.transform.{dense,norm}
    predictions.decoder                                     -> head.output
    predictions.bias                                        -> head.bias
    sop_classifier.classifier                               -> head.pair
    classifier                                              -> head.classifier
    qa_outputs                                              -> head.span
"""

FAMILY = BertKind(
    model_type="albert",
    entries=table(NAMES.replace("GROUP", GROUP)),
    architectures=architectures("Albert", pairs="AlbertForPreTraining"),
    prefix="albert.",
    uses=COMMON | {"embedding_size"},
    keys=keys(
        "gelu_new", Key("num_hidden_groups", "num_distinct_layers", 1), Key("embedding_size", "embedding_size", 128)
    ),
    required={"inner_group_num": 1},
    classifier_dropout="classifier_dropout_prob",
    ignored=(r"albert\.embeddings\.position_ids",),
    copies=(("predictions.decoder.bias", "predictions.bias"),),
)
