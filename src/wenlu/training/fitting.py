"""Models that are fitted by counting, not by steps; they fill the same run directory."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path

from wenlu.bundle import save_bundle
from wenlu.core.log import Notice
from wenlu.core.publication import publish
from wenlu.core.runs import Run
from wenlu.core.settings import Resolved, refuse_changed, to_toml, unused_setting
from wenlu.data.store import Store
from wenlu.models import ngram
from wenlu.models.config import given
from wenlu.training.preparation import open_store
from wenlu.training.resolution import check_windows
from wenlu.training.results import Evaluate, RunResult, describe_data, describe_process, finished_result
from wenlu.training.settings import RunSettings

FITTED_KINDS = frozenset({"ngram"})
_READ = {  # by the fit, its record and its evaluation; max_tokens by the other models that share a settings file
    "train": ("seed", "sequence_length"),
    **dict.fromkeys(("optimizer", "schedule", "lora"), ()),
    "evaluate": ("context", "stride", "max_tokens", "final_max_tokens"),
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
    size, end_id, context_id = store.tokenizer.vocab_size, store.train.end_id, store.train.context_id
    order = given(settings.model.order, ngram.MAX_ORDER)
    model = ngram.fit(store.train, order=order, vocab_size=size, end_id=end_id, context_id=context_id)
    seconds = time.perf_counter() - started
    run.append_log({"event": "fit", "step": 1, "tokens": store.train.num_tokens, "seconds": seconds})
    if evaluate is not None and store.validation.num_tokens:
        context = rule.context or settings.train.sequence_length
        scores = dict(evaluate(model, store.validation, rule, context=context, max_tokens=rule.final_max_tokens))
        run.append_log({"event": "final_evaluation", "step": 1, **scores})
        run.write_status(evaluation=scores)

    def write(directory: Path) -> None:
        provenance = {"run": run.path.resolve().name, "data": store.train.fingerprint}
        save_bundle(directory, model=model, tokenizer=store.tokenizer, task=settings.task.name, provenance=provenance)

    publish(run.path / "final", write, replace=(run.path / "final").exists())
    run.write_status(state="finished", step=1, seconds=seconds, ended=time.time(), error=None)
    return finished_result(run)
