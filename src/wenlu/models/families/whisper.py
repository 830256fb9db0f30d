"""Whisper (Radford et al. 2022): an encoder of spectrograms, a decoder of text; keys have no bias.

The encoder's sinusoids are in its files, so they are a table like any other here.
"""

from __future__ import annotations

from wenlu.models.config import ALL_BIASES
from wenlu.models.families._bart import STACKS, BartKind
from wenlu.models.families._tables import table

OWN = """
    model.encoder.{conv1,conv2}    -> encoder.embeddings.spectrogram.{first,second}
    model.decoder.embed_tokens     -> decoder.embeddings.token
    proj_out                       -> head.output
"""

FAMILY = BartKind(
    model_type="whisper",
    entries=table(OWN) + STACKS,
    architectures={"WhisperForConditionalGeneration": frozenset({"language_model"})},
    norm_placement="before",
    outer_norms=frozenset({"final"}),
    biases=ALL_BIASES - {"k"},
    head_bias=False,
    spectrograms=True,
)
