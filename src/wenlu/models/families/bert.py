"""BERT (Devlin et al. 2019): an encoder with segments, a pooler, and a head that judges pairs of sentences."""

from __future__ import annotations

from wenlu.models.families._bert import KEYS, BertKind, architectures
from wenlu.models.families._transformer import table

LAYERS = """
    {p}.embeddings.word_embeddings                     -> encoder.embeddings.token
    {p}.embeddings.position_embeddings                 -> encoder.embeddings.position
    {p}.embeddings.token_type_embeddings               -> encoder.embeddings.segment
    {p}.embeddings.LayerNorm                           -> encoder.embeddings.norm
    {p}.encoder.layer.{}.attention.self.query          -> encoder.layers.{}.self_attention.q
    {p}.encoder.layer.{}.attention.self.key            -> encoder.layers.{}.self_attention.k
    {p}.encoder.layer.{}.attention.self.value          -> encoder.layers.{}.self_attention.v
    {p}.encoder.layer.{}.attention.output.dense        -> encoder.layers.{}.self_attention.o
    {p}.encoder.layer.{}.attention.output.LayerNorm    -> encoder.layers.{}.self_attention_norm
    {p}.encoder.layer.{}.intermediate.dense            -> encoder.layers.{}.ffn.up
    {p}.encoder.layer.{}.output.dense                  -> encoder.layers.{}.ffn.down
    {p}.encoder.layer.{}.output.LayerNorm              -> encoder.layers.{}.ffn_norm
    {p}.pooler.dense                                   -> head.pooler
    qa_outputs                                         -> head.span
"""
HEADS = """
    cls.predictions.transform.dense                    -> head.transform.dense
    cls.predictions.transform.LayerNorm                -> head.transform.norm
    cls.predictions.decoder                            -> head.output
    cls.predictions                                    -> head
    cls.seq_relationship                               -> head.pair
    classifier                                         -> head.classifier
"""

FAMILY = BertKind(
    model_type="bert",
    entries=table(LAYERS.replace("{p}", "bert")) + table(HEADS),
    architectures=architectures("Bert", pairs="BertForPreTraining"),
    prefix="bert.",
    keys=KEYS,
    ignored=(r"bert\.embeddings\.position_ids",),
    copies=(("cls.predictions.decoder.bias", "cls.predictions.bias"),),
)
