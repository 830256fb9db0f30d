"""DistilBERT (Sanh et al. 2019): BERT without segments and pooler; its classifier has a layer of its own.

In training, their attention output has no dropout and their head for answers has one; here it is the other way round.
"""

from __future__ import annotations

from wenlu.models.families._bert import ACTIVATIONS, POSITIONS, BertKind, architectures
from wenlu.models.families._tables import Key, table

NAMES = """
    distilbert.embeddings.{word,position}_embeddings           -> encoder.embeddings.{token,position}
    distilbert.embeddings.LayerNorm                            -> encoder.embeddings.norm
    distilbert.transformer.layer.{}.attention.{q,k,v,out}_lin  -> encoder.layers.{}.self_attention.{q,k,v,o}
    distilbert.transformer.layer.{}.sa_layer_norm              -> encoder.layers.{}.self_attention_norm
    distilbert.transformer.layer.{}.ffn.{lin1,lin2}            -> encoder.layers.{}.ffn.{up,down}
    distilbert.transformer.layer.{}.output_layer_norm          -> encoder.layers.{}.ffn_norm
    {vocab_transform,vocab_layer_norm}                         -> head.transform.{dense,norm}
    vocab_projector                                            -> head.output
    vocab_projector.bias                                       -> head.bias
    {pre_classifier,classifier}                                -> head.{pooler,classifier}
    qa_outputs                                                 -> head.span
"""

FAMILY = BertKind(
    model_type="distilbert",
    entries=table(NAMES),
    architectures=architectures("DistilBert", pooled=False),
    prefix="distilbert.",
    keys=(
        Key("dim", "hidden_size"),
        Key("n_layers", "num_layers"),
        Key("n_heads", "num_heads"),
        Key("hidden_dim", "intermediate_size"),
        POSITIONS,
        Key("activation", "activation", "gelu", ACTIVATIONS),
        Key("dropout", "residual_dropout embedding_dropout", 0.1),
        Key("attention_dropout", "attention_dropout", 0.1),
    ),
    classifier_dropout="seq_classif_dropout",
    pooler_activation="relu",
)
