"""DistilBERT (Sanh et al. 2019): BERT without segments and pooler; its classifier has a layer of its own.

In training, their attention output has no dropout and their head for answers has one; here it is the other way round.
"""

from __future__ import annotations

from wenlu.models.families._bert import BertKind, architectures
from wenlu.models.families._transformer import table

NAMES = """
    distilbert.embeddings.word_embeddings              -> encoder.embeddings.token
    distilbert.embeddings.position_embeddings          -> encoder.embeddings.position
    distilbert.embeddings.LayerNorm                    -> encoder.embeddings.norm
    distilbert.transformer.layer.{}.attention.q_lin    -> encoder.layers.{}.self_attention.q
    distilbert.transformer.layer.{}.attention.k_lin    -> encoder.layers.{}.self_attention.k
    distilbert.transformer.layer.{}.attention.v_lin    -> encoder.layers.{}.self_attention.v
    distilbert.transformer.layer.{}.attention.out_lin  -> encoder.layers.{}.self_attention.o
    distilbert.transformer.layer.{}.sa_layer_norm      -> encoder.layers.{}.self_attention_norm
    distilbert.transformer.layer.{}.ffn.lin1           -> encoder.layers.{}.ffn.up
    distilbert.transformer.layer.{}.ffn.lin2           -> encoder.layers.{}.ffn.down
    distilbert.transformer.layer.{}.output_layer_norm  -> encoder.layers.{}.ffn_norm
    vocab_transform                                    -> head.transform.dense
    vocab_layer_norm                                   -> head.transform.norm
    vocab_projector                                    -> head.output
    vocab_projector                                    -> head
    pre_classifier                                     -> head.pooler
    classifier                                         -> head.classifier
    qa_outputs                                         -> head.span
"""
KEYS = {
    "hidden_size": "dim",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "max_positions": "max_position_embeddings",
    "activation": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "classifier_dropout": "seq_classif_dropout",
}

FAMILY = BertKind(
    model_type="distilbert",
    entries=table(NAMES),
    architectures=architectures("DistilBert", pooled=False),
    prefix="distilbert.",
    keys=KEYS,
    segments=None,
    norm_eps=1e-12,
    pooler_activation="relu",
)
