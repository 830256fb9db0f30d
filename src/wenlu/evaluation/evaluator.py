"""From the scores of documents to what a report shows: loss, perplexity, bits per byte and character, with intervals.

The trainer's evaluations and ``wenlu evaluate`` both end here, so that the number in a run's log is the number of
``wenlu evaluate`` for the same documents and limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import nn

from wenlu.core.errors import DataError
from wenlu.core.log import progress
from wenlu.core.version import __version__
from wenlu.data.store import TokenStore
from wenlu.evaluation.documents import TokenizedDocument, sample_documents, store_documents
from wenlu.evaluation.scoring import DocumentScore, Windows, score_documents
from wenlu.metrics import significance
from wenlu.metrics.language_model import bits_per_byte, bits_per_character, perplexity
from wenlu.metrics.significance import Interval, finite, ratio_interval
from wenlu.models.config import LanguageModel
from wenlu.models.roles import causal_model
from wenlu.training.settings import EvaluateSettings

DEFAULT_CONTEXT = 512


@dataclass(frozen=True)
class Summary:
    """What a set of documents costs a model. ``loss`` is in nats a token; intervals are over documents.

    ``loss`` and ``perplexity`` count the model's own probabilities; bits count 8 bits a byte for the
    ``charged_documents``, which the tokenizer cannot give back. ``cut_documents`` were scored up to the limit only.
    """

    documents: int
    tokens: int
    num_bytes: float
    num_characters: float
    loss: float
    perplexity: float
    bits_per_byte: float
    bits_per_byte_interval: Interval | None
    bits_per_character: float
    bits_per_character_interval: Interval | None
    charged_documents: int
    cut_documents: int

    def as_record(self) -> dict[str, object]:
        """For JSON: intervals as pairs, infinity as null."""
        record: dict[str, object] = {}
        for name, value in asdict(self).items():
            if name.endswith("_interval"):
                record[name] = None if value is None else [value["low"], value["high"]]
            else:
                record[name] = finite(value) if isinstance(value, float) else value
        return record


@dataclass(frozen=True)
class Evaluation:
    """The documents' scores, their summary in all and by language, and the definition of the numbers."""

    scores: tuple[DocumentScore, ...]
    total: Summary
    by_language: Mapping[str, Summary]
    definition: str

    @property
    def measures(self) -> dict[str, tuple[float, Interval | None]]:
        """What models are compared by."""
        return {"bits_per_byte": (self.total.bits_per_byte, self.total.bits_per_byte_interval)}

    def costs(self, language: str | None = None) -> tuple[list[float], list[float]]:
        """Bits and bytes of each document, of all or of one language."""
        scores = [score for score in self.scores if language in (None, score.language)]
        return [score.charged / math.log(2) for score in scores], [score.num_bytes for score in scores]

    def as_record(self) -> dict[str, object]:
        """The summaries for JSON."""
        return {
            "definition": self.definition,
            **self.total.as_record(),
            "by_language": {language: summary.as_record() for language, summary in self.by_language.items()},
        }

    def documents_record(self) -> dict[str, list[object]]:
        """One column a field of the documents' scores, for the report file."""
        names = ("nats", "tokens", "num_bytes", "num_characters", "language", "lossless", "cut")
        return {name: [getattr(score, name) for score in self.scores] for name in names}


def definition(windows: Windows, *, choice: str = "all", start_token: bool = False) -> str:
    """What the numbers mean, in one line that stands beside them; runs are comparable where these lines are equal.

    A document is read after the tokenizer's ``start_token``, or else after its end token (``Tokenizer.context_id``).
    """
    parts = (
        "bits-per-byte",
        f"context:{windows.context}",
        f"stride:{windows.stride}",
        f"start:{'start' if start_token else 'end'}-token",
        "end-token:scored",
        "bytes:original-utf8",
        "lossy:8-bits-a-byte",
        f"documents:{choice}",
        significance.signature(),
        f"wenlu:{__version__}",
    )
    return "|".join(parts)


def summarize(scores: Sequence[DocumentScore]) -> Summary:
    """Add up the documents."""
    nats, charged = math.fsum(score.nats for score in scores), [score.charged for score in scores]
    tokens = sum(score.tokens for score in scores)
    sizes, characters = [score.num_bytes for score in scores], [score.num_characters for score in scores]
    to_bits = 1 / math.log(2)
    bits = [to_bits * value for value in charged]
    return Summary(
        documents=len(scores),
        tokens=tokens,
        num_bytes=math.fsum(sizes),
        num_characters=math.fsum(characters),
        loss=nats / tokens,
        perplexity=perplexity(nats, tokens),
        bits_per_byte=bits_per_byte(math.fsum(charged), math.fsum(sizes)),
        bits_per_byte_interval=ratio_interval(bits, sizes),
        bits_per_character=bits_per_character(math.fsum(charged), math.fsum(characters)),
        bits_per_character_interval=ratio_interval(bits, characters),
        charged_documents=sum(not score.lossless for score in scores),
        cut_documents=sum(score.cut for score in scores),
    )


def evaluate_documents(
    model: LanguageModel,
    documents: Iterable[TokenizedDocument],
    *,
    context_id: int,
    end_id: int,
    windows: Windows,
    max_tokens: int = 0,
    total_tokens: int | None = None,
    choice: str = "all",
) -> Evaluation:
    """Score documents, all of them or (``max_tokens`` above 0) a sample.

    ``total_tokens`` is their number where known; ``choice`` says in the definition which documents the caller chose.

    Raises:
        DataError: ``evaluation.no_documents``.
        RequestError: ``evaluation.context_too_long``.
    """
    if total_tokens is not None and max_tokens >= total_tokens:
        max_tokens = 0
    if max_tokens:
        documents = sample_documents(documents, max_tokens)
        total_tokens = sum(len(document.ids) for document in documents)
    scores: list[DocumentScore] = []
    with progress("evaluation.scoring", total=total_tokens, unit="tokens") as bar:
        for score in score_documents(model, documents, context_id=context_id, windows=windows):
            scores.append(score)
            bar.advance(score.tokens)
    if not scores:
        raise DataError("evaluation.no_documents")
    by_language = {
        language: summarize([score for score in scores if score.language == language])
        for language in sorted({score.language for score in scores})
    }
    choice = f"sample-of-{max_tokens}-tokens" if max_tokens else choice
    meaning = definition(windows, choice=choice, start_token=context_id != end_id)
    return Evaluation(tuple(scores), summarize(scores), by_language, meaning)


def evaluate_split(
    model: nn.Module, store: TokenStore, settings: EvaluateSettings, *, context: int, max_tokens: int
) -> dict[str, float]:
    """What the trainer logs: loss (nats a token) and bits per byte of one split; ``max_tokens`` 0 means all of it."""
    language_model = causal_model(model)
    windows = default_windows(language_model, context=context, stride=settings.stride)
    documents: Iterable[TokenizedDocument] = store_documents(store)
    if max_tokens and max_tokens < store.num_tokens:
        documents = sample_documents(documents, max_tokens)
    scores = list(score_documents(language_model, documents, context_id=store.context_id, windows=windows))
    if not scores:
        raise DataError("evaluation.no_documents")
    nats, charged = math.fsum(score.nats for score in scores), math.fsum(score.charged for score in scores)
    return {
        "loss": nats / sum(score.tokens for score in scores),
        "bits_per_byte": bits_per_byte(charged, math.fsum(score.num_bytes for score in scores)),
    }


def default_windows(model: LanguageModel, *, context: int = 0, stride: int = 0) -> Windows:
    """The window rule where 0 means not given: ``DEFAULT_CONTEXT`` or what the model can read, half of it as stride."""
    if not context:
        context = min(DEFAULT_CONTEXT, model.max_positions or DEFAULT_CONTEXT)
    return Windows(context, stride or max(1, context // 2))
