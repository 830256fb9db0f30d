"""RoBERTa (Liu et al. 2019): BERT whose positions begin at 2, without pairs; a classifier with a layer of its own.

Their positions begin after the number of the padding token and are counted without it: in their files it is always 1.
In training, their classifier for rows has a dropout before both its matrices, ours before the last.
"""

from __future__ import annotations

from wenlu.models.families._bert import BertKind, architectures, keys
from wenlu.models.families._tables import table
from wenlu.models.families.bert import LAYERS

HEADS = """
    lm_head.{dense,layer_norm}     -> head.transform.{dense,norm}
    lm_head.decoder                -> head.output
    lm_head.bias                   -> head.bias
"""

FAMILY = BertKind(
    model_type="roberta",
    entries=table("classifier.{dense,out_proj} -> head.{pooler,classifier}", only="sequence")
    + table("classifier -> head.classifier", only="token")
    + table(LAYERS.replace("{p}", "roberta"))
    + table(HEADS),
    architectures=architectures("Roberta"),
    prefix="roberta.",
    keys=keys(),
    position_offset=2,
    new={"type_vocab_size": 1},
    ignored=(r"roberta\.embeddings\.position_ids", r"roberta\.pooler\..*"),  # a classifier uses no pooler
    copies=(("lm_head.decoder.bias", "lm_head.bias"),),
)
