"""What a model can be asked for: to go on with a text, to say what is hidden in one, or for the states of one.

Each question has one door here, which gives the model with the calls that answer it, or says what to use instead.
"""

from __future__ import annotations

from typing import Literal, cast

from torch import nn

from wenlu.core.errors import RequestError
from wenlu.models.config import LanguageModel
from wenlu.models.transformer import Transformer

Architecture = Literal["encoder", "decoder", "encoder_decoder"]


def architecture(model: nn.Module) -> Architecture:
    """What a model is; all that are no Transformers read from left to right."""
    if not isinstance(model, Transformer) or model.encoder is None:
        return "decoder"
    return "encoder" if model.decoder is None else "encoder_decoder"


def causal_model(model: nn.Module) -> LanguageModel:
    """The model as one that reads a text from left to right.

    Raises:
        RequestError: ``models.encoder_not_causal``, ``models.source_missing`` for an encoder-decoder, which writes only
            in answer to a source, ``models.no_vocabulary_head``.
    """
    found = architecture(model)
    if found == "encoder":
        raise RequestError("models.encoder_not_causal", kind=_kind(model))
    if found == "encoder_decoder":
        raise RequestError("models.source_missing", kind=_kind(model))
    refuse_headless(model)
    return cast(LanguageModel, model)


def masked_model(model: nn.Module) -> Transformer:
    """The model as one that says what is hidden in a text, from both sides.

    Raises:
        RequestError: ``models.not_masked``, ``models.no_vocabulary_head``.
    """
    if architecture(model) != "encoder":
        raise RequestError("models.not_masked", kind=_kind(model))
    refuse_headless(model)
    return cast(Transformer, model)


def text_encoder(model: nn.Module) -> Transformer:
    """The model as one whose encoder gives the states of a text.

    Raises:
        RequestError: ``models.no_text_encoder``.
    """
    if not isinstance(model, Transformer) or model.encoder is None or model.encoder.embeddings.token is None:
        raise RequestError("models.no_text_encoder", kind=_kind(model))
    return model


def refuse_headless(model: nn.Module) -> None:
    """Refuse a Transformer that has no head for words.

    Raises:
        RequestError: ``models.no_vocabulary_head``.
    """
    if isinstance(model, Transformer) and "language_model" not in model.config.heads:
        heads = ", ".join(sorted(model.config.heads)) or "-"
        raise RequestError("models.no_vocabulary_head", kind=_kind(model), heads=heads)


def _kind(model: nn.Module) -> str:
    return (model.kind if isinstance(model, Transformer) else None) or type(model).__name__
