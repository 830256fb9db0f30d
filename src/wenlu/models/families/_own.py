"""Families whose files only Wenlu reads: config.json holds the model's own config, the weights its state dict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wenlu.core.errors import CheckpointError
from wenlu.models.families._files import HFConfig, Weights, assign, refuse_names, write_model
from wenlu.models.meta import meta_device


class OwnFamily(ABC):
    """What such families share. With a ``build``, implements ``wenlu.models.config.Family``."""

    model_type: ClassVar[str]
    made: ClassVar[type[Any]]  # the class of its models, which are made of a config

    @abstractmethod
    def config(self, values: HFConfig) -> object:
        """Read a config.json."""

    def load(self, hf: Mapping[str, object], directory: Path, *, dtype: torch.dtype) -> nn.Module:
        """The model of a directory whose config.json is ``hf``; floating-point weights get the type.

        Raises:
            CheckpointError: ``models.tensors_missing``, ``models.tensors_unused``, ``models.tensor_shape``.
        """
        config = self.config(HFConfig(hf, directory / "config.json"))
        with meta_device():
            model: nn.Module = self.made(config)
        own, state = model.state_dict(), dict[str, Tensor]()
        with Weights(directory) as weights:
            refuse_names("models.tensors_missing", sorted(own.keys() - weights.names), directory)
            refuse_names("models.tensors_unused", sorted(set(weights.names) - own.keys()), directory)
            for name, expected in own.items():
                tensor = weights.read(name)
                if tensor.shape != expected.shape:
                    shapes = {"found": tuple(tensor.shape), "expected": tuple(expected.shape)}
                    raise CheckpointError("models.tensor_shape", name=name, path=directory, **shapes)
                state[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        return assign(model, state)

    def save(self, model: nn.Module, directory: Path) -> bool:
        """Write config.json and the weights in float32; False for another kind of model."""
        if not isinstance(model, self.made):
            return False
        state = model.state_dict().items()
        tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state}
        write_model(directory, {"model_type": self.model_type, **asdict(model.config)}, tensors)
        return True
