"""From the scores of documents to what a report shows: loss, perplexity, bits per byte and character, with intervals.

The trainer's evaluations and ``wenlu evaluate`` both end here, so that the number in a run's log is the number of
``wenlu evaluate`` for the same documents and limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import nn

from wenlu.core.errors import DataError
from wenlu.core.log import progress
from wenlu.core.version import __version__
from wenlu.data.store import TokenStore
from wenlu.evaluation.documents import TokenizedDocument, sample_documents, store_documents
from wenlu.evaluation.scoring import DocumentScore, Windows, score_documents
from wenlu.metrics.language_model import bits_per_byte, bits_per_character, perplexity
from wenlu.metrics.score import Score
from wenlu.metrics.significance import Interval, finite, ratio_interval, signature
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
        values = {name: finite(value) if isinstance(value, float) else value for name, value in vars(self).items()}
        return {name: [one.low, one.high] if isinstance(one, Interval) else one for name, one in values.items()}


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
        by_language = {language: summary.as_record() for language, summary in self.by_language.items()}
        return {"definition": self.definition, **self.total.as_record(), "by_language": by_language}

    @property
    def rows(self) -> Mapping[str, Sequence[Any]]:
        """One column a field of the documents' scores, for the report file."""
        return {field.name: [getattr(score, field.name) for score in self.scores] for field in fields(DocumentScore)}


@dataclass(frozen=True)
class TaskEvaluation:
    """How well a model does another task: scores with their intervals, and a column for what is known of each row."""

    scores: Mapping[str, Score]
    rows: Mapping[str, Sequence[Any]]
    definition: str

    by_language: ClassVar[Mapping[str, Summary]] = {}
    """Rows hold documents of all languages."""

    @property
    def measures(self) -> dict[str, tuple[float, Interval | None]]:
        """What models of one objective are compared by; accuracy is shown beside it."""
        return {name: (one.value, one.interval) for name, one in self.scores.items() if name in ("loss", "accuracy")}

    def costs(self, language: str | None = None) -> tuple[Sequence[float], Sequence[float]]:
        """Nats and targets of each row of an objective."""
        assert language is None, "rows hold documents of all languages"
        return self.rows["nats"], self.rows["targets"]

    def as_record(self) -> dict[str, object]:
        """For JSON: each score as an object, its interval as a pair."""
        return {"definition": self.definition, **{name: score.as_record() for name, score in self.scores.items()}}


Scored = Evaluation | TaskEvaluation
"""An evaluation of any kind, as a report tells of it.

Where models are compared, ``measures`` has first what they are ranked by: the ratio of the two ``costs``.
"""


def definition(windows: Windows, *, choice: str = "all", start_token: bool = False) -> str:
    """What the numbers mean, in one line that stands beside them; runs are comparable where these lines are equal.

    A document is read after the tokenizer's ``start_token``, or else after its end token (``Tokenizer.context_id``).
    """
    start = "start" if start_token else "end"
    return (
        f"bits-per-byte|context:{windows.context}|stride:{windows.stride}|start:{start}-token|end-token:scored"
        f"|bytes:original-utf8|lossy:8-bits-a-byte|documents:{choice}|{signature()}|wenlu:{__version__}"
    )


def summarize(scores: Sequence[DocumentScore], *, intervals: bool = True) -> Summary:
    """Add up the documents; intervals take a while.

    Raises:
        DataError: ``evaluation.no_documents``.
    """
    if not scores:
        raise DataError("evaluation.no_documents")
    nats, tokens = math.fsum(score.nats for score in scores), sum(score.tokens for score in scores)
    charged, to_bits = [score.charged for score in scores], 1 / math.log(2)
    bits = [to_bits * value for value in charged]
    sizes, characters = [score.num_bytes for score in scores], [score.num_characters for score in scores]
    return Summary(
        documents=len(scores),
        tokens=tokens,
        num_bytes=math.fsum(sizes),
        num_characters=math.fsum(characters),
        loss=nats / tokens,
        perplexity=perplexity(nats, tokens),
        bits_per_byte=bits_per_byte(math.fsum(charged), math.fsum(sizes)),
        bits_per_byte_interval=ratio_interval(bits, sizes) if intervals else None,
        bits_per_character=bits_per_character(math.fsum(charged), math.fsum(characters)),
        bits_per_character_interval=ratio_interval(bits, characters) if intervals else None,
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
        total_tokens = sum(document.size for document in documents)
    scores: list[DocumentScore] = []
    with progress("evaluation.scoring", total=total_tokens, unit="tokens") as bar:
        for score in score_documents(model, documents, context_id=context_id, windows=windows):
            scores.append(score)
            bar.advance(score.tokens)
    total = summarize(scores)
    languages = sorted({score.language for score in scores})
    by_language = {name: summarize([score for score in scores if score.language == name]) for name in languages}
    choice = f"sample-of-{max_tokens}-tokens" if max_tokens else choice
    meaning = definition(windows, choice=choice, start_token=context_id != end_id)
    return Evaluation(tuple(scores), total, by_language, meaning)


def evaluate_split(
    model: nn.Module, store: TokenStore, settings: EvaluateSettings, *, context: int, max_tokens: int
) -> dict[str, float]:
    """What the trainer logs: loss (nats a token) and bits per byte of one split; ``max_tokens`` 0 means all of it."""
    language_model = causal_model(model)
    windows = default_windows(language_model, context=context, stride=settings.stride)
    documents: Iterable[TokenizedDocument] = store_documents(store)
    if max_tokens and max_tokens < store.num_tokens:
        documents = sample_documents(documents, max_tokens)
    scores = score_documents(language_model, documents, context_id=store.context_id, windows=windows)
    found = summarize(list(scores), intervals=False)
    return {"loss": found.loss, "bits_per_byte": found.bits_per_byte}


def default_windows(model: LanguageModel, *, context: int = 0, stride: int = 0) -> Windows:
    """The window rule where 0 means not given: ``DEFAULT_CONTEXT`` or what the model can read, half of it as stride."""
    if not context:
        context = min(DEFAULT_CONTEXT, model.max_positions or DEFAULT_CONTEXT)
    return Windows(context, stride or max(1, context // 2))
