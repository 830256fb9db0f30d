"""One step under the magnifying glass: its micro-batches once more, watched module by module and text by text.

What a run writes when a step is not finite, and what ``wenlu train --resume RUN --replay STEP`` shows of any step.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from wenlu.core.errors import NotFiniteError, RunError
from wenlu.core.log import warn
from wenlu.core.publication import write_file_atomically
from wenlu.tasks._base import IGNORE_INDEX, Batch
from wenlu.tasks._labelled import LabelledTask
from wenlu.training.optimizers import parameter_roles
from wenlu.training.precision import autocast, on_device
from wenlu.training.results import written
from wenlu.training.trainer import Step, Trainer

_REPORTS = "step-{}-not-finite.json"
_MOST_REPORTS = 20  # of one run

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class DocumentLoss:
    """The part of a document in one row. ``document`` is its number in the train split; ``ids`` are the targets."""

    micro_batch: int
    row: int
    document: int
    tokens: int
    loss: float | str
    ids: str
    text: str


@dataclass(frozen=True)
class Inspection:
    """A step that was taken once more, without an update. Numbers that are not finite are written by name.

    ``terms`` are the micro-batches' shares of the step's loss, with dropout as in the run; ``documents`` their mean
    losses a token, without dropout. ``gradient_norm`` is the run's, before clipping, which overflows before a gradient
    does; ``gradient_norms`` are by the role of the parameters, summed in float64. The other lists name what is not
    finite: ``modules`` (their outputs) and ``parameters`` (their gradients) in the order in which they became so,
    ``held`` what was so before the step began: weights, optimizer's and carried state.
    """

    step: int
    loss: float | str
    terms: dict[int, dict[str, float | str]]
    gradient_norm: float | str
    gradient_norms: dict[str, float | str]
    held: list[str]
    modules: list[str]
    parameters: list[str]
    documents: list[DocumentLoss]

    @property
    def is_finite(self) -> bool:
        """Whether nothing was found."""
        wrong = self.held or self.modules or self.parameters or self.wrong_batches
        return not wrong and not isinstance(self.gradient_norm, str)

    @property
    def wrong_batches(self) -> list[int]:
        """The micro-batches whose loss is not finite."""
        return [number for number, terms in self.terms.items() if any(isinstance(v, str) for v in terms.values())]

    def as_record(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "is_finite": self.is_finite}


def inspect_step(trainer: Trainer, index: int, decode: Decode) -> Inspection:
    """Take the step with this index (from 0) once more; the trainer, its gradients apart, is afterwards as before.

    The trainer must hold the weights and the carried state from before that step.
    """
    first = index * trainer.settings.accumulation
    batches = {number: trainer.batches.batch(number) for number in range(first, first + trainer.settings.accumulation)}
    held = [name for name, tensor in trainer.tensors().items() if not _is_finite(tensor)]
    before = trainer.carried_tensors()
    step, trainer.step = trainer.step, index
    try:
        with torch.compiler.set_stance("force_eager"), _watched(trainer.model) as (modules, parameters):
            means = trainer.backward(list(batches.values()), trainer.count(batches.values()))
            gradients = [p.grad for p in trainer.optimizer.parameters.values() if p.grad is not None]
            norm, norms = float(nn.utils.get_total_norm(gradients)), _gradient_norms(trainer.model)
            documents = [found for number in batches for found in _documents(trainer, number, decode, before)]
    finally:
        trainer.step = step
        trainer.optimizer.zero_grad()
        trainer.carry(before)
    return Inspection(
        step=index + 1,
        loss=written(sum(sum(mean.values()) for mean in means)),
        terms={n: {name: written(v) for name, v in mean.items()} for n, mean in zip(batches, means, strict=True)},
        gradient_norm=written(norm),
        gradient_norms=norms,
        held=held,
        modules=modules,
        parameters=parameters,
        documents=documents,
    )


def reported_steps(trainer: Trainer, decode: Decode, folder: Path) -> Iterator[Step]:
    """The trainer's steps; one that is not finite leaves a report, whether it stops the run or not."""

    def report(number: int, seen: Mapping[str, object], *, left: int) -> None:
        if left > 0:
            found = inspect_step(trainer, number - 1, decode)
            with contextlib.suppress(RunError):  # a full disk must not hide why the run stops
                warn("training.report_written", path=_write_report(folder, seen, found))
        if left == 1:
            warn("training.reports_end", count=_MOST_REPORTS)

    try:
        for step in trainer:
            if step.skipped:
                seen = {"step": step.number, "batch": step.skipped, "rate": step.learning_rate}
                left = _MOST_REPORTS - len(list(folder.glob(_REPORTS.format("*"))))
                report(step.number, {**seen, "loss": str(step.loss), "norm": str(step.gradient_norm)}, left=left)
            yield step
    except NotFiniteError as error:
        values = {name: written(value) if isinstance(value, float) else value for name, value in error.values.items()}
        report(trainer.step + 1, {"error": error.id, **values}, left=_MOST_REPORTS)
        raise


def _write_report(folder: Path, seen: Mapping[str, object], found: Inspection) -> Path:
    """Write what was seen in the run, and what the second look found, of the wrong micro-batches only."""
    wrong = found.wrong_batches or list(found.terms)
    record = {"seen": seen, **found.as_record()}
    record["documents"] = [asdict(document) for document in found.documents if document.micro_batch in wrong]
    path = folder / _REPORTS.format(f"{found.step:08d}")
    write_file_atomically(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return path


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[tuple[list[str], list[str]]]:
    """Modules and parameters, in the order in which an output or a gradient that is not finite was seen at them."""
    modules: list[str] = []
    parameters: list[str] = []

    def output(name: str, module: nn.Module, inputs: object, output: object) -> None:
        shown = f"{name} ({type(module).__name__})"
        if shown not in modules and not all(map(_is_finite, _tensors(output))):
            modules.append(shown)

    def gradient(name: str, parameter: Tensor) -> None:
        if name not in parameters and parameter.grad is not None and not _is_finite(parameter.grad):
            parameters.append(name)

    hooks = [module.register_forward_hook(partial(output, name)) for name, module in model.named_modules() if name]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hooks.append(parameter.register_post_accumulate_grad_hook(partial(gradient, name)))  # type: ignore[no-untyped-call]
    try:
        yield modules, parameters
    finally:
        for hook in hooks:
            hook.remove()


def _gradient_norms(model: nn.Module) -> dict[str, float | str]:
    roles = parameter_roles(model)
    squares: dict[str, float] = dict.fromkeys(sorted(set(roles.values())), 0.0)
    for name, parameter in model.named_parameters():
        if name in roles and parameter.grad is not None:
            squares[roles[name]] += float(parameter.grad.double().square().sum())
    return {role: written(math.sqrt(square)) for role, square in squares.items()}


@torch.no_grad()
def _documents(trainer: Trainer, number: int, decode: Decode, before: Mapping[str, Tensor]) -> Iterator[DocumentLoss]:
    """The loss of each document's part in a micro-batch, alone in its row.

    A model that carries a state reads the whole batch for it, from the state before the step.
    """
    if isinstance(trainer.objective, LabelledTask):
        return  # the rows are examples, not parts of documents
    batch = trainer.batches.batch(number)
    trainer.model.eval()
    apart = "document_ids" in batch  # else the documents of a row are read together, and the first one names them
    places = batch.get("document_ids", torch.zeros_like(batch["labels"]))
    for row, documents in enumerate(trainer.batches.documents(number)):
        for piece, document in enumerate(documents if apart else documents[:1]):
            columns = (places[row] == piece).nonzero().squeeze(1)
            begin, end = int(columns[0]), int(columns[-1]) + 1
            labels = batch["labels"][row, begin:end]
            if not apart:
                part = {name: tensor[row : row + 1] for name, tensor in batch.items()}
            elif trainer.carried is None:
                part = {name: tensor[row : row + 1, begin:end] for name, tensor in batch.items()}
            else:
                trainer.carried.load_tensors(before)
                part = {**batch, "labels": torch.full_like(batch["labels"], IGNORE_INDEX)}
                part["labels"][row, begin:end] = labels
            ids = labels[labels != IGNORE_INDEX].tolist()
            shown = " ".join(map(str, ids))
            yield DocumentLoss(number, row, document, len(ids), _loss(trainer, part), shown, decode(ids))


def _loss(trainer: Trainer, batch: Batch) -> float | str:
    with autocast(trainer.settings.precision, trainer.device):
        loss = trainer.objective.loss(trainer.model, on_device(batch, trainer.device), carried=trainer.carried)
    return written(sum(float(term.weight * term.total / max(term.count, 1)) for term in loss.values()))


def _tensors(output: object) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
