"""How much main memory a run will hold, part by part, from its settings and the shapes of its model.

The parts explain; ``trial`` measures the whole. ``warn_if_short`` compares their sum with what is free before the first
step of every run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import cast

from torch import nn

from wenlu.core import machine
from wenlu.core.log import warn
from wenlu.models.config import LanguageModel
from wenlu.models.transformer import Transformer
from wenlu.training.optimizers import parameter_roles
from wenlu.training.settings import RunSettings

LIBRARIES_BYTES = 360_000_000  # Python, PyTorch, what a first step loads, tokenizer, index; a trial measures it
_SHARE = 0.9  # of the free memory; the rest is for the page cache and for others
_BF16_ACTIVATIONS = 0.6  # of those in float32: what products read is kept in half, the rest as it was
_BACKWARD = 0.75  # on top: the backward pass's own tensors, and what the C library does not give back between them


@dataclass(frozen=True)
class MemoryParts:
    """Bytes of each part; ``activations``, ``attention`` and ``batches`` grow with the micro-batch, others do not.

    ``gradients`` live from the backward pass to the step, ``activations`` from the forward to the backward pass, the
    ``update`` works when they are gone; ``logits`` are one chunk of them and what the loss adds up for the output
    matrix; ``attention`` is masks, and weights where the kernel has to write them down.
    """

    libraries: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    attention: int
    logits: int
    update: int
    batches: int

    def peak(self, *, accumulation: int) -> int:
        """The most that is held at one time: at the end of a forward pass, or while the weights are moved."""
        always = self.libraries + self.weights + self.optimizer + self.batches
        forward = self.activations + self.attention + self.logits + (self.gradients if accumulation > 1 else 0)
        return always + max(forward, self.gradients + self.update)

    def largest_batch(self, free: int, peak: int, batch_size: int) -> int:
        """The largest micro-batch for this free memory when ``batch_size`` rows peak at ``peak``; 0: none fits.

        What the parts do not explain of the peak is taken to grow with the rows.
        """
        fixed = self.libraries + self.weights + self.optimizer + self.gradients + self.logits
        return max(0, int((_SHARE * free - fixed) / max((peak - fixed) / batch_size, 1)))


def memory_parts(model: nn.Module, settings: RunSettings) -> MemoryParts:
    """The parts of a run of this model, which may be on the meta device; ``settings.train`` must be resolved."""
    train, language_model = settings.train, cast(LanguageModel, model)
    roles, bf16 = parameter_roles(model), settings.train.precision == "bf16"
    shapes = {name: tuple(shape.shape) for name, shape in model.named_parameters() if name in roles}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name in roles}
    by_muon = {name for name in sizes if settings.optimizer.name == "muon" and roles[name] == "matrix"}
    moved, tokens = sum(sizes.values()), train.batch_size * train.sequence_length
    held = sum(parameter.numel() for parameter in model.parameters())
    kept = language_model.statistics(sequence_length=train.sequence_length).activation_bytes_per_token * tokens
    output = max((size for name, size in sizes.items() if shapes[name][0] == language_model.vocab_size), default=0)
    chunk = min(settings.task.chunk_rows, tokens) * language_model.vocab_size
    return MemoryParts(
        libraries=LIBRARIES_BYTES,
        weights=(6 if bf16 else 4) * held,  # bf16: with the copies that the products read
        gradients=4 * moved,
        optimizer=4 * sum(size if name in by_muon else 2 * size for name, size in sizes.items()),
        activations=int(kept * (_BF16_ACTIVATIONS if bf16 else 1) * (1 + _BACKWARD)),
        attention=_attention_bytes(model, settings),
        logits=(6 if bf16 else 4) * chunk + 2 * 4 * output,  # the sum of its gradients, and the next chunk's
        update=_muon_bytes([shapes[name] for name in by_muon]),
        batches=4 * 8 * tokens * train.accumulation * (1 + train.num_workers),
    )


def warn_if_short(model: nn.Module, settings: RunSettings) -> None:
    """Say before the first step that the memory which is free now will not do, and what would."""
    if has_room(model, settings):
        return
    train, free, held = settings.train, machine.memory().free or 0, machine.resident_bytes()[0] or 0
    parts = memory_parts(model, settings)
    peak = parts.peak(accumulation=train.accumulation)
    largest = parts.largest_batch(free + held, peak, train.batch_size)
    rows, accumulation = split_batch(train.batch_size * train.accumulation, max(largest, 1))
    needed = (peak - held) / 1e6
    warn("training.memory_short", needed=needed, free=free / 1e6, batch_size=rows, accumulation=accumulation)


def has_room(model: nn.Module, settings: RunSettings, *, copies: int = 0) -> bool:
    """Whether the run, with so many copies of its weights beside it, fits into main memory, as far as is known."""
    free, held = machine.memory().free, machine.resident_bytes()[0]
    if settings.train.device != "cpu" or free is None or held is None:
        return True
    parts = memory_parts(model, settings)
    return parts.peak(accumulation=settings.train.accumulation) + copies * parts.weights - held <= free


def split_batch(rows: int, largest: int) -> tuple[int, int]:
    """(batch_size, accumulation) whose product is ``rows``: the largest micro-batch of at most ``largest`` rows."""
    size = next(size for size in range(min(rows, largest), 0, -1) if rows % size == 0)
    return size, rows // size


def _attention_bytes(model: nn.Module, settings: RunSettings) -> int:
    """Masks of packed rows, of which each layer keeps one; and the weights, unless the fused kernel takes them."""
    if not isinstance(model, Transformer):
        return 0
    train, found = settings.train, 0
    pairs = train.batch_size * train.sequence_length**2
    for stack in model.config.stacks:
        layers = stack.num_layers * (1 if stack.memory_size is None else 2)  # cross-attention has a mask of its own
        found += pairs * (2 + 4 * layers)
        if train.attention == "eager" or stack.attention_dropout or stack.attention_softcap is not None:
            kept = 9 if stack.attention_dropout else 4  # softmax; with dropout its mask and its result as well
            found += pairs * stack.num_heads * kept * layers
    return found


def _muon_bytes(shapes: list[tuple[int, ...]]) -> int:
    """What the orthogonalisation of the largest group of matrices of one shape needs besides the gradients."""
    groups = Counter((min(shape), max(shape)) for shape in shapes if len(shape) == 2)
    sizes = (16 * count * short * long + 12 * count * short**2 for (short, long), count in groups.items())
    return max(sizes, default=0)
