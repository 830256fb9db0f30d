"""Families whose files only Wenlu reads: config.json holds the model's own config, the weights its state dict."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from wenlu.core.errors import CheckpointError
from wenlu.models.families._files import Weights


def fill(model: nn.Module, directory: Path, *, dtype: torch.dtype) -> None:
    """Give every parameter and buffer of the model the tensor of its name; floating-point ones get the type.

    Raises:
        CheckpointError: ``models.tensors_missing``, ``models.tensors_unused``, ``models.tensor_shape``.
    """
    own = model.state_dict()
    with Weights(directory) as weights:
        for id, names in (
            ("models.tensors_missing", own.keys() - weights.names),
            ("models.tensors_unused", set(weights.names) - own.keys()),
        ):
            if names:
                raise CheckpointError(id, names=", ".join(sorted(names)[:5]), count=len(names), path=directory)
        state: dict[str, Tensor] = {}
        for name, expected in own.items():
            tensor = weights.read(name)
            if tensor.shape != expected.shape:
                shapes = {"found": tuple(tensor.shape), "expected": tuple(expected.shape)}
                raise CheckpointError("models.tensor_shape", name=name, path=directory, **shapes)
            state[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
