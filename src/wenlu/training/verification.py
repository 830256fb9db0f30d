"""Replays: proof from the checkpoint before the last that a run is what its log says, bit for bit; and one step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wenlu.core.errors import CheckpointError, GateError, SettingsError
from wenlu.core.log import notice, progress
from wenlu.core.publication import verify
from wenlu.core.runs import Run, checkpoint_step
from wenlu.core.settings import Resolved
from wenlu.data.store import Store
from wenlu.models.checkpoint import digest, load_model
from wenlu.models.lora import merged_state
from wenlu.training.fitting import FITTED_KINDS
from wenlu.training.inspection import Inspection, inspect_step
from wenlu.training.precision import machine
from wenlu.training.preparation import Prepared, fit_first_weights, prepare_again
from wenlu.training.results import written
from wenlu.training.run import check_state, read_settings, restore, training_digest
from wenlu.training.settings import RunSettings
from wenlu.training.trainer import Step, Trainer


@dataclass(frozen=True)
class Verified:
    """What was replayed and found equal: the steps after ``first`` up to ``last``, and the digest of the weights."""

    first: int
    last: int
    digest: str


def verify_run(path: Path, *, store: Store | None = None) -> Verified:
    """Replay the steps between the last two checkpoints (from the start when there is one) and compare with the log.

    Raises:
        GateError: ``training.verify_step`` naming the first step that differs, ``training.verify_weights``, or
            ``training.verify_damaged`` for a checkpoint whose files are not those that were written.
        CheckpointError: ``training.nothing_to_verify`` without a checkpoint.
        SettingsError: ``training.inexact`` when this machine gives other bits than the last checkpoint was made with.
    """
    run = Run.open(path)
    with run.lock():
        checkpoints = run.checkpoints()
        if not checkpoints:
            raise CheckpointError("training.nothing_to_verify", path=path)
        resolved = _as_logged(run)
        before = checkpoints[-2] if len(checkpoints) > 1 else None
        for checkpoint in checkpoints[-2:]:
            _refuse_damaged(checkpoint)
        prepared = prepare_again(run, resolved, before, store=store)
        check_state(checkpoints[-1], prepared, prepared.settings, allow_inexact=False)
        with machine(prepared.settings.train):
            return _verify(run, _trainer_at(prepared, before), checkpoints[-1])


def replay_step(path: Path, number: int, *, allow_inexact: bool = False, store: Store | None = None) -> Inspection:
    """Take one step (from 1) of a run once more, from the newest whole checkpoint before it, and look at it closely.

    Nothing in the run is changed. The steps up to it are replayed as they were.

    Raises:
        SettingsError: ``training.replay_range``, or ``training.inexact`` when this machine gives other bits.
    """
    run = Run.open(path)
    with run.lock():
        resolved, checkpoint = _as_logged(run), run.newest_checkpoint(before=number)
        prepared = prepare_again(run, resolved, checkpoint, store=store)
        steps = prepared.settings.train.steps or 0
        if not 1 <= number <= steps:
            raise SettingsError("training.replay_range", step=number, steps=steps)
        if (saved := checkpoint or run.newest_checkpoint()) is not None:
            check_state(saved, prepared, prepared.settings, allow_inexact=allow_inexact)
        with machine(prepared.settings.train):
            trainer = _trainer_at(prepared, checkpoint)
            notice("training.replaying_step", first=trainer.step, step=number)
            for _ in _replayed(trainer, number - 1):
                pass
            return inspect_step(trainer, number - 1, prepared.material.tokenizer.decode)


def _as_logged(run: Run) -> Resolved[RunSettings]:
    """The settings of a run; a step that is not finite is left out, whatever they say now: the log decides."""
    resolved = read_settings(run)
    if resolved.value.model.kind in FITTED_KINDS or resolved.value.train.steps is None:
        raise CheckpointError("training.nothing_to_verify", path=run.path)
    train = replace(resolved.value.train, non_finite="skip")
    return Resolved(replace(resolved.value, train=train), resolved.origins)


def _trainer_at(prepared: Prepared, checkpoint: Path | None) -> Trainer:
    """A trainer in the state of a checkpoint; without one at the start, so with the first weights."""
    if checkpoint is None:
        fit_first_weights(prepared)
    trainer = prepared.trainer()
    if checkpoint is not None:
        restore(trainer, checkpoint)
    return trainer


def _replayed(trainer: Trainer, last: int) -> Iterator[Step]:
    """The steps up to this one."""
    left = last - trainer.step
    with progress("training.replaying", total=left, unit="steps") as bar:
        for step in itertools.islice(trainer, left):
            yield step
            bar.advance()


def _verify(run: Run, trainer: Trainer, checkpoint: Path) -> Verified:
    first, last = trainer.step, checkpoint_step(checkpoint)
    notice("training.verifying", first=first, last=last)
    logged = {record["step"]: record for record in run.read_log() if record.get("event") in ("step", "skipped")}
    for step in _replayed(trainer, last):
        _compare(step, logged.get(step.number, {}))
    found = training_digest(trainer)
    _compare_weights(run, trainer, checkpoint, found)
    return Verified(first, last, found)


def _compare(step: Step, record: dict[str, object]) -> None:
    """Compare the bits of a step's loss and gradient norm with its line of the log."""
    for name, value in (("loss", step.loss), ("gradient_norm", step.gradient_norm)):
        logged = record.get(name)
        if logged != written(value):
            shown = logged.hex() if isinstance(logged, float) else repr(logged)
            raise GateError("training.verify_step", step=step.number, name=name, logged=shown, replayed=value.hex())


def _compare_weights(run: Run, trainer: Trainer, checkpoint: Path, found: str) -> None:
    """Compare the replayed weights with the log's digest, the checkpoint's tensors and the final model."""
    step = trainer.step
    saved = [line for line in run.read_log() if line.get("event") == "checkpoint" and line.get("step") == step]
    logged = [line.get("digest") for line in saved]
    if found not in logged:
        raise GateError("training.verify_weights", path=run.path / "log.jsonl", step=step, expected=found, found=logged)
    mine = digest(merged_state(trainer.model).items())
    models = [checkpoint]
    final = run.path / "final"
    if final.is_dir() and run.status().get("step") == step:
        _refuse_damaged(final)
        models.append(final)
    for path in models:
        theirs = digest(load_model(path).state_dict().items())
        if theirs != mine:
            raise GateError("training.verify_weights", path=path, step=step, expected=mine, found=theirs)


def _refuse_damaged(directory: Path) -> None:
    try:
        verify(directory)
    except CheckpointError as error:
        raise GateError("training.verify_damaged", path=directory, reason=error) from error
