"""How well a model does what it was pre-trained for, where that is not to predict next tokens: masked tokens, spans.

The rows, and what is hidden in them, are the same in every evaluation of a text: two models of one tokenizer answer the
same questions. A run's own evaluations are made in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from wenlu.core import plugins
from wenlu.core.errors import RequestError
from wenlu.core.log import notice
from wenlu.core.setting_types import fields
from wenlu.core.settings import changed
from wenlu.core.version import __version__
from wenlu.data.store import TokenStore
from wenlu.evaluation.contestants import Contestant
from wenlu.evaluation.corpus import Corpus, StoreCorpus
from wenlu.evaluation.documents import EvaluationText, encode_texts
from wenlu.evaluation.evaluator import Summary
from wenlu.metrics import significance
from wenlu.metrics.significance import Interval, ratio_interval
from wenlu.models.roles import causal_model, masked_model
from wenlu.tasks._base import CorpusObjective, Score, TaskSettings
from wenlu.tasks._held_out import HeldOut, held_out
from wenlu.tokenization.tokenizer import Tokenizer
from wenlu.training.run import read_settings

_ASIDE = ("name", "chunk_rows")  # settings that change no score


@dataclass(frozen=True)
class ObjectiveEvaluation:
    """The scores with their definitions and counts; intervals are over rows."""

    scores: Mapping[str, Score]
    intervals: Mapping[str, Interval | None]
    definition: str
    rows: Mapping[str, list[float]]

    @property
    def measures(self) -> dict[str, tuple[float, Interval | None]]:
        """What models are compared by; accuracy is shown beside it."""
        return {name: (self.scores[name].value, interval) for name, interval in self.intervals.items()}

    @property
    def by_language(self) -> Mapping[str, Summary]:
        """Rows hold documents of all languages."""
        return {}

    def costs(self, language: str | None = None) -> tuple[list[float], list[float]]:
        """Nats and targets of each row."""
        assert language is None, "rows hold documents of all languages"
        return self.rows["nats"], self.rows["targets"]

    def as_record(self) -> dict[str, object]:
        """For JSON: each score as an object, its interval as a pair."""
        record: dict[str, object] = {"definition": self.definition}
        for name, score in self.scores.items():
            interval = self.intervals.get(name)
            pair = None if interval is None else [interval.low, interval.high]
            record[name] = {**asdict(score), "interval": pair}
        return record

    def documents_record(self) -> dict[str, list[float]]:
        """One column a sum of the rows, for the report file."""
        return dict(self.rows)


def objective_of(contestant: Contestant) -> CorpusObjective | None:
    """The objective of a model that does not predict next tokens, with the settings of its run; None for one that does.

    Raises:
        SettingsError: ``core.unknown_plugin`` for a task that is not known here.
    """
    module = plugins.load("wenlu.tasks", contestant.bundle.task)
    settings = module.SETTINGS()
    if contestant.run is not None and contestant.run.has_settings():
        settings = read_settings(contestant.run).value.task
    task = module.create(settings)
    return task if isinstance(task, CorpusObjective) else None


def common_objective(contestants: Sequence[Contestant]) -> CorpusObjective | None:
    """What all of these models are compared by; None where all predict next tokens.

    Where their objectives or settings differ, encoders are compared as masked language models, encoder-decoders of one
    task by that one, with default settings; it is announced.

    Raises:
        RequestError: ``evaluation.no_common_objective``, ``evaluation.other_tokenizers``; ``models.encoder_not_causal``
            and others for a model that has no output for words.
    """
    objectives = [objective_of(one) for one in contestants]
    given = [objective for objective in objectives if objective is not None]
    if not given:
        return None
    said, tokenizers = {}, {}
    for one, objective in zip(contestants, objectives, strict=True):
        if objective is None:
            causal_model(one.bundle.model)
        said[one.name] = one.bundle.task if objective is None else _named(objective.settings)
        tokenizers[one.name] = one.bundle.tokenizer.fingerprint[:12]
    names = {objective.settings.name for objective in given}
    if all(objective.architecture == "encoder" for objective in given):
        names = {"masked_lm"}
    if len(given) < len(objectives) or len(names) > 1:
        raise RequestError("evaluation.no_common_objective", models=_listed(said))
    if len(set(tokenizers.values())) > 1:
        raise RequestError("evaluation.other_tokenizers", models=_listed(tokenizers))
    if len(set(said.values())) == 1:
        return given[0]
    module = plugins.load("wenlu.tasks", *names)
    common: CorpusObjective = module.create(module.SETTINGS())
    notice("evaluation.common_objective", models=_listed(said), chosen=_named(common.settings))
    return common


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def evaluate_objective(
    contestant: Contestant,
    objective: CorpusObjective,
    corpus: Corpus,
    *,
    texts: Iterable[EvaluationText] | None = None,
    sequence_length: int,
    max_tokens: int = 0,
    choice: str = "all",
) -> ObjectiveEvaluation:
    """Score a model on rows of ``sequence_length`` columns, all or (``max_tokens`` above 0) a fixed sample of them.

    The rows are of the corpus, or of some ``texts`` of it; ``choice`` says in the definition which ones.

    Raises:
        RequestError: ``models.not_masked``, ``models.no_vocabulary_head``.
    """
    if objective.architecture == "encoder":
        masked_model(contestant.bundle.model)
    model, tokenizer = contestant.bundle.model, contestant.bundle.tokenizer
    store = _tokens(corpus, tokenizer, texts)
    found = held_out(objective, model, store, tokenizer, sequence_length=sequence_length, max_tokens=max_tokens)
    choice = f"sample-of-{max_tokens}-tokens" if max_tokens and max_tokens < store.num_tokens else choice
    rows, intervals = _by_row(found)
    definition = _definition(objective.settings, sequence_length, choice)
    return ObjectiveEvaluation(found.scores, intervals, definition, rows)


def _by_row(found: HeldOut) -> tuple[dict[str, list[float]], dict[str, Interval | None]]:
    """The sums of each row, and the intervals of the ratios of these sums."""
    rows = {
        "targets": [float(len(part.labels)) for part in found.parts],
        "nats": [-float(part.log_probs.sum()) for part in found.parts],
        "counted": [float(part.is_text.sum()) for part in found.parts],
        "hits": [float(part.hits) for part in found.parts],
    }
    loss, accuracy = (ratio_interval(rows[a], rows[b]) for a, b in (("nats", "targets"), ("hits", "counted")))
    return rows, {"loss": loss, "accuracy": accuracy}


def _definition(settings: TaskSettings, sequence_length: int, choice: str) -> str:
    """What the numbers mean, in one line; numbers of one tokenizer are comparable where these lines are equal."""
    parts = (_named(settings), f"columns:{sequence_length}", "draws:fixed", f"rows:{choice}")
    return "|".join([*parts, significance.signature().replace("document", "row"), f"wenlu:{__version__}"])


def _named(settings: TaskSettings) -> str:
    """The task, and what is not as usual in it."""
    given = changed(settings, "task", [key for key in fields(type(settings)) if key not in _ASIDE])
    return "|".join([settings.name, *(f"{key.removeprefix('task.')}:{value}" for key, value in given.items())])


def _tokens(corpus: Corpus, tokenizer: Tokenizer, texts: Iterable[EvaluationText] | None) -> TokenStore:
    """The corpus, or some texts of it, as one split of a store, where it is not one already."""
    if texts is None and isinstance(corpus, StoreCorpus) and corpus.fits(tokenizer):
        return corpus.tokens
    documents = list(corpus.documents(tokenizer) if texts is None else encode_texts(texts, tokenizer))
    ids = [document.ids.tolist() for document in documents]
    store = TokenStore.from_documents(ids, end_id=tokenizer.end_id, vocab_size=tokenizer.vocab_size)
    names = sorted({document.language for document in documents})
    store.language_names = tuple(names)
    store.languages = np.array([names.index(document.language) for document in documents], dtype=np.uint16)
    files = [document.source for document in documents if document.source is not None]
    store.files = np.unique(files, return_inverse=True)[1].astype(np.uint32) if len(files) == len(documents) else None
    return store
