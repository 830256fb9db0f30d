"""Models on disk: a directory with config.json and model.safetensors, in the format of the family that has it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from wenlu.core import plugins
from wenlu.core.errors import CheckpointError
from wenlu.models import gguf
from wenlu.models.build import FAMILIES, family
from wenlu.models.families._files import read_config
from wenlu.models.transformer import Transformer

OWN_PREFIX = "wenlu_"  # of model types that no other library knows


def save_model(model: nn.Module, directory: Path) -> None:
    """Write config.json and the weights, in float32, as its own family or the first that can express it writes them.

    Raises:
        CheckpointError: ``models.no_family`` when none can.
    """
    names = plugins.names(FAMILIES)
    if isinstance(model, Transformer) and model.kind is not None:
        names = [model.kind, *names]
    if not any(family(name).save(model, directory) for name in names):
        raise CheckpointError("models.no_family", path=directory, families=", ".join(names))


def load_model(directory: Path, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model of a directory or of a GGUF file, in evaluation mode, every one of its tensors accounted for.

    Weights in the wanted type are mapped from the file and not copied.

    Raises:
        CheckpointError: a file is missing, damaged, pickled or not of a kind known here, or tensors do not fit.
    """
    hf, kind = read_kind(directory)
    return family(kind).load(hf, directory, dtype=dtype).eval()


def read_kind(directory: Path) -> tuple[dict[str, object], str]:
    """What the config.json of a directory, or a GGUF file, says of its model, and the name of the model's family.

    Raises:
        CheckpointError: there is no config, it is damaged, or it is of no kind known here.
    """
    hf = gguf.read_config(directory) if gguf.is_gguf(directory) else read_config(directory)
    model_type, names = hf.get("model_type"), plugins.names(FAMILIES)
    if not isinstance(model_type, str) or model_type.removeprefix(OWN_PREFIX) not in names:
        raise CheckpointError("models.unknown_type", path=directory, found=model_type, known=", ".join(names))
    return hf, model_type.removeprefix(OWN_PREFIX)


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, shapes, types and bytes of tensors, in the order of their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
