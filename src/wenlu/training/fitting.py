"""Models that are fitted by counting, not by steps; they fill the same run directory."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path

from torch import nn

from wenlu.bundle import save_bundle
from wenlu.core.log import Notice
from wenlu.core.runs import Run, publish
from wenlu.core.settings import Resolved, refuse_changed, to_toml, unused_setting
from wenlu.data.store import Store
from wenlu.models import ngram
from wenlu.models.config import given
from wenlu.training.preparation import check_windows, open_store
from wenlu.training.results import Evaluate, RunResult, last_evaluation
from wenlu.training.settings import RunSettings
from wenlu.training.status import describe_data, describe_process

FITTED_KINDS = frozenset({"ngram"})
_READ = {  # by the fit, its record and its evaluation; max_tokens by the other models that share a settings file
    "train": {"seed", "sequence_length"},
    "optimizer": set[str](),
    "schedule": set[str](),
    "evaluate": {"context", "stride", "max_tokens", "final_max_tokens"},
    "lora": set[str](),
}


def prepare_fitting(settings: RunSettings, *, store: Store | None = None) -> Store:
    """Check the settings and open the corpus.

    Raises:
        SettingsError: ``core.setting_unused`` for a setting of steps, optimizers or schedules, or for ``model.start``;
            ``models.setting_unused``, ``ngram.order``.
    """
    because = Notice("training.because", {"setting": "model.kind", "value": settings.model.kind})
    for table, read in _READ.items():
        keys = [field.name for field in fields(getattr(settings, table)) if field.name not in read]
        refuse_changed(getattr(settings, table), table, keys, because=because)
    if settings.model.start is not None:
        raise unused_setting("model.start", settings.model.start, because=because)
    settings.model.refuse_unused(frozenset({"order"}))
    ngram.check_order(given(settings.model.order, ngram.MAX_ORDER))
    check_windows(settings, None)
    return store or open_store(settings)


def fit_run(run: Run, resolved: Resolved[RunSettings], store: Store, evaluate: Evaluate | None) -> RunResult:
    """Fit the model, score it, and publish it as the final model of the run."""
    settings, rule = resolved.value, resolved.value.evaluate
    run.write_settings(to_toml(resolved))
    run.write_status(state="running", step=0, **describe_process(settings))
    run.write_data(describe_data(store))
    run.cut_log(-1)
    started = time.perf_counter()
    model = _fit(settings, store)
    seconds = time.perf_counter() - started
    run.append_log({"event": "fit", "step": 1, "tokens": store.train.num_tokens, "seconds": seconds})
    if evaluate is not None and store.validation.num_tokens:
        context = rule.context or settings.train.sequence_length
        scores = dict(evaluate(model, store.validation, rule, context=context, max_tokens=rule.final_max_tokens))
        run.append_log({"event": "final_evaluation", "step": 1, **scores})
        run.write_status(evaluation=scores)
    final = run.path / "final"

    def write(directory: Path) -> None:
        provenance = {"run": run.path.resolve().name, "data": store.train.fingerprint}
        save_bundle(directory, model=model, tokenizer=store.tokenizer, task=settings.task.name, provenance=provenance)

    publish(final, write, replace=final.exists())
    run.write_status(state="finished", step=1, seconds=seconds, ended=time.time(), error=None)
    return RunResult(run.path, "finished", 0, 1, seconds, final, last_evaluation(run))


def _fit(settings: RunSettings, store: Store) -> nn.Module:
    """Count the training split: the n-gram model of the order that ``model.order`` asks for."""
    order = given(settings.model.order, ngram.MAX_ORDER)
    train = store.train
    return ngram.fit(
        train, order=order, vocab_size=store.tokenizer.vocab_size, end_id=train.end_id, context_id=train.context_id
    )
