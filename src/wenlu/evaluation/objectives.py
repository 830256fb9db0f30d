"""How well a model does what it was pre-trained for, where that is not to predict next tokens: masked tokens, spans.

The rows, and what is hidden in them, are the same in every evaluation of a text: two models of one tokenizer answer the
same questions. A run's own evaluations are made in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from wenlu.core import plugins
from wenlu.core.setting_types import fields
from wenlu.core.settings import changed
from wenlu.core.version import __version__
from wenlu.data.store import TokenStore
from wenlu.evaluation.contestants import Contestant
from wenlu.evaluation.corpus import Corpus, StoreCorpus
from wenlu.evaluation.documents import TokenizedDocument, encode_texts, file_texts
from wenlu.metrics import significance
from wenlu.metrics.significance import Interval, ratio_interval
from wenlu.models.roles import masked_model
from wenlu.tasks._base import CorpusObjective, Score, TaskSettings
from wenlu.tasks._held_out import HeldOut, held_out
from wenlu.tokenization.tokenizer import Tokenizer
from wenlu.training.run import read_settings


@dataclass(frozen=True)
class ObjectiveEvaluation:
    """The scores with their definitions and counts; intervals are over rows."""

    scores: Mapping[str, Score]
    intervals: Mapping[str, Interval | None]
    definition: str
    rows: Mapping[str, list[float]]

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


def evaluate_objective(
    contestant: Contestant, objective: CorpusObjective, corpus: Corpus, *, sequence_length: int, max_tokens: int = 0
) -> ObjectiveEvaluation:
    """Score a model on rows of ``sequence_length`` columns, all or (``max_tokens`` above 0) a fixed sample of them.

    Raises:
        RequestError: ``models.not_masked``, ``models.no_vocabulary_head``.
    """
    if objective.architecture == "encoder":
        masked_model(contestant.bundle.model)
    tokenizer = contestant.bundle.tokenizer
    store = _tokens(corpus, tokenizer)
    model = contestant.bundle.model
    found = held_out(objective, model, store, tokenizer, sequence_length=sequence_length, max_tokens=max_tokens)
    choice = f"sample-of-{max_tokens}-tokens" if max_tokens and max_tokens < store.num_tokens else "all"
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
    keys = [key for key in fields(type(settings)) if key not in ("name", "chunk_rows")]
    given = [f"{key.removeprefix('task.')}:{value}" for key, value in changed(settings, "task", keys).items()]
    parts = [settings.name, *given, f"columns:{sequence_length}", "draws:fixed", f"rows:{choice}"]
    return "|".join([*parts, significance.signature().replace("document", "row"), f"wenlu:{__version__}"])


def _tokens(corpus: Corpus, tokenizer: Tokenizer) -> TokenStore:
    """The text as one split of a store, where it is not one already; a path that was given is a source."""
    if isinstance(corpus, StoreCorpus):
        if corpus.fits(tokenizer):
            return corpus.tokens
        documents = list(corpus.documents(tokenizer))
        files = None if corpus.tokens.files is None else corpus.tokens.files[corpus.tokens.lossless]
        return _in_memory(documents, tokenizer, files)
    parts = [list(encode_texts(file_texts([path]), tokenizer)) for path in corpus.paths]
    sources = np.repeat(np.arange(len(parts), dtype=np.uint32), [len(part) for part in parts])
    return _in_memory([document for part in parts for document in part], tokenizer, sources)


def _in_memory(documents: list[TokenizedDocument], tokenizer: Tokenizer, files: np.ndarray | None) -> TokenStore:
    ids = [document.ids.tolist() for document in documents]
    store = TokenStore.from_documents(ids, end_id=tokenizer.end_id, vocab_size=tokenizer.vocab_size)
    names = sorted({document.language for document in documents})
    store.language_names = tuple(names)
    store.languages = np.array([names.index(document.language) for document in documents], dtype=np.uint16)
    store.files = files
    return store
