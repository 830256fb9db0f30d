"""Where tensors live: the one place that decides it, for training, evaluation and generation."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import nn

from wenlu.core.errors import DeviceError

DeviceName = Literal["auto", "cpu", "cuda"]


def pick_device(name: DeviceName) -> torch.device:
    """The device of this name; ``auto`` is CUDA where there is one.

    Raises:
        DeviceError: ``models.no_cuda`` when CUDA is demanded and missing.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise DeviceError("models.no_cuda", torch=torch.__version__, built=torch.version.cuda or "-")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and found) else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where a model is: the device of its first parameter, else of its first buffer (an n-gram has only those)."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def describe_device(device: torch.device) -> str:
    """The device's name for people and for records: ``cpu``, or what the accelerator calls itself."""
    return f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
