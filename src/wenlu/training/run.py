"""A run directory from its settings to its final model: the consumer of the trainer's steps.

    train_run(resolved, path, evaluate=...)     from settings to a finished run
    resume_run(path, evaluate=...)              goes on from the newest whole checkpoint, bit for bit

Stopping is a part of running: a signal lets the step end, saves, and leaves; after a kill the newest checkpoint and the
log, cut back to it, are the run.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

from wenlu.bundle import save_bundle
from wenlu.core.errors import CheckpointError, SettingsError, Terminated, WenluError
from wenlu.core.log import Progress, notice, progress, warn
from wenlu.core.publication import MANIFEST, check_target, publish
from wenlu.core.runs import Run, is_run
from wenlu.core.setting_types import leaves
from wenlu.core.settings import DEFAULT, Resolved, load, to_toml
from wenlu.data.store import Store
from wenlu.models.checkpoint import digest, load_model
from wenlu.models.device import device_of
from wenlu.training.compilation import compiler_errors, uncompiled
from wenlu.training.fitting import FITTED_KINDS, fit_run, prepare_fitting
from wenlu.training.inspection import reported_steps
from wenlu.training.material import refuse_other
from wenlu.training.precision import check_environment, environment, machine
from wenlu.training.preparation import Prepared, decide_steps, prepare, prepare_again
from wenlu.training.resolution import absolute_paths, refuse_other_tokenizer, refuse_unread_by_store
from wenlu.training.results import Evaluate, RunResult, describe_process, finished_result, last_evaluation, written
from wenlu.training.schedules import Every
from wenlu.training.settings import RunSettings
from wenlu.training.signals import Interrupted, StopRequest, stop_requests
from wenlu.training.state import State, copy_weights, load_state, read_state, refuse_non_finite, write_state
from wenlu.training.trainer import Step, Trainer

INEXACT_CHANGES = frozenset(
    {"train.device", "train.deterministic", "train.threads", "train.precision", "train.compile", "train.attention"}
)
EXACT_CHANGES = frozenset(
    {"train.num_workers", "train.keep", "train.non_finite", "train.save_every", "train.patience", "evaluate.every"}
)


def train_run(
    resolved: Resolved[RunSettings], path: Path, *, evaluate: Evaluate | None = None, store: Store | None = None
) -> RunResult:
    """Train a new run.

    Args:
        resolved: the settings and their origins.
        path: the run directory to make.
        evaluate: scores the validation split; None trains without evaluations.
        store: an open corpus, when the caller has one; else ``data.paths`` says.

    Raises:
        RunError: ``core.run_exists``, or ``core.run_locked`` when somebody trains it now.
        WenluError: whatever the settings, the corpus or a step have wrong.
    """
    refuse_existing(path)
    refuse_unread_by_store(resolved)
    resolved = absolute_paths(resolved)
    if resolved.value.model.kind in FITTED_KINDS:
        corpus = prepare_fitting(resolved.value, store=store)
        run = Run.create(path)
        with run.lock(), run.begun(), _recorded(run):
            return fit_run(run, resolved, corpus, evaluate)
    if store is not None:
        refuse_other_tokenizer(resolved.value, store.tokenizer)
    prepared = prepare(resolved, store=store)
    if evaluate is not None:
        prepared.material.check(prepared.settings)
    run = Run.create(path)
    with run.lock(), run.begun(), _recorded(run), compiler_errors(), machine(prepared.settings.train):
        run.write_settings(to_toml(prepared.resolved))
        run.write_status(state="running", step=0, **describe_process(prepared.settings))
        run.write_data(prepared.material.describe() | prepared.start)
        decide_steps(prepared)
        run.write_settings(to_toml(prepared.resolved))
        return Consumer(run, prepared, evaluate).consume()


def resume_run(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    evaluate: Evaluate | None = None,
    allow_inexact: bool = False,
    store: Store | None = None,
) -> RunResult:
    """Continue a run from its newest whole checkpoint; the log is cut back to it. A finished run is only announced.

    ``overrides`` may change only what leaves the bits alone, and with ``allow_inexact`` what this machine decides.

    Raises:
        SettingsError: ``training.inexact`` when this machine would not continue bit for bit and that is not allowed;
            ``training.finished_settings`` for overrides of a finished run.
        DataError: ``training.data_changed`` when the corpus is another one than the run began with.
    """
    run = Run.open(path)
    with run.lock():
        status = run.status()
        if status.get("state") == "finished" and (run.path / "final").is_dir():
            if overrides:
                raise SettingsError("training.finished_settings", path=path, words=" ".join(overrides))
            notice("training.already_finished", path=path, step=status.get("step", "?"))
            return finished_result(run)
        resolved = read_settings(run, overrides, allow_inexact=allow_inexact)
        with _recorded(run):
            if resolved.value.model.kind in FITTED_KINDS:
                return fit_run(run, resolved, prepare_fitting(resolved.value, store=store), evaluate)
            checkpoint = run.newest_checkpoint()
            prepared = prepare_again(run, resolved, checkpoint, store=store)
            with compiler_errors(), machine(prepared.settings.train):
                run.write_status(state="running", **describe_process(prepared.settings))
                if checkpoint is None:  # killed before the first one, perhaps before everything was decided
                    decide_steps(prepared)
                before, inexact = load(RunSettings, file=run.settings_path).value, []
                if checkpoint is not None:
                    inexact = check_state(checkpoint, prepared, before, allow_inexact=allow_inexact)
                consumer = Consumer(run, prepared, evaluate)
                if checkpoint is not None:
                    consumer.restore(checkpoint)
                if prepared.settings != before:
                    run.write_settings(to_toml(prepared.resolved))
                step = consumer.trainer.step
                notice("training.resumed", path=run.path, step=step, steps=prepared.settings.train.steps)
                run.cut_log(step)
                for difference in inexact:
                    run.append_log({"event": "inexact", "step": step, **difference})
                return consumer.consume()


def read_settings(run: Run, overrides: Sequence[str] = (), *, allow_inexact: bool = False) -> Resolved[RunSettings]:
    """The resolved settings of a run, with the few changes that a resume may make.

    Raises:
        CheckpointError: ``core.run_settings_lost``.
        SettingsError: ``training.resume_setting`` for a setting that makes another run of it, ``training.inexact``
            for one that changes the bits when that is not allowed.
    """
    if not run.has_settings():
        raise CheckpointError("core.run_settings_lost", path=run.settings_path)
    before = load(RunSettings, file=run.settings_path)
    absent = [key for key, origin in before.origins.items() if origin == DEFAULT]
    if missing := [key for key in absent if attrgetter(key)(before.value) is not None]:
        warn("training.settings_missing", path=run.settings_path, names=", ".join(missing))
    if not overrides:
        return before
    after = load(RunSettings, file=run.settings_path, overrides=overrides)
    for key in after.origins:
        then, now = map(attrgetter(key), (before.value, after.value))
        if then == now or key in EXACT_CHANGES:
            continue
        if key not in INEXACT_CHANGES:
            raise _another_run(key, then, now)
        if not allow_inexact:
            raise SettingsError("training.inexact", setting=key, then=then, now=now)
    return after


def check_state(
    checkpoint: Path, prepared: Prepared, before: RunSettings, *, allow_inexact: bool
) -> list[dict[str, object]]:
    """What is not as it was when a checkpoint was made, and changes the bits; each difference is announced.

    What an earlier Wenlu did not write into the checkpoint is taken from ``before``, the settings that its run had.

    Raises:
        SettingsError: ``training.inexact``, or ``training.resume_setting`` when run.toml is not what it was.
        DataError, CheckpointError: see ``refuse_other``.
    """
    state = read_state(checkpoint)
    then, now = _fixed_settings(before) | state.settings, _fixed_settings(prepared.settings)
    for key, value in then.items():
        if key not in INEXACT_CHANGES and now.get(key, value) != value:
            raise _another_run(key, value, now[key])
    refuse_other(prepared.material, state.data, path=checkpoint)
    inexact = {key: then[key] for key in sorted(INEXACT_CHANGES)} | state.environment
    return check_environment(inexact, now | environment(device_of(prepared.model)), allow_inexact=allow_inexact)


def restore(trainer: Trainer, checkpoint: Path) -> State:
    """Put a trainer into the state of a checkpoint, whose manifest and state the caller has checked."""
    state = read_state(checkpoint)
    copy_weights(load_model(checkpoint), trainer.model, path=checkpoint)
    load_state(checkpoint, model=trainer.model, optimizer=trainer.optimizer, carried=trainer.carried)
    trainer.step, trainer.skipped_in_a_row = state.step, state.skipped_in_a_row
    return state


def training_digest(trainer: Trainer) -> str:
    """SHA-256 of all weights and of the optimizer's state."""
    weights = {**dict(trainer.model.named_parameters()), **trainer.optimizer.tensors()}
    return digest(weights.items())


def _fixed_settings(settings: RunSettings) -> dict[str, object]:
    """What decides the bits of a run, by dotted key, as JSON holds it; the corpus has its fingerprint."""
    tables = ("data.", "tokenizer.", "evaluate.")
    keys = [key for key in leaves(settings) if not key.startswith(tables) and key not in EXACT_CHANGES]
    values = {key: attrgetter(key)(settings) for key in keys}
    record: dict[str, object] = json.loads(json.dumps(values, default=str))
    return record | {"train.compile": bool(settings.train.compile)}


def _another_run(key: str, then: object, now: object) -> SettingsError:
    allowed = ", ".join(sorted(INEXACT_CHANGES | EXACT_CHANGES))
    return SettingsError("training.resume_setting", setting=key, value=f"{then!r} -> {now!r}", allowed=allowed)


class Consumer:
    """Takes the steps of a trainer: logs, evaluates, saves, retains, stops, finishes."""

    def __init__(self, run: Run, prepared: Prepared, evaluate: Evaluate | None) -> None:
        self.run = run
        self.prepared = prepared
        self.settings = prepared.settings
        self.evaluate = evaluate if prepared.material.held_out else None
        if evaluate is not None and self.evaluate is None:
            warn("training.no_validation")
        self.trainer = prepared.trainer()
        self.stop = StopRequest()
        identity, settings = prepared.material.identity, _fixed_settings(prepared.settings)
        surroundings = environment(self.trainer.device)
        self.state = State(
            step=0, next_batch=0, seconds=0.0, data=identity, environment=surroundings, settings=settings
        )
        self.stale = 0  # evaluations after the best
        self.saved_step: int | None = None
        self.scored: tuple[int, float] | None = None
        self.scores: dict[str, float] = {}

    def restore(self, checkpoint: Path) -> None:
        state, found = self.state, restore(self.trainer, checkpoint)
        state.seconds, state.best_loss, state.best_step = found.seconds, found.best_loss, found.best_step
        self.saved_step = found.step
        done = [int(str(line["step"])) for line in self.run.read_log() if line.get("event") == "evaluation"]
        self.stale = sum((found.best_step or 0) < step <= found.step for step in done)
        self._note_best(checkpoint)  # a kill may have come between the checkpoint and its mention

    def consume(self) -> RunResult:
        total = self.trainer.schedule.steps
        evaluate_every = Every(self.settings.evaluate.every, "evaluate.every", self.prepared.pace)
        save_every = Every(self.settings.train.save_every, "train.save_every", self.prepared.pace)
        with stop_requests() as self.stop, progress("training.progress", total=total, unit="steps") as bar:
            bar.done = self.trainer.step
            with contextlib.suppress(Interrupted):
                if self.saved_step and self._evaluation_missing(evaluate_every) and self._evaluate(self.saved_step):
                    self.save(self.saved_step)
                if self._out_of_patience():
                    return self._finish()
                decode = self.prepared.material.tokenizer.decode
                for step in reported_steps(self.trainer, decode, self.run.path / "reports"):
                    self._log(step, bar)
                    if step.number < total:
                        improved = evaluate_every.due(step.number) and self._evaluate(step.number)
                        if save_every.due(step.number) or improved:
                            self.save(step.number)
                    self.stop.check()
                    if self._out_of_patience():
                        break
                return self._finish()
            if self.saved_step != self.trainer.step:
                self.save(self.trainer.step)
            return self._stopped()

    def _evaluation_missing(self, every: Every) -> bool:
        """Whether the run was stopped in the regular evaluation of the step it goes on from."""
        step = self.trainer.step
        done = any(line.get("event") == "evaluation" and line.get("step") == step for line in self.run.read_log())
        return not done and (step == self.trainer.schedule.steps or every.falls_on(step))

    def _out_of_patience(self) -> bool:
        """Whether ``train.patience`` evaluations in a row were no better than the best, before the end; it is said."""
        patience, step, total = self.settings.train.patience, self.trainer.step, self.trainer.schedule.steps
        if not patience or self.stale < patience or step >= total:
            return False
        notice("training.out_of_patience", patience=patience, step=step, total=total)
        return True

    def _log(self, step: Step, bar: Progress) -> None:
        self.state.seconds += step.seconds
        told = {name: value for name, value in asdict(step).items() if value or name not in ("terms", "skipped")}
        record = {"event": "skipped" if step.skipped else "step", "step": told.pop("number"), **told}
        record |= {name: written(told[name]) for name in ("loss", "gradient_norm")}
        record["epoch"] = self.prepared.loader.epochs_at(step.number * self.settings.train.accumulation)
        self.run.append_log(record)
        bar.advance(detail=f"loss {step.loss:.4f}  {step.tokens / step.seconds:,.0f} tokens/s")

    def _evaluate(self, step: int, *, final: bool = False) -> bool:
        """Score the validation text, log it; whether it is the best of the regular evaluations so far."""
        if self.evaluate is None:
            return False
        limit = self.settings.evaluate.final_max_tokens if final else self.settings.evaluate.max_tokens
        tokens = min(limit or math.inf, self.prepared.material.held_out)
        started = time.perf_counter()
        of = (step, tokens)
        if self.scored != of:
            model, ask = self.prepared.model.eval(), self.evaluate
            with self.stop.interrupting(), uncompiled(self.settings.train.compile):
                found = self.prepared.material.scores(model, self.settings, ask, limit=limit)
            self.scores, self.scored = found, of
            names = {"loss", "bits_per_byte", "accuracy", "pair_accuracy"}
            names.add(self.prepared.material.best)
            shown = "  ".join(f"{name} {value:.4f}" for name, value in self.scores.items() if name in names)
            notice("training.evaluated", step=step, scores=shown)
        scores, seconds = self.scores, time.perf_counter() - started
        event = "final_evaluation" if final else "evaluation"
        self.run.append_log({"event": event, "step": step, **scores, "seconds": seconds})
        rank = self.prepared.material.rank(scores)
        if final:
            self.run.write_status(evaluation=scores)
            return False
        improved = math.isfinite(rank) and (self.state.best_loss is None or rank < self.state.best_loss)
        if improved:
            self.state.best_loss, self.state.best_step = rank, step
        self.stale = 0 if improved else self.stale + 1
        return improved

    def save(self, step: int) -> None:
        """Publish a checkpoint of this step, note the best, and delete what is beyond ``train.keep``."""
        refuse_non_finite(self.trainer.tensors(), step=step)
        state, trainer = self.state, self.trainer
        state.step, state.next_batch = step, step * self.settings.train.accumulation
        state.skipped_in_a_row = trainer.skipped_in_a_row
        self.run.append_log({"event": "checkpoint", "step": step, "digest": training_digest(trainer)})
        self.run.sync_log()
        target = self.run.checkpoint_path(step)

        def write(directory: Path) -> None:
            self._write_model(directory, step)
            write_state(directory, state, model=trainer.model, optimizer=trainer.optimizer, carried=trainer.carried)

        publish(target, write, replace=target.exists())
        self.saved_step = step
        self._note_best(target)
        self.run.write_status(step=step, seconds=state.seconds)
        self.run.retain(self.settings.train.keep)

    def _note_best(self, checkpoint: Path) -> None:
        """Say in ``best.json`` that the checkpoint just saved or restored is the best, if it is."""
        if self.state.best_loss is not None and self.state.best_step == self.saved_step:
            self.run.write_best(checkpoint, step=self.state.best_step, loss=self.state.best_loss)

    def _write_model(self, directory: Path, step: int) -> None:
        material, name, task = self.prepared.material, self.run.path.resolve().name, self.settings.task.name
        told: dict[str, str | int | float] = {"run": name, "step": step, "data": material.fingerprint}
        save_bundle(
            directory, model=self.prepared.model, tokenizer=material.tokenizer, task=task, provenance=told,
            task_settings=material.task_settings, base=self.settings.model.start,
        )  # fmt: skip

    def _stopped(self) -> RunResult:
        assert self.stop.signal is not None
        step, code = self.trainer.step, self.stop.exit_code
        self.run.write_status(state="stopped", step=step, signal=self.stop.signal.name, ended=time.time())
        notice("training.stopped", step=step, path=self.run.path)
        return RunResult(self.run.path, "stopped", code, step, self.state.seconds, None, last_evaluation(self.run))

    def _finish(self) -> RunResult:
        step = self.trainer.step
        if self.saved_step != step:
            if self.scored is None or self.scored[0] != step:
                self._evaluate(step)
            self.save(step)
        best = self.state.best_step
        if self.prepared.material.keeps_best and best is not None and best != step:
            restore(self.trainer, self.run.checkpoint_path(best))  # with what LoRA has trained, beside its state
            self.trainer.step = step  # so many were done: who stops the last evaluation has nothing to save
            notice("training.best_kept", step=best, last=step)
            step = best
        self._evaluate(step, final=True)
        final = self.run.path / "final"
        publish(final, lambda directory: self._write_model(directory, step), replace=final.exists())
        if best is not None and best != step:  # of a run that does not keep its best
            warn("training.best_is_earlier", step=best, last=step, loss=self.state.best_loss)
        self.run.write_status(state="finished", step=step, seconds=self.state.seconds, ended=time.time(), error=None)
        return finished_result(self.run)


@contextlib.contextmanager
def _recorded(run: Run) -> Iterator[None]:
    """Note in ``status.json`` that a run failed, and why, if the disk still takes it; the error goes on its way."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        said = error.id if isinstance(error, WenluError) else f"{type(error).__name__}: {error}"
        ended: dict[str, object] = {"state": "failed", "error": said}
        if isinstance(error, KeyboardInterrupt):
            ended = {"state": "stopped", "signal": "SIGTERM" if isinstance(error, Terminated) else "SIGINT"}
        with contextlib.suppress(WenluError):
            run.write_status(**ended, ended=time.time())
        raise


def refuse_existing(path: Path, *, only_look: bool = False) -> None:
    """Refuse, before any long work, a directory that is a run already (being trained or not), a store or a model."""
    if not path.is_dir() or (path / MANIFEST).is_file():
        check_target(path, replace=False)
    if is_run(path):
        with contextlib.nullcontext() if only_look else Run.open(path).lock():
            Run.create(path)
