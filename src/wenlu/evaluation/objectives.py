"""How well a model does what it was pre-trained for, where that is not to predict next tokens: masked tokens, spans.

The rows, and what is hidden in them, are the same in every evaluation of a text: two models of one tokenizer answer the
same questions. A run's own evaluations are made in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from wenlu.core import plugins
from wenlu.core.errors import RequestError
from wenlu.core.log import notice
from wenlu.core.setting_types import fields
from wenlu.core.settings import changed
from wenlu.core.version import __version__
from wenlu.data.store import TokenStore
from wenlu.evaluation.contestants import Contestant
from wenlu.evaluation.documents import Corpus
from wenlu.evaluation.evaluator import TaskEvaluation
from wenlu.metrics.significance import ratio_interval, signature
from wenlu.models.roles import causal_model, masked_model
from wenlu.tasks._base import CorpusObjective, TaskSettings
from wenlu.tasks._held_out import held_out
from wenlu.tokenization.tokenizer import Tokenizer
from wenlu.training.run import read_settings

_ASIDE = ("name", "chunk_rows")  # settings that change no score


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
    sequence_length: int,
    max_tokens: int = 0,
    choice: str = "all",
) -> TaskEvaluation:
    """Score a model on rows of ``sequence_length`` columns, all or (``max_tokens`` above 0) a fixed sample of them.

    ``choice`` says in the definition which texts the corpus has; intervals are over rows.

    Raises:
        RequestError: ``models.not_masked``, ``models.no_vocabulary_head``.
    """
    if objective.architecture == "encoder":
        masked_model(contestant.bundle.model)
    model, tokenizer = contestant.bundle.model, contestant.bundle.tokenizer
    store = _tokens(corpus, tokenizer)
    found = held_out(objective, model, store, tokenizer, sequence_length=sequence_length, max_tokens=max_tokens)
    rows = {
        "targets": [float(len(part.labels)) for part in found.parts],
        "nats": [-float(part.log_probs.sum()) for part in found.parts],
        "counted": [float(part.is_text.sum()) for part in found.parts],
        "hits": [float(part.hits) for part in found.parts],
    }
    ratios = {"loss": (rows["nats"], rows["targets"]), "accuracy": (rows["hits"], rows["counted"])}
    intervals = {name: ratio_interval(*sums) for name, sums in ratios.items()}
    scores = {name: replace(score, interval=intervals.get(name)) for name, score in found.scores.items()}
    choice = f"sample-of-{max_tokens}-tokens" if max_tokens and max_tokens < store.num_tokens else choice
    drawn = (f"columns:{sequence_length}", "draws:fixed", f"rows:{choice}", signature(unit="row"))
    return TaskEvaluation(scores, rows, "|".join([_named(objective.settings), *drawn, f"wenlu:{__version__}"]))


def _named(settings: TaskSettings) -> str:
    """The task, and what is not as usual in it."""
    given = changed(settings, "task", [key for key in fields(type(settings)) if key not in _ASIDE])
    return "|".join([settings.name, *(f"{key.removeprefix('task.')}:{value}" for key, value in given.items())])


def _tokens(corpus: Corpus, tokenizer: Tokenizer) -> TokenStore:
    """The corpus as one split of a store, where it is not one already."""
    if (tokens := corpus.tokens_of(tokenizer)) is not None:
        return tokens
    documents = list(corpus.documents(tokenizer))
    ids = [document.ids.tolist() for document in documents]
    store = TokenStore.from_documents(ids, end_id=tokenizer.end_id, vocab_size=tokenizer.vocab_size)
    names, languages = np.unique([document.language for document in documents], return_inverse=True)
    store.language_names, store.languages = tuple(names.tolist()), languages.astype(np.uint16)
    files = [document.source for document in documents if document.source is not None]
    store.files = np.unique(files, return_inverse=True)[1].astype(np.uint32) if len(files) == len(documents) else None
    return store
