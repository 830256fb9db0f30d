"""Log-probabilities of documents, or of one text, under a language model: one rule of windows for every model.

A document with tokens d[0], ..., d[n-1] (the last one the end token) has n slots: the model reads the token that stands
before texts (``Tokenizer.context_id``) and d[0], ..., d[n-2] and predicts d[0], ..., d[n-1]. So every token is a target
exactly once. Windows of ``context`` slots begin ``stride`` slots apart; each scores what no window before it has,
with positions counted from 0::

    context 6, stride 3     slots  0 1 2 3 4 5 6 7 8 9
    window 1                       S S S S S S            S scored
    window 2                             . . . S S S      . context only
    window 3                                   . . . S

B windows, S slots of the longest of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wenlu.core.errors import NotFiniteError, RequestError, SettingsError
from wenlu.evaluation.documents import TokenizedDocument
from wenlu.metrics.language_model import bits_per_byte, bits_per_character, charged_nats, perplexity
from wenlu.metrics.significance import Floats, finite
from wenlu.models.config import LanguageModel
from wenlu.models.device import device_of
from wenlu.models.heads import IGNORE_INDEX
from wenlu.models.roles import causal_model
from wenlu.tokenization.tokenizer import Tokenizer

# A processor is busy with few slots, and rows of like length waste fewer; what more of them compute is new memory.
SLOTS_PER_BATCH_ON_CPU = 1024
SLOTS_PER_BATCH = 4096
_SLOTS_AT_ONCE = 65536


@dataclass(frozen=True)
class DocumentScore:
    """What one document costs a model. ``nats`` are the model's own; ``charged`` those that reports count."""

    nats: float
    tokens: int
    num_bytes: float
    num_characters: float
    language: str
    lossless: bool
    cut: bool = False

    @property
    def charged(self) -> float:
        """Nats by which bits per byte and per character are counted: 8 bits a byte for what does not round-trip."""
        return charged_nats(self.nats, self.num_bytes, lossless=self.lossless)


@dataclass(frozen=True)
class Windows:
    """The window rule: at most ``context`` slots, begun ``stride`` slots apart.

    Raises:
        SettingsError: ``evaluation.window`` unless 1 <= stride <= context.
    """

    context: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.context:
            raise SettingsError("evaluation.window", context=self.context, stride=self.stride)

    def of(self, num_slots: int) -> Iterator[tuple[int, int, int]]:
        """(start, first scored slot, end) of each window of a document."""
        scored, start = 0, 0
        while scored < num_slots:
            end = min(start + self.context, num_slots)
            yield start, scored, end
            scored, start = end, start + self.stride


_Row = tuple[int, int, int, int]
"""One row of a batch: the number of its document, and start, first scored slot and end of its window."""


def token_log_probs(
    model: LanguageModel, documents: Iterable[TokenizedDocument], *, context_id: int, windows: Windows
) -> Iterator[Floats]:
    """Natural-log probability of every token of each document, document by document.

    Documents are gathered until they fill some batches, and windows of like length are read together, as many as suit
    the device, which changes results by rounding only. The model is left in the mode it was in.

    Raises:
        RequestError: ``evaluation.context_too_long``, or the model does not read from left to right.
        NotFiniteError: ``evaluation.not_finite`` when the model gives NaN.
    """
    module = cast(nn.Module, model)
    causal_model(module)
    if model.max_positions is not None and windows.context > model.max_positions:
        raise RequestError("evaluation.context_too_long", context=windows.context, max_positions=model.max_positions)
    slots_per_batch = SLOTS_PER_BATCH_ON_CPU if device_of(module).type == "cpu" else SLOTS_PER_BATCH
    was_training = module.training
    try:
        for group in _groups(documents, max(_SLOTS_AT_ONCE, slots_per_batch)):
            if module.training:  # the walk over all modules is as long as the scoring of a short text
                module.eval()
            texts = [np.concatenate([[context_id], document.ids]) for document in group]
            results = [np.zeros(document.size) for document in group]
            rows = [(number, *row) for number, document in enumerate(group) for row in windows.of(document.size)]
            rows.sort(key=_slots, reverse=True)
            while rows:
                number = max(1, slots_per_batch // _slots(rows[0]))
                _score(model, rows[:number], texts, results)
                rows = rows[number:]
            yield from results
    finally:
        if was_training:
            module.train()


def score_documents(
    model: LanguageModel, documents: Iterable[TokenizedDocument], *, context_id: int, windows: Windows
) -> Iterator[DocumentScore]:
    """The sums of each document, in order, streamed; arguments and errors as for ``token_log_probs``."""
    documents, read = itertools.tee(documents)
    scored = token_log_probs(model, read, context_id=context_id, windows=windows)
    for one, log_probs in zip(documents, scored, strict=True):
        counted = one.size, one.num_bytes, one.num_characters
        yield DocumentScore(-math.fsum(log_probs), *counted, one.language, one.lossless, one.cut)


@dataclass(frozen=True)
class TokenScore:
    """One token: ``start`` and ``end`` are its characters in the text, ``log_prob`` is natural."""

    token: str
    id: int
    start: int
    end: int
    log_prob: float


@dataclass(frozen=True)
class TextScore:
    """The probability of a text, from the start of a document on.

    With ``end_counted`` the last token is the end token and the total is that of the whole document, as in
    ``wenlu evaluate``; else it is the probability that a document begins with this text. ``log_prob`` is in nats.
    Bits per byte and per character are None for an empty text. Of a text that the tokenizer cannot give back
    (``lossless`` false) they are 8 bits a byte, and the rest is the probability of what the tokenizer kept.
    """

    tokens: tuple[TokenScore, ...]
    end_counted: bool
    lossless: bool
    num_bytes: int
    num_characters: int
    log_prob: float
    perplexity: float
    bits: float
    bits_per_byte: float | None
    bits_per_character: float | None

    def as_record(self) -> dict[str, object]:
        """For JSON, which has no infinity."""
        record = asdict(self)
        return {name: finite(value) if isinstance(value, float) else value for name, value in record.items()}


def score_text(
    model: LanguageModel, tokenizer: Tokenizer, text: str, *, windows: Windows, count_end: bool = True
) -> TextScore:
    """Score a text as the beginning of a document, or (``count_end``) as a whole one.

    Raises:
        RequestError: ``evaluation.empty_text`` for an empty text without its end.
    """
    encoding = tokenizer.encode_with_offsets(text, where="text")
    ids, spans = list(encoding.ids), list(encoding.offsets)
    lossless = tokenizer.round_trips(text, ids)
    if count_end:
        ids.append(tokenizer.end_id)
        spans.append((len(text), len(text)))
    if not ids:
        raise RequestError("evaluation.empty_text")
    num_bytes = len(text.encode())
    document = TokenizedDocument(np.array(ids, dtype=np.int64), num_bytes, len(text), "", lossless)
    [log_probs] = token_log_probs(model, [document], context_id=tokenizer.context_id, windows=windows)
    total = math.fsum(log_probs)
    charged = charged_nats(-total, num_bytes, lossless=lossless)
    pairs = zip(ids, spans, log_probs, strict=True)
    tokens = tuple(TokenScore(tokenizer.token(id), id, *span, float(log_prob)) for id, span, log_prob in pairs)
    rates = (bits_per_byte(charged, num_bytes), bits_per_character(charged, len(text))) if text else (None, None)
    measures = total, perplexity(-total, len(ids)), -total / math.log(2), *rates
    return TextScore(tokens, count_end, lossless, num_bytes, len(text), *measures)


def _groups(documents: Iterable[TokenizedDocument], slots: int) -> Iterator[list[TokenizedDocument]]:
    group: list[TokenizedDocument] = []
    size = 0
    for document in documents:
        group.append(document)
        size += document.size
        if size >= slots:
            yield group
            group, size = [], 0
    if group:
        yield group


def _slots(row: _Row) -> int:
    _, start, _, end = row
    return end - start


@torch.no_grad()
def _score(
    model: LanguageModel, rows: Sequence[_Row], texts: Sequence[npt.NDArray[np.int64]], results: Sequence[Floats]
) -> None:
    """Put the log-probabilities of the rows where they belong; a text begins with the token that stands before it.

    Rows are padded at the right, where causal models do not look; a padded slot has no label.
    """
    shape, device = (len(rows), _slots(rows[0])), device_of(cast(nn.Module, model))
    inputs, labels = np.full(shape, texts[0][0]), np.full(shape, IGNORE_INDEX)
    for index, (number, start, scored, end) in enumerate(rows):
        inputs[index, : end - start] = texts[number][start:end]
        labels[index, scored - start : end - start] = texts[number][scored + 1 : end + 1]
    log_probs_BS = model.target_log_probs(*(torch.from_numpy(ids).to(device) for ids in (inputs, labels))).cpu()
    if bool(torch.isnan(log_probs_BS).any()):
        raise NotFiniteError("evaluation.not_finite")
    values = log_probs_BS.double().numpy()
    for index, (number, start, scored, end) in enumerate(rows):
        results[number][scored:end] = values[index, scored - start : end - start]
