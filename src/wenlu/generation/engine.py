"""The generation engine: token ids in, token ids out, for any language model with a cache.

It knows nothing of text. Who does hands in ``stop``, which is told every new token and may end its sequence.

B sequences still running, S tokens of the prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from wenlu.core.errors import NotFiniteError, RequestError
from wenlu.generation.sampling import Sampler
from wenlu.generation.settings import DEFAULT_NEW_TOKENS, GenerationSettings
from wenlu.models.config import Cache, LanguageModel
from wenlu.models.device import device_of
from wenlu.models.roles import causal_model

FinishReason = Literal["stop", "length", "end"]
"""Why a text ended: a stop string, a bound of its length, or an end token that the model produced."""

StopCheck = Callable[[int, int], bool]
"""Told (number of the sequence, new token id), says whether this sequence ends here."""


class Step(NamedTuple):
    """One new token of one sequence.

    ``log_prob`` is the model's own natural-log probability, before penalties, temperature and filters.
    """

    sequence: int
    token_id: int
    log_prob: float
    finish_reason: FinishReason | None


class Room(NamedTuple):
    """What fits: how many tokens of the prompt are dropped at its start, and how many new ones may follow."""

    dropped: int
    new_tokens: int


def room(num_prompt_tokens: int, settings: GenerationSettings, *, max_positions: int | None) -> Room:
    """Decide the bound of the length, and whether the prompt must and may be cut.

    The model reads the start token, the prompt, and all new tokens but the last, so prompt and continuation together
    may be ``max_positions`` tokens long. A bound that the user asked for is a promise: if it does not fit it is refused
    (or, with ``overlong="cut"``, the start of the prompt is dropped); the default bound is lowered to what fits.

    Raises:
        RequestError: ``generation.max_length_reached``, ``generation.prompt_too_long``, ``generation.does_not_fit``,
            ``generation.longer_than_model``.
    """
    asked = [settings.max_new_tokens] if settings.max_new_tokens is not None else []
    if settings.max_length is not None:
        if num_prompt_tokens >= settings.max_length:
            sizes = {"prompt_tokens": num_prompt_tokens, "max_length": settings.max_length}
            raise RequestError("generation.max_length_reached", **sizes)
        asked.append(settings.max_length - num_prompt_tokens)
    new_tokens = min(asked, default=max(DEFAULT_NEW_TOKENS, settings.min_new_tokens))
    if max_positions is None or new_tokens <= (left := max_positions - num_prompt_tokens):
        return Room(0, new_tokens)
    if not asked and left >= max(1, settings.min_new_tokens):
        return Room(0, left)
    if not asked:
        new_tokens = min(new_tokens, max(max_positions // 2, settings.min_new_tokens, 1))
    if new_tokens > max_positions:
        raise RequestError("generation.longer_than_model", new_tokens=new_tokens, max_positions=max_positions)
    if settings.overlong == "cut":
        return Room(new_tokens - left, new_tokens)
    sizes = {"prompt_tokens": num_prompt_tokens, "max_positions": max_positions}
    if left < 1:
        raise RequestError("generation.prompt_too_long", **sizes)
    raise RequestError("generation.does_not_fit", **sizes, new_tokens=new_tokens, left=left)


def stream(
    model: LanguageModel,
    prompt_ids: Sequence[int],
    settings: GenerationSettings,
    *,
    start_id: int | None,
    end_ids: Collection[int] = (),
    suppressed: Collection[int] = (),
    stop: StopCheck | None = None,
) -> Iterator[Step]:
    """Continue a prompt, token by token; the sequences of one position come one after another.

    The prompt is read as the beginning of a document, after ``start_id``; an empty one starts a new document. A prompt
    that was cut is read without ``start_id``, as it begins in the middle of one; so is any prompt where ``start_id`` is
    None, as it brings its own. ``end_ids`` (default: the settings', else ``start_id``) end a sequence; ``suppressed``
    ids are never produced. The model is left in the mode it was in.

    Raises:
        RequestError: the prompt does not fit (see ``room``), or the model does not read from left to right.
        NotFiniteError: ``generation.not_finite`` when the model's logits are.
    """
    module = cast(nn.Module, model)
    causal_model(module)
    fit = room(len(prompt_ids), settings, max_positions=model.max_positions)
    kept = list(prompt_ids[fit.dropped :])
    context = kept if start_id is None or (fit.dropped and kept) else [start_id, *kept]
    assert context, "a prompt without a start token is not empty"
    ends = frozenset(end_ids or settings.end_token_ids or (() if start_id is None else (start_id,)))
    device = device_of(module)
    sampler = Sampler(settings, kept, vocab_size=model.vocab_size, device=device)
    always = torch.tensor(sorted(set(suppressed) - ends), dtype=torch.long, device=device)
    early = torch.tensor(sorted({*suppressed, *ends}), dtype=torch.long, device=device)
    running = list(range(settings.num_sequences))
    was_training = module.training
    module.eval()
    try:
        cache = model.new_cache(1, len(context) + fit.new_tokens - 1)
        inputs_BS = torch.tensor([context], dtype=torch.long, device=device)
        for position in range(fit.new_tokens):
            logits_BV = _next_logits(model, inputs_BS, cache, position=position)
            if position == 0 and len(running) > 1:
                cache.reorder(torch.zeros(len(running), dtype=torch.long, device=device))
                logits_BV = logits_BV.expand(len(running), -1)
            forbidden = early if position < settings.min_new_tokens else always
            ids_B = sampler.choose(logits_BV, sequences=running, position=position, forbidden=forbidden)
            log_probs = logits_BV.log_softmax(dim=-1).gather(-1, ids_B[:, None])[:, 0].tolist()
            going = []
            for row, (number, token_id) in enumerate(zip(running, ids_B.tolist(), strict=True)):
                reason: FinishReason | None = None
                if token_id in ends:
                    reason = "end"
                elif stop is not None and stop(number, token_id):
                    reason = "stop"
                elif position + 1 == fit.new_tokens:
                    reason = "length"
                else:
                    going.append(row)
                yield Step(number, token_id, log_probs[row], reason)
            if not going:
                return
            if len(going) < len(running):
                kept_rows = torch.tensor(going, device=device)
                cache.reorder(kept_rows)
                running = [running[row] for row in going]
                ids_B = ids_B[kept_rows]
            inputs_BS = ids_B[:, None]
    finally:
        module.train(was_training)


@torch.inference_mode()
def _next_logits(model: LanguageModel, inputs_BS: Tensor, cache: Cache, *, position: int) -> Tensor:
    """Logits (B, V) after the last of the new tokens; only there is the vocabulary-sized output computed."""
    logits_BV = model.logits(model.hidden(inputs_BS, cache=cache)[:, -1]).float()
    refuse_not_finite(logits_BV, position=position)
    return logits_BV


def refuse_not_finite(logits_BV: Tensor, *, position: int) -> None:
    """Refuse logits of which nothing can be chosen; ``position`` counts the new tokens.

    Raises:
        NotFiniteError: ``generation.not_finite``.
    """
    if not bool(torch.isfinite(logits_BV.amax(dim=-1)).all()):  # NaN comes through; minus infinity may stand below it
        raise NotFiniteError("generation.not_finite", position=position)
