"""The probability of one text under a model, token by token."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from wenlu.core.errors import RequestError
from wenlu.evaluation.documents import TokenizedDocument
from wenlu.evaluation.scoring import Windows, token_log_probs
from wenlu.metrics.language_model import bits_per_byte, bits_per_character, charged_nats, perplexity
from wenlu.metrics.significance import finite
from wenlu.models.config import LanguageModel
from wenlu.tokenization.tokenizer import Tokenizer


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
        for name in ("log_prob", "perplexity", "bits", "bits_per_byte", "bits_per_character"):
            record[name] = None if record[name] is None else finite(record[name])
        return record


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
    return TextScore(
        tokens=tuple(
            TokenScore(tokenizer.token(token_id), token_id, start, end, float(log_prob))
            for token_id, (start, end), log_prob in zip(ids, spans, log_probs, strict=True)
        ),
        end_counted=count_end,
        lossless=lossless,
        num_bytes=num_bytes,
        num_characters=len(text),
        log_prob=total,
        perplexity=perplexity(-total, len(ids)),
        bits=-total / math.log(2),
        bits_per_byte=bits_per_byte(charged, num_bytes) if text else None,
        bits_per_character=bits_per_character(charged, len(text)) if text else None,
    )
