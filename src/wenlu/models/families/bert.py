"""BERT (Devlin et al. 2019): an encoder with segments, a pooler, and a head that judges pairs of sentences."""

from __future__ import annotations

from wenlu.models.families._bert import BertKind, architectures, keys
from wenlu.models.families._tables import table

LAYERS = """
    {p}.embeddings.{word,position,token_type}_embeddings   -> encoder.embeddings.{token,position,segment}
    {p}.embeddings.LayerNorm                               -> encoder.embeddings.norm
    {p}.encoder.layer.{}.attention.self.{query,key,value}  -> encoder.layers.{}.self_attention.{q,k,v}
    {p}.encoder.layer.{}.attention.output.dense            -> encoder.layers.{}.self_attention.o
    {p}.encoder.layer.{}.attention.output.LayerNorm        -> encoder.layers.{}.self_attention_norm
    {p}.encoder.layer.{}.intermediate.dense                -> encoder.layers.{}.ffn.up
    {p}.encoder.layer.{}.output.dense                      -> encoder.layers.{}.ffn.down
    {p}.encoder.layer.{}.output.LayerNorm                  -> encoder.layers.{}.ffn_norm
    {p}.pooler.dense                                       -> head.pooler
    qa_outputs                                             -> head.span
"""
HEADS = """
    cls.predictions.transform.{dense,LayerNorm}            -> head.transform.{dense,norm}
    cls.predictions.decoder                                -> head.output
    cls.predictions.bias                                   -> head.bias
    cls.seq_relationship                                   -> head.pair
    classifier                                             -> head.classifier
"""

FAMILY = BertKind(
    model_type="bert",
    entries=table(LAYERS.replace("{p}", "bert")) + table(HEADS),
    architectures=architectures("Bert", pairs="BertForPreTraining"),
    prefix="bert.",
    keys=keys(),
    ignored=(r"bert\.embeddings\.position_ids",),
    copies=(("cls.predictions.decoder.bias", "cls.predictions.bias"),),
)
