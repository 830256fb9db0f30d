"""One step of the trainer: what is divided, what is refused, what a chunk may change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.core.errors import NotFiniteError
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tasks._base import IGNORE_INDEX, Batch, TaskSettings
from wenlu.tasks._targets import chunked_cross_entropy
from wenlu.tasks.causal_lm import CausalLM
from wenlu.training.optimizers import Optimizer, OptimizerSettings
from wenlu.training.schedules import Schedule
from wenlu.training.settings import TrainSettings
from wenlu.training.trainer import Trainer

VOCABULARY, LENGTH, ROWS = 40, 24, 32


class Fixed:
    """The same micro-batches again and again."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches

    def batches(self, start: int) -> Iterator[Batch]:
        number = start
        while True:
            yield self._batches[number % len(self._batches)]
            number += 1


def rows_with_one_to_all_targets() -> Batch:
    """32 rows; row r has 1 + r * 23 / 31 targets."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=generator)
    labels = ids[:, 1:].clone()
    for row in range(ROWS):
        labels[row, 1 + row * (LENGTH - 1) // (ROWS - 1) :] = IGNORE_INDEX
    return {
        "input_ids": ids[:, :-1],
        "labels": labels,
        "position_ids": torch.arange(LENGTH).expand(ROWS, -1),
        "document_ids": torch.zeros(ROWS, LENGTH, dtype=torch.int64),
    }


def split(batch: Batch, parts: int) -> list[Batch]:
    size = ROWS // parts
    return [{name: tensor[n * size : (n + 1) * size] for name, tensor in batch.items()} for n in range(parts)]


def model_for(kind: str = "qwen3", dropout: float | None = None) -> nn.Module:
    settings = ModelSettings(
        kind=kind, num_layers=2, hidden_size=16, num_heads=2, dropout=dropout, initialization="gpt2"
    )
    return build_model(settings, vocab_size=VOCABULARY, end_id=0, sequence_length=LENGTH, seed=1)


def trainer_for(model: nn.Module, batches: list[Batch], **settings: object) -> Trainer:
    train = TrainSettings(steps=4, accumulation=len(batches), precision="fp32", threads=1, **settings)  # type: ignore[arg-type]
    schedule = Schedule("constant", 4, 0, 0, 0.0)
    optimizer = Optimizer(model, OptimizerSettings(learning_rate=1e-2))
    return Trainer(model, CausalLM(TaskSettings(chunk_rows=64)), optimizer, schedule, Fixed(batches), train)


def gradient_of_a_step(parts: int, *, mean_of_means: bool = False) -> dict[str, Tensor]:
    model = model_for()
    trainer = trainer_for(model, split(rows_with_one_to_all_targets(), parts))
    counts = {
        "cross_entropy": sum(trainer.objective.counts(batch)["cross_entropy"] for batch in trainer.batches._batches)
    }  # type: ignore[attr-defined]
    model.train()
    for batch in trainer.batches._batches:  # type: ignore[attr-defined]
        own = trainer.objective.counts(batch)
        trainer.backward([batch], {"cross_entropy": own["cross_entropy"] * parts} if mean_of_means else counts)
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    scale = max(float(gradient.abs().max()) for gradient in left.values())
    return max(float((left[name] - right[name]).abs().max()) for name in left) / scale


@pytest.mark.parametrize("parts", [2, 8, 32])
def test_one_batch_of_32_is_32_batches_of_one(parts: int) -> None:
    assert largest_difference(gradient_of_a_step(1), gradient_of_a_step(parts)) < 1e-6


def test_a_mean_of_means_would_be_seen() -> None:
    assert largest_difference(gradient_of_a_step(1), gradient_of_a_step(32, mean_of_means=True)) > 1e-2


def test_the_steps_of_both_splits_report_the_same_loss_and_norm() -> None:
    batch = rows_with_one_to_all_targets()
    whole = next(iter(trainer_for(model_for(), [batch])))
    parts = next(iter(trainer_for(model_for(), split(batch, 32))))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)
    assert parts.targets == whole.targets == int((batch["labels"] != IGNORE_INDEX).sum())
    assert parts.tokens == ROWS * LENGTH


def test_dropout_depends_on_seed_and_step_only() -> None:
    batch = rows_with_one_to_all_targets()
    torch.manual_seed(1)
    first = [step.loss for step in trainer_for(model_for("gpt2", 0.3), [batch])]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = [step.loss for step in trainer_for(model_for("gpt2", 0.3), [batch])]
    assert first == second
    assert torch.equal(before, torch.get_rng_state()), "the caller's generator is left alone"
    other = [step.loss for step in trainer_for(model_for("gpt2", 0.3), [batch], seed=2)]
    assert first != other


class Poisoned(CausalLM):
    """Spoils the loss or the gradient of one micro-batch."""

    def __init__(self, bad: int, *, where: str) -> None:
        super().__init__(TaskSettings())
        self.bad, self.where, self.seen = bad, where, 0

    def loss(self, module: nn.Module, batch: Batch, *, carried: object = None) -> dict:  # type: ignore[override,type-arg]
        found = super().loss(module, batch)
        if self.seen == self.bad:
            term = found["cross_entropy"]
            if self.where == "loss":
                spoiled = term.total * float("nan")
            else:  # finite loss, infinite gradient: the root of zero
                weight = next(module.parameters())
                spoiled = term.total + (weight * 0).sum().sqrt()
            found["cross_entropy"] = type(term)(spoiled, term.count)
        self.seen += 1
        return found


@pytest.mark.parametrize(("where", "named"), [("loss", "5"), ("gradient", "4-7")])
def test_what_is_not_finite_stops_before_the_weights_change(where: str, named: str) -> None:
    model = model_for()
    trainer = trainer_for(model, split(rows_with_one_to_all_targets(), 4))
    trainer.objective = Poisoned(5, where=where)
    steps = iter(trainer)
    next(steps)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in trainer.optimizer.tensors().items()}
    with pytest.raises(NotFiniteError) as caught:
        next(steps)
    assert (caught.value.values["step"], caught.value.values["batch"]) == (2, named)
    assert "step 2" in str(caught.value)
    assert trainer.step == 1
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(state[name], tensor) for name, tensor in trainer.optimizer.tensors().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_clipping_bounds_the_update_and_reports_the_norm_before_it() -> None:
    batch = rows_with_one_to_all_targets()
    free = next(iter(trainer_for(model_for(), [batch], clip=0.0)))
    clipped = next(iter(trainer_for(model_for(), [batch], clip=1e-3)))
    assert free.gradient_norm == clipped.gradient_norm > 1e-3


@pytest.mark.parametrize("rows", [1, 7, 64, 512, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunked_cross_entropy_is_the_plain_one(rows: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    head = nn.Linear(16, VOCABULARY, dtype=dtype)
    hidden = torch.randn(300, 16, generator=generator, dtype=dtype)
    labels = torch.randint(0, VOCABULARY, (300,), generator=generator)
    found = []
    for chunked in (False, True):
        x = hidden.clone().requires_grad_()
        head.zero_grad()
        if chunked:
            loss = chunked_cross_entropy(x, labels, head, rows=rows, parameters=[head.weight, head.bias]) / 300
        else:
            loss = F.cross_entropy(head(x), labels)
        loss.backward()
        assert head.weight.grad is not None and head.bias.grad is not None and x.grad is not None
        found.append([loss.detach(), x.grad, head.weight.grad.clone(), head.bias.grad.clone()])
    tolerance = 5e-7 if dtype == torch.float32 else 1e-14
    assert abs(float(found[0][0] - found[1][0])) / float(found[0][0]) < tolerance
    for plain, ours in zip(found[0], found[1], strict=True):
        assert float((plain - ours).abs().max() / plain.abs().max()) < 4 * tolerance  # the plain one rounds too


def test_logits_of_a_whole_batch_are_never_held() -> None:
    seen: list[int] = []
    head = nn.Linear(16, VOCABULARY)

    def watched(hidden: Tensor) -> Tensor:
        seen.append(len(hidden))
        out: Tensor = head(hidden)
        return out

    hidden = torch.randn(1000, 16, requires_grad=True)
    labels = torch.zeros(1000, dtype=torch.int64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            chunked_cross_entropy(hidden, labels, watched, rows=128, parameters=list(head.parameters()))
    assert max(seen) == 128
    assert sum(seen) == 2000


def test_a_parameter_that_the_head_does_not_use_gets_no_gradient() -> None:
    head, other = nn.Linear(4, 5), nn.Linear(4, 5)
    hidden = torch.randn(3, 4, requires_grad=True)
    parameters = [*other.parameters(), *head.parameters()]
    chunked_cross_entropy(hidden, torch.zeros(3, dtype=torch.int64), head, rows=2, parameters=parameters).backward()  # type: ignore[no-untyped-call]
    assert other.weight.grad is None
    assert head.weight.grad is not None


def test_no_target_at_all_is_a_loss_of_zero_and_no_update() -> None:
    batch = rows_with_one_to_all_targets()
    batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)
    step = next(iter(trainer_for(model_for(), [batch])))
    assert (step.loss, step.gradient_norm, step.targets) == (0.0, 0.0, 0)
