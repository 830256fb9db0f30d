"""What is hidden in a text: a masked language model reads both sides of each mask and says what may stand there.

Every mask is judged by itself, with all others hidden (Devlin et al. 2019, section 3.1).

S tokens of the text with its special ones, N masks, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from wenlu.core.errors import NotFiniteError, RequestError
from wenlu.models.config import LanguageModel
from wenlu.models.device import device_of
from wenlu.models.roles import masked_model
from wenlu.tokenization.masks import encode_masked, unmasked
from wenlu.tokenization.tokenizer import Tokenizer

DEFAULT_TOP = 5


@dataclass(frozen=True)
class Guess:
    """One token for a mask, its probability, and the text with it; other masks stay in it as they are written."""

    token: str
    id: int
    probability: float
    text: str


@dataclass(frozen=True)
class Mask:
    """One mask: its characters in the text, and the likeliest tokens, the best first."""

    start: int
    end: int
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Filled:
    """A text with masks, and (``filled``) with the likeliest token in the place of each."""

    text: str
    filled: str
    masks: tuple[Mask, ...]


def fill(model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], *, top: int = DEFAULT_TOP) -> list[Filled]:
    """Guess what is hidden in each text; the model is left in the mode it was in.

    Probabilities are those of the model over its whole vocabulary.

    Raises:
        RequestError: the model is no masked one (see ``models.roles``); ``generation.no_mask`` for a text without one,
            ``generation.top``; ``models.too_long`` for a text that is longer than the model.
        TokenizerError: ``tokenization.no_mask_token``.
        NotFiniteError: ``generation.mask_not_finite``.
    """
    if top < 1:
        raise RequestError("generation.top", found=top)
    masked = masked_model(model)
    was_training = masked.training
    masked.eval()
    try:
        return [_fill(masked, tokenizer, text, number, top) for number, text in enumerate(texts, start=1)]
    finally:
        masked.train(was_training)


def _fill(model: nn.Module, tokenizer: Tokenizer, text: str, number: int, top: int) -> Filled:
    masked = encode_masked(tokenizer, text, where=str(number))
    if not masked.spans:
        raise RequestError("generation.no_mask", number=number, text=text[:40])
    known = torch.tensor(tokenizer.ids())
    top = min(top, len(known))
    ids = tokenizer.with_special_tokens(masked.ids).ids
    probabilities_NV = _probabilities(model, ids, cast(int, tokenizer.mask_id), number)
    best = [part.tolist() for part in probabilities_NV[:, known].topk(top, dim=-1)]
    masks = []
    likeliest: dict[int, int] = {}
    for place, ((start, end), values, indices) in enumerate(zip(masked.spans, *best, strict=True)):
        chosen = known[indices].tolist()
        likeliest[place] = chosen[0]
        guesses = [
            Guess(tokenizer.token(id), id, probability, unmasked(tokenizer, masked, {place: id}))
            for id, probability in zip(chosen, values, strict=True)
        ]
        masks.append(Mask(start, end, tuple(guesses)))
    return Filled(text, unmasked(tokenizer, masked, likeliest), tuple(masks))


@torch.inference_mode()
def _probabilities(model: nn.Module, ids: list[int], mask_id: int, number: int) -> Tensor:
    """Probabilities (N, V) of what each mask hides, in float32 on the processor; logits are made at masks alone."""
    encoder = cast(LanguageModel, model)
    ids_1S = torch.tensor([ids], device=device_of(model))
    logits_NV = encoder.logits(encoder.hidden(ids_1S)[ids_1S == mask_id]).float().cpu()
    if not bool(torch.isfinite(logits_NV.amax(dim=-1)).all()):
        raise NotFiniteError("generation.mask_not_finite", number=number)
    return logits_NV.softmax(dim=-1)
