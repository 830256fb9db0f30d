"""BART (Lewis et al. 2020): the encoder-decoder of 2017 with learned positions and a norm after the embeddings.

In training, their classifier for rows has a dropout before both its matrices, ours before the last.
"""

from __future__ import annotations

from wenlu.models.families._bart import EMBEDDINGS, STACKS, BartKind
from wenlu.models.families._transformer import table

HEADS = """
    model.shared                   -> encoder.embeddings.token
    lm_head                        -> head.output
    qa_outputs                     -> head.span
"""
OF_ROWS = """
    classification_head.dense      -> head.pooler
    classification_head.out_proj   -> head.classifier
"""

FAMILY = BartKind(
    model_type="bart",
    entries=table(HEADS)
    + table("final_logits_bias -> head.bias", form="row")
    + table(OF_ROWS, only="sequence")
    + STACKS,
    architectures={
        "BartForConditionalGeneration": frozenset({"language_model"}),
        "BartForSequenceClassification": frozenset({"pooler", "sequence"}),
        "BartForQuestionAnswering": frozenset({"span"}),
    },
    position_offset=2,
    outer_norms=frozenset({"embedding"}),
    copies=EMBEDDINGS,
)
