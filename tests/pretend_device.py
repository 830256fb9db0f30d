"""A second device without hardware: tensors that say they are on ``pretend`` and compute on the processor.

They refuse to meet tensors of the processor, as those of an accelerator do (single numbers excepted), so a run on them
shows whether everything is placed, and its losses must be those of the processor to the last bit. What torch makes
without being told a device is made on the processor, as on any machine.

``torch`` can be taught one such device a process, for good: the tests that need it run this file as a script, with a
folder and the settings of each journey as JSON, in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

import wenlu.bundle
from tiny_training import losses, tiny_settings, tiny_store
from wenlu.bundle import load_bundle
from wenlu.evaluation.evaluator import evaluate_split
from wenlu.evaluation.scoring import Windows, score_text
from wenlu.generation.settings import GenerationSettings
from wenlu.generation.text import complete, prepare
from wenlu.models.config import LanguageModel
from wenlu.models.device import device_of
from wenlu.training import precision, preparation, resolution, results
from wenlu.training.run import resume_run, train_run
from wenlu.training.verification import replay_step, verify_run

NAME = "pretend"
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Backend(_DummyBackendModule):
    """What autocast asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, Backend())
torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(numbers, device=...) makes it on the processor, then moves it
DEVICE = torch.device(NAME, 0)


class Pretending(Tensor):
    """A tensor on the second device; ``inner`` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretending:
        with torch.inference_mode(False):  # where a view needs a base of its own kind
            made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
            )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        """The numbers, which torch gives of its own tensors only."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def dispatch(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Compute on the processor what is asked of the second device, after a look at where everything is."""
    given = [leaf for leaf in tree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [tensor for tensor in given if isinstance(tensor, Pretending)]
    if here and func not in MOVES:
        strangers = [tensor for tensor in given if not isinstance(tensor, Pretending) and tensor.ndim]
        assert not strangers, f"{func} meets a tensor {tuple(strangers[0].shape)} of the processor"
    target = kwargs.get("device", DEVICE if here else None)
    inner = tree.tree_map_only(Pretending, lambda tensor: tensor.inner, (tuple(args), dict(kwargs)))
    if "device" in kwargs:
        inner[1]["device"] = torch.device("cpu")
        inner[1].pop("pin_memory", None)
    found = FUSED.get(func, func)(*inner[0], **inner[1])
    if target is None or torch.device(target).type != NAME:
        return found
    known = {id(tensor.inner): tensor for tensor in here}
    return tree.tree_map_only(
        Tensor, lambda tensor: known[id(tensor)] if id(tensor) in known else Pretending(tensor), found
    )


def lstm_cell(input_4H: Tensor, hidden_4H: Tensor, cell: Tensor, *biases: Tensor | None) -> tuple[Tensor, ...]:
    """What accelerators compute as one kernel, which the processor has not."""
    gates = sum((bias for bias in biases if bias is not None), input_4H + hidden_4H)
    i, f, g, o = gates.chunk(4, dim=1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    after = f * cell + i * g
    return o * after.tanh(), after, torch.cat([i, f, g, o], dim=1)


def lstm_cell_backward(
    hidden: Tensor | None, cell: Tensor | None, before: Tensor, after: Tensor, gates: Tensor, biases: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the gates, of the cell before, and of a bias."""
    i, f, g, o = gates.chunk(4, dim=1)
    hidden = torch.zeros_like(after) if hidden is None else hidden
    tanh = after.tanh()
    cell = hidden * o * (1 - tanh**2) + (0.0 if cell is None else cell)
    parts = [cell * g * i * (1 - i), cell * before * f * (1 - f), cell * i * (1 - g**2), hidden * tanh * o * (1 - o)]
    found = torch.cat(parts, dim=1)
    return found, cell * f, found.sum(dim=0)


FUSED = {
    torch.ops.aten._thnn_fused_lstm_cell.default: lstm_cell,
    torch.ops.aten._thnn_fused_lstm_cell_backward_impl.default: lstm_cell_backward,
}


class Everywhere(TorchDispatchMode):
    """Catches what is made on the second device from nothing, or moved there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def journey(folder: Path, name: str, overrides: Sequence[str]) -> dict[str, object]:
    """Train, stop, resume, verify, replay, score and generate; the numbers that came out."""
    store = tiny_store(folder / "corpus")
    run = folder / name
    with contextlib.suppress(KeyboardInterrupt):
        settings = tiny_settings(*overrides, "train.save_every=4", "evaluate.every=3", f"train.device={name}")
        train_run(settings, run, evaluate=stop_after_the_second(evaluate_split), store=store)
    result = resume_run(run, evaluate=evaluate_split, store=store)
    bundle = load_bundle(run, device="cpu" if name == "cpu" else "cuda")
    model, tokenizer = cast(LanguageModel, bundle.model), bundle.tokenizer
    generation = GenerationSettings(max_new_tokens=6, num_sequences=2, top_p=0.9, repetition_penalty=1.1, seed=3)
    request = prepare(tokenizer, "the quick", generation, max_positions=model.max_positions)
    replayed = replay_step(run, 9, store=store)
    return {
        "device": str(device_of(bundle.model).type),
        "losses": losses(run),
        "evaluation": list(result.evaluation.values()),
        "verified": verify_run(run, store=store).last,
        "replayed": [replayed.loss, *replayed.gradient_norms.values(), *(part.loss for part in replayed.documents)],
        "text": [completion.text for completion in complete(model, tokenizer, request, generation)],
        "score": score_text(model, tokenizer, "the lazy dog 你好", windows=Windows(8, 4)).log_prob,
    }


def stop_after_the_second(evaluate: Any) -> Any:
    """An evaluation that is interrupted from outside after it was made twice."""
    calls = iter(range(100))

    def stopping(*arguments: Any, **given: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments, **given)

    return stopping


def main(folder: Path, journeys: Mapping[str, Sequence[str]]) -> None:
    """Print what the same journeys give on the processor and on the second device, which plays the part of CUDA."""
    found: dict[str, dict[str, object]] = {}
    for name, overrides in journeys.items():
        (folder / name).mkdir()
        found[name] = {"cpu": journey(folder / name, "cpu", overrides)}

    def pick(name: str) -> torch.device:
        return torch.device("cpu") if name == "cpu" else DEVICE

    for module in (wenlu.bundle, precision, preparation, resolution, results):
        vars(module)["pick_device"] = pick
    with Everywhere():
        for name, overrides in journeys.items():
            found[name]["cuda"] = journey(folder / name, "cuda", overrides)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
