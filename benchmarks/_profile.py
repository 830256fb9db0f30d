"""Where the time of a trainer goes: by the parts of a step, and by the kinds of operations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from wenlu.tasks._base import Batch
from wenlu.training.trainer import Trainer

KINDS = {  # of operations, by what their names contain; the first that fits
    "matrix products": ("aten::mm", "addmm", "bmm", "linear", "gemm"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "norms": ("layer_norm", "rms_norm"),
    "activation": ("gelu", "silu", "relu"),
    "optimizer and clipping": ("_fused_adam", "_foreach", "linalg_vector_norm", "muon"),
    "copies and conversions": ("copy_", "aten::cat", "contiguous", "index", "embedding"),
}


def print_profile(trainer: Trainer, *, warmup_steps: int, steps: int) -> None:
    """Two tables of a trainer: the parts of a step by timers, the kinds of operations by torch's profiler.

    The loss computes the output matrix' gradients in the forward pass, so these cannot be told from the loss.
    """
    parts: Counter[str] = Counter()

    def timed(name: str, work: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **named: object) -> object:
            started = time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                parts[name] += time.perf_counter() - started

        return run

    model, source = trainer.model, trainer.batches.batches

    def batches(start: int) -> Iterator[Batch]:
        stream = source(start)
        while True:
            yield timed("loader", stream.__next__)()

    trainer.batches.batches = batches
    model.hidden = timed("forward", model.hidden)
    trainer.objective.loss = timed("forward and loss", trainer.objective.loss)
    trainer.optimizer.step = timed("optimizer", trainer.optimizer.step)
    stream = iter(trainer)
    for _ in range(warmup_steps):
        next(stream)
    parts.clear()
    started = time.perf_counter()
    with mock.patch.object(torch.Tensor, "backward", timed("backward", torch.Tensor.backward)):
        for _ in range(steps):
            next(stream)
    total = time.perf_counter() - started
    parts["output matrix and loss, both ways"] = parts.pop("forward and loss") - parts["forward"]
    parts["clipping, python, other"] = total - sum(parts.values())
    print("| part of a step | ms | share |\n| --- | ---: | ---: |")
    for name in parts:
        print(f"| {name} | {parts[name] / steps * 1e3:.1f} | {parts[name] / total:.1%} |")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        next(stream)
    kinds: Counter[str] = Counter()
    for event in profiled.key_averages():
        kind = next(
            (kind for kind, words in KINDS.items() if any(w in event.key for w in words)), "element-wise, other"
        )
        kinds[kind] += event.self_cpu_time_total
    print("\n| kind of operation | share |\n| --- | ---: |")
    for kind, spent in kinds.most_common():
        print(f"| {kind} | {spent / kinds.total():.1%} |")
