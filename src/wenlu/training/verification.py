"""Proof that a run is what its log says: replay from the checkpoint before the last and compare every bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wenlu.core.errors import CheckpointError, GateError
from wenlu.core.log import notice, progress
from wenlu.core.runs import Run, checkpoint_step, verify
from wenlu.data.store import Store
from wenlu.models.checkpoint import load_model
from wenlu.training.fitting import FITTED_KINDS
from wenlu.training.precision import machine
from wenlu.training.preparation import Prepared, decide_steps, prepare
from wenlu.training.run import read_settings, restore, training_digest
from wenlu.training.state import digest
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
    """
    run = Run.open(path)
    with run.lock():
        resolved = read_settings(run)
        checkpoints = run.checkpoints()
        if not checkpoints or resolved.value.model.kind in FITTED_KINDS:
            raise CheckpointError("training.nothing_to_verify", path=path)
        for checkpoint in checkpoints[-2:]:
            _refuse_damaged(checkpoint)
        prepared = prepare(resolved, store=store)
        with machine(prepared.settings.train):
            decide_steps(prepared)
            return _replay(run, prepared, checkpoints)


def _replay(run: Run, prepared: Prepared, checkpoints: list[Path]) -> Verified:
    trainer = prepared.trainer()
    last = checkpoint_step(checkpoints[-1])
    if len(checkpoints) > 1:
        restore(trainer, checkpoints[-2], data=prepared.store.train.fingerprint, allow_inexact=False)
    first = trainer.step
    notice("training.verifying", first=first, last=last)
    logged = {record["step"]: record for record in run.read_log() if record.get("event") == "step"}
    with progress("training.replaying", total=last - first, unit="steps") as bar:
        for step in trainer:
            _compare(step, logged.get(step.number, {}))
            bar.advance()
            if step.number == last:
                break
    found = training_digest(trainer)
    _compare_weights(run, trainer, checkpoints[-1], found)
    return Verified(first, last, found)


def _compare(step: Step, record: dict[str, object]) -> None:
    """Compare the bits of a step's loss and gradient norm with its line of the log."""
    for name, value in (("loss", step.loss), ("gradient_norm", step.gradient_norm)):
        written = record.get(name)
        if written != value:
            shown = written.hex() if isinstance(written, float) else repr(written)
            raise GateError("training.verify_step", step=step.number, name=name, logged=shown, replayed=value.hex())


def _compare_weights(run: Run, trainer: Trainer, checkpoint: Path, found: str) -> None:
    """Compare the replayed weights with the log's digest, the checkpoint's tensors and the final model."""
    step = trainer.step
    logged = [
        record.get("digest")
        for record in run.read_log()
        if record.get("event") == "checkpoint" and record.get("step") == step
    ]
    if found not in logged:
        raise GateError("training.verify_weights", path=run.path / "log.jsonl", step=step, expected=found, found=logged)
    mine = digest(trainer.model.named_parameters())
    models = [checkpoint]
    final = run.path / "final"
    if final.is_dir() and run.status().get("step") == step:
        _refuse_damaged(final)
        models.append(final)
    for path in models:
        theirs = digest(load_model(path).named_parameters())
        if theirs != mine:
            raise GateError("training.verify_weights", path=path, step=step, expected=mine, found=theirs)


def _refuse_damaged(directory: Path) -> None:
    try:
        verify(directory)
    except CheckpointError as error:
        raise GateError("training.verify_damaged", path=directory, reason=error) from error
