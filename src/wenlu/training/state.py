"""What a checkpoint holds besides the model: the optimizer's tensors, carried state, and where the run stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wenlu.core.errors import CheckpointError, NotFiniteError
from wenlu.models.lora import is_lora, lora_state
from wenlu.tasks._base import Carried
from wenlu.training.optimizers import Optimizer, own_memory

FORMAT = 1
_CARRIED, _LORA = "carried/", "lora/"


@dataclass(kw_only=True)
class State:
    """``state.json``: the step that was done, the next micro-batch, and what the bits of the run depend on.

    There is no state of a random generator to keep: every draw depends on (seed, purpose, step).
    """

    step: int
    next_batch: int
    seconds: float
    data: str
    environment: dict[str, str] = field(default_factory=dict)
    best_loss: float | None = None
    best_step: int | None = None
    skipped_in_a_row: int = 0
    settings: dict[str, object] = field(default_factory=dict)


def state_tensors(optimizer: Optimizer, carried: Carried | None) -> dict[str, Tensor]:
    """What a checkpoint holds besides the weights: the optimizer's tensors, and those of a carried state."""
    tensors = dict(optimizer.tensors())
    if carried is not None:
        tensors |= {_CARRIED + name: tensor for name, tensor in carried.tensors().items()}
    return tensors


def write_state(
    directory: Path, state: State, *, model: nn.Module, optimizer: Optimizer, carried: Carried | None
) -> None:
    """Write ``optimizer.safetensors`` and ``state.json`` into a checkpoint that is being made.

    The checkpoint's model has its paths of LoRA merged, so they and the matrices beside them are kept here.
    """
    tensors = state_tensors(optimizer, carried) | {_LORA + name: held for name, held in lora_state(model).items()}
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(on_cpu, directory / "optimizer.safetensors")
    content = json.dumps({"format": FORMAT, **asdict(state)}, indent=1)
    (directory / "state.json").write_text(content + "\n", encoding="utf-8")


def read_state(directory: Path) -> State:
    """Read ``state.json`` of a checkpoint.

    Raises:
        CheckpointError: ``training.state_format`` when a newer Wenlu wrote it or it is no state.
    """
    path = directory / "state.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("format") != FORMAT:
            raise CheckpointError("training.state_format", path=path, known=FORMAT)
        return State(**record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("training.state_format", path=path, known=FORMAT) from error


def load_state(directory: Path, *, model: nn.Module, optimizer: Optimizer, carried: Carried | None) -> None:
    """Give LoRA, the optimizer and the carried state back the tensors of a checkpoint, bit for bit.

    Raises:
        CheckpointError: ``models.weights_damaged``, ``training.optimizer_state`` for tensors of another model.
    """
    path = directory / "optimizer.safetensors"
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError("models.weights_damaged", path=path, detail=error) from error
    for name, parameter in lora_state(model).items():
        held = tensors.pop(_LORA + name, torch.empty(0))
        if held.shape != parameter.shape:
            raise CheckpointError("training.optimizer_state", tensor=_LORA + name, shape=tuple(held.shape))
        parameter.data.copy_(held)
    mine = {name.removeprefix(_CARRIED): tensors.pop(name) for name in list(tensors) if name.startswith(_CARRIED)}
    optimizer.load_tensors(tensors)
    if carried is not None:
        places = {name: tensor.device for name, tensor in carried.tensors().items()}
        carried.load_tensors({name: own_memory(tensor, places[name]) for name, tensor in mine.items()})


def refuse_non_finite(tensors: Mapping[str, Tensor], *, step: int) -> None:
    """Refuse to save, or to go on with, weights and states of optimizers that are NaN or infinite.

    Raises:
        NotFiniteError: ``training.weights_not_finite`` naming the first such tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NotFiniteError("training.weights_not_finite", tensor=name, step=step)


def copy_weights(source: nn.Module, target: nn.Module, *, path: Path) -> None:
    """Copy the weights of a checkpoint into the memory that a model has, paths of LoRA apart.

    Raises:
        CheckpointError: ``training.other_model`` when the checkpoint is of a model of another shape.
    """
    with torch.no_grad():
        theirs = dict(source.named_parameters()) | dict(source.named_buffers())
        mine = dict(target.named_parameters()) | dict(target.named_buffers())
        mine = {name: tensor for name, tensor in mine.items() if not is_lora(name)}
        shapes = [{(name, tensor.shape) for name, tensor in tensors.items()} for tensors in (theirs, mine)]
        differing = sorted({name for name, _ in shapes[0] ^ shapes[1]})
        if differing:
            names = ", ".join(differing[:5])
            raise CheckpointError("training.other_model", path=path, names=names, count=len(differing))
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])
