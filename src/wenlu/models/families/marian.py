"""Marian (Junczys-Dowmunt et al. 2018): the Transformer of 2017, sinusoidal positions and norms after sublayers.

A new model of this kind is that of Vaswani et al. 2017, with its ReLU; published ones for translation have SiLU.
"""

from __future__ import annotations

from wenlu.models.families._bart import EMBEDDINGS, STACKS, BartKind
from wenlu.models.families._tables import table

HEADS = """
    model.shared                   -> encoder.embeddings.token
    lm_head                        -> head.output
"""

FAMILY = BartKind(
    model_type="marian",
    entries=table(HEADS) + table("final_logits_bias -> head.bias", form="row") + STACKS,
    architectures={"MarianMTModel": frozenset({"language_model"})},
    position="sinusoidal",
    new={"activation_function": "relu", "scale_embedding": True},
    ignored=(r"model\.(encoder|decoder)\.embed_positions\.weight",),  # computed
    copies=EMBEDDINGS,
)
