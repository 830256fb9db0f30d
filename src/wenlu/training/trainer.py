"""The training loop: a generator of steps. Whoever iterates logs, evaluates, saves or stops.

    for step in Trainer(model, objective, optimizer, schedule, loader, settings):
        print(step.number, step.loss)

One step collates all its micro-batches, counts the targets of each loss term over all of them, divides before the
backward pass, clips, refuses what is not finite before the weights change, sets the rates, steps. So a step's update
does not depend on how its rows are split into micro-batches, and every random draw depends on (seed, purpose, step),
never on history.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

import torch
from torch import Tensor, nn

from wenlu.core.errors import NotFiniteError
from wenlu.core.log import warn
from wenlu.core.reproducibility import derive_seed
from wenlu.data.loader import Batches
from wenlu.models.device import device_of
from wenlu.tasks._base import Batch, Carried, Objective
from wenlu.training.optimizers import Optimizer
from wenlu.training.precision import autocast, on_device, seeded
from wenlu.training.schedules import Schedule
from wenlu.training.settings import TrainSettings
from wenlu.training.state import refuse_non_finite, state_tensors

MOST_SKIPPED = 10
"""Steps in a row whose update may be left out; the next one that is not finite stops the run."""


@dataclass(frozen=True)
class Step:
    """What one step did. ``number`` counts from 1; ``loss`` is in nats a target; rates are of the matrices.

    ``skipped`` names the micro-batches for which the update was left out; it is empty when there was one.
    """

    number: int
    loss: float
    gradient_norm: float
    learning_rate: float
    targets: int
    tokens: int
    seconds: float
    terms: dict[str, float] = field(default_factory=dict)
    skipped: str = ""


@dataclass(eq=False)
class Trainer:
    """Iterate to train. ``step`` is the number of steps done: to resume, hand in the step with the states of that step.

    Args:
        model: moved in place; batches follow it to its device.
        objective: gives the loss of a micro-batch.
        batches: where micro-batch ``step * accumulation + i`` comes from.
        settings: resolved; ``steps`` may not be None.
        carried: the state that a recurrent model carries from one micro-batch to the next.
    """

    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    batches: Batches
    settings: TrainSettings
    _: KW_ONLY
    carried: Carried | None = None
    step: int = 0
    skipped_in_a_row: int = 0

    def __post_init__(self) -> None:
        assert self.settings.precision != "auto", "resolve the settings first"
        self.device = device_of(self.model)

    def __iter__(self) -> Iterator[Step]:
        accumulation = self.settings.accumulation
        stream = self.batches.batches(self.step * accumulation)
        while self.step < self.schedule.steps:
            started = time.perf_counter()
            yield self._step(list(itertools.islice(stream, accumulation)), started)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a step changes, by name: weights, the optimizer's state, carried state."""
        return dict(self.model.named_parameters()) | state_tensors(self.optimizer, self.carried)

    def _step(self, micro_batches: list[Batch], started: float) -> Step:
        counts = self.count(micro_batches)
        before = self.carried_tensors()
        means = self.backward(micro_batches, counts)
        terms = {name: sum(mean[name] for mean in means) for name in counts}
        parameters = self.optimizer.parameters.values()
        norm = float(nn.utils.clip_grad_norm_(parameters, self.settings.clip or math.inf))
        factor = self.schedule.factor(self.step)
        step = Step(
            number=self.step + 1,
            loss=math.fsum(terms.values()) if all(map(math.isfinite, terms.values())) else sum(terms.values()),
            gradient_norm=norm,
            learning_rate=self.optimizer.settings.learning_rate * factor,
            targets=sum(counts.values()),
            tokens=sum(batch["input_ids"].numel() for batch in micro_batches),
            seconds=0.0,
            terms=terms if len(terms) > 1 else {},
        )
        finite = all(bool(tensor.isfinite().all()) for tensor in self.carried_tensors().values())
        if finite and math.isfinite(norm) and math.isfinite(step.loss):
            self.optimizer.set_rates(factor, index=self.step)
            self.optimizer.step()
            self.skipped_in_a_row = 0
        else:
            self.carry(before)
            step = self._skip(step, means)
        self.optimizer.zero_grad()
        self.step += 1
        return replace(step, seconds=time.perf_counter() - started)

    def count(self, micro_batches: Iterable[Batch]) -> Counter[str]:
        """The number of targets of each term of the loss."""
        counts: Counter[str] = Counter()
        for batch in micro_batches:
            counts.update(self.objective.counts(batch))
        return counts

    def backward(self, micro_batches: Sequence[Batch], counts: Mapping[str, int]) -> list[dict[str, float]]:
        """Add up the gradients of the step; what each micro-batch gives to the weighted mean of each term."""
        self.model.train()
        found = []
        with seeded(derive_seed(self.settings.seed, "dropout", self.step), self.device):
            for batch in micro_batches:
                with autocast(self.settings.precision, self.device):
                    loss = self.objective.loss(self.model, on_device(batch, self.device), carried=self.carried)
                    scaled = {name: term.weight * term.total / max(counts[name], 1) for name, term in loss.items()}
                    total = torch.stack(list(scaled.values())).sum()
                if total.requires_grad:
                    total.backward()  # type: ignore[no-untyped-call]
                if self.carried is not None:
                    self.carried.detach_()
                found.append({name: value.detach() for name, value in scaled.items()})
        return [{name: value.item() for name, value in terms.items()} for terms in found]

    def carried_tensors(self) -> dict[str, Tensor]:
        """A copy of the carried state, to go back to."""
        return {} if self.carried is None else {name: t.clone() for name, t in self.carried.tensors().items()}

    def carry(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a carried state."""
        if self.carried is not None:
            self.carried.load_tensors(tensors)

    def _skip(self, step: Step, means: Sequence[Mapping[str, float]]) -> Step:
        """Leave the update out, or stop; the weights and the carried state are those of the step before.

        Raises:
            NotFiniteError: ``training.not_finite``, or ``training.weights_not_finite`` when leaving out cannot help.
        """
        first = self.step * self.settings.accumulation
        wrong = [first + n for n, mean in enumerate(means) if not all(map(math.isfinite, mean.values()))]
        last = first + len(means) - 1
        batch = ", ".join(map(str, wrong)) or (str(first) if first == last else f"{first}-{last}")
        where = {"step": step.number, "batch": batch, "loss": step.loss, "norm": step.gradient_norm}
        self.optimizer.zero_grad()
        if self.settings.non_finite == "stop" or self.skipped_in_a_row >= MOST_SKIPPED:
            raise NotFiniteError("training.not_finite", rate=step.learning_rate, **where)
        refuse_non_finite(self.tensors(), step=step.number)
        self.skipped_in_a_row += 1
        warn("training.skipped", **where)
        return replace(step, skipped=batch)
