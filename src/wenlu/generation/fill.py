"""What is hidden in a text: a masked language model reads both sides of each mask and says what may stand there.

Every mask is judged by itself, with all others hidden (Devlin et al. 2019, section 3.1).

N masks, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wenlu.core.errors import NotFiniteError, RequestError
from wenlu.generation.batches import in_batches
from wenlu.models.roles import masked_model
from wenlu.models.transformer import Transformer
from wenlu.tokenization.masks import MaskedText, encode_masked, unmasked
from wenlu.tokenization.tokenizer import Tokenizer

DEFAULT_TOP = 5
_MASKS_AT_ONCE = 256


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


@torch.inference_mode()
def fill(model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], *, top: int = DEFAULT_TOP) -> list[Filled]:
    """Guess what is hidden in each text; the model is left in the mode it was in.

    Texts of like length are read together, which changes results by rounding only.
    Probabilities are those of the model over its whole vocabulary.

    Raises:
        RequestError: the model is no masked one (see ``models.roles``); ``generation.no_mask`` for a text without one,
            ``generation.top``; ``generation.masked_too_long`` for a text that is longer than the model.
        TokenizerError: ``tokenization.no_mask_token``.
        NotFiniteError: ``generation.mask_not_finite``.
    """
    if top < 1:
        raise RequestError("generation.top", found=top)
    encoder = masked_model(model)
    masked = [encode_masked(tokenizer, text, where=str(number)) for number, text in enumerate(texts, start=1)]
    rows, limit = [tokenizer.with_special_tokens(one.ids).ids for one in masked], encoder.max_positions
    for number, (one, row) in enumerate(zip(masked, rows, strict=True), start=1):
        if not one.spans:
            raise RequestError("generation.no_mask", number=number, text=one.text[:40])
        if limit is not None and len(row) > limit:
            raise RequestError("generation.masked_too_long", number=number, tokens=len(row), limit=limit)
    known = torch.tensor(tokenizer.ids())
    best: dict[int, list[Guessed]] = {}
    for batch in in_batches(encoder, rows, tokenizer.pad_id, encoder.hidden, shown="generation.filling"):
        places_N2 = ((batch.ids == tokenizer.mask_id) & batch.mask).nonzero()
        guessed = _likeliest(encoder, batch.states[places_N2.unbind(dim=1)], known, top)
        for row, ids in zip(places_N2[:, 0].tolist(), guessed, strict=True):
            best.setdefault(batch.numbers[row], []).append(ids)
    return [_filled(tokenizer, one, number, best[number]) for number, one in enumerate(masked)]


Guessed = list[tuple[int, float]]
"""The likeliest ids for a mask with their probabilities, the best first."""


def _likeliest(encoder: Transformer, states_ND: Tensor, known: Tensor, top: int) -> Iterator[Guessed]:
    """For each mask; probabilities are made in float32 on the processor, for some masks at a time."""
    for part_ND in torch.split(states_ND, _MASKS_AT_ONCE):
        probabilities_NV = encoder.logits(part_ND).float().cpu().softmax(dim=-1)
        values, indices = probabilities_NV[:, known].topk(min(top, len(known)), dim=-1)
        for ids, probabilities in zip(known[indices].tolist(), values.tolist(), strict=True):
            yield list(zip(ids, probabilities, strict=True))


def _filled(tokenizer: Tokenizer, masked: MaskedText, number: int, best: list[Guessed]) -> Filled:
    """The text with what was guessed for each of its masks."""
    if not all(math.isfinite(guessed[0][1]) for guessed in best):
        raise NotFiniteError("generation.mask_not_finite", number=number + 1)
    masks = []
    for place, (span, guessed) in enumerate(zip(masked.spans, best, strict=True)):
        guesses = [Guess(tokenizer.token(id), id, p, unmasked(tokenizer, masked, {place: id})) for id, p in guessed]
        masks.append(Mask(*span, tuple(guesses)))
    likeliest = {place: guessed[0][0] for place, guessed in enumerate(best)}
    return Filled(masked.text, unmasked(tokenizer, masked, likeliest), tuple(masks))
