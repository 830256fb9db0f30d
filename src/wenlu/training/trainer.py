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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from wenlu.core.errors import NotFiniteError
from wenlu.core.reproducibility import derive_seed
from wenlu.tasks._base import Batch, Carried, Objective
from wenlu.training.optimizers import Optimizer
from wenlu.training.precision import autocast
from wenlu.training.schedules import Schedule
from wenlu.training.settings import TrainSettings


class Batches(Protocol):
    """The micro-batches of a run, by number: the same number always gives the same batch."""

    def batches(self, start: int) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Step:
    """What one step did. ``number`` counts from 1; ``loss`` is in nats a target; rates are of the matrices."""

    number: int
    loss: float
    gradient_norm: float
    learning_rate: float
    targets: int
    tokens: int
    seconds: float
    terms: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Iterate to train. ``step`` is the number of steps done: to resume, hand in the step with the states of that step.

    Args:
        model: moved in place.
        objective: gives the loss of a micro-batch.
        batches: where micro-batch ``step * accumulation + i`` comes from.
        settings: resolved; ``steps`` may not be None.
        carried: the state that a recurrent model carries from one micro-batch to the next.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        schedule: Schedule,
        batches: Batches,
        settings: TrainSettings,
        *,
        carried: Carried | None = None,
        step: int = 0,
    ) -> None:
        assert settings.precision != "auto", "resolve the settings first"
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.batches = batches
        self.settings = settings
        self.carried = carried
        self.step = step

    def __iter__(self) -> Iterator[Step]:
        stream = self.batches.batches(self.step * self.settings.accumulation)
        while self.step < self.schedule.steps:
            started = time.perf_counter()
            micro_batches = list(itertools.islice(stream, self.settings.accumulation))
            yield self._step(micro_batches, started)

    def finish(self) -> Step | None:
        """Take all the steps that are left; the last one, or None when none was left."""
        last: Step | None = None
        for step in self:
            last = step
        return last

    def _step(self, micro_batches: list[Batch], started: float) -> Step:
        self.model.train()
        counts: Counter[str] = Counter()
        for batch in micro_batches:
            counts.update(self.objective.counts(batch))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(self.settings.seed, "dropout", self.step))
            terms = self._backward(micro_batches, counts)
        loss = math.fsum(terms.values())
        parameters = self.optimizer.parameters.values()
        norm = float(nn.utils.clip_grad_norm_(parameters, self.settings.clip or math.inf))
        first = self.step * self.settings.accumulation
        if not math.isfinite(norm):
            last = first + len(micro_batches) - 1
            raise self._not_finite(str(first) if first == last else f"{first}-{last}", loss, norm)
        factor = self.schedule.factor(self.step)
        self.optimizer.set_rates(factor, index=self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return Step(
            number=self.step,
            loss=loss,
            gradient_norm=norm,
            learning_rate=self.optimizer.settings.learning_rate * factor,
            targets=sum(counts.values()),
            tokens=sum(batch["input_ids"].numel() for batch in micro_batches),
            seconds=time.perf_counter() - started,
            terms=terms if len(terms) > 1 else {},
        )

    def _backward(self, micro_batches: list[Batch], counts: Mapping[str, int]) -> dict[str, float]:
        """Add up the gradients of the step; the weighted mean of each term."""
        means: dict[str, float] = dict.fromkeys(counts, 0.0)
        for number, batch in enumerate(micro_batches, start=self.step * self.settings.accumulation):
            with autocast(self.settings.precision):
                loss = self.objective.loss(self.model, batch, carried=self.carried)
                scaled = {name: term.weight * term.total / max(counts[name], 1) for name, term in loss.items()}
                total = torch.stack(list(scaled.values())).sum()
            if not math.isfinite(total.item()):
                raise self._not_finite(str(number), total.item(), math.nan)
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
            if self.carried is not None:
                self.carried.detach_()
            for name, value in scaled.items():
                means[name] += value.item()
        return means

    def _not_finite(self, batch: str, loss: float, norm: float) -> NotFiniteError:
        """Forget the gradients; the error that says where it happened. The weights are those of the step before."""
        self.optimizer.zero_grad()
        rate = self.optimizer.settings.learning_rate * self.schedule.factor(self.step)
        return NotFiniteError("training.not_finite", step=self.step + 1, batch=batch, loss=loss, norm=norm, rate=rate)
