"""BART (Lewis et al. 2020): the encoder-decoder of 2017 with learned positions and a norm after the embeddings.

In training, their classifier for rows has a dropout before both its matrices, ours before the last.
"""

from __future__ import annotations

from wenlu.models.families._bart import EMBEDDINGS, STACKS, BartKind
from wenlu.models.families._tables import table

HEADS = """
    model.shared                   -> encoder.embeddings.token
    lm_head                        -> head.output
    qa_outputs                     -> head.span
"""

FAMILY = BartKind(
    model_type="bart",
    entries=table(HEADS)
    + table("final_logits_bias -> head.bias", form="row")
    + table("classification_head.{dense,out_proj} -> head.{pooler,classifier}", only="sequence")
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
