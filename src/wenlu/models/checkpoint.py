"""Models on disk: a directory with config.json and model.safetensors, in the format of the family that has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

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
    hf = _config(directory)
    return family(_kind(hf, directory)).load(hf, directory, dtype=dtype).eval()


def model_kind(directory: Path) -> str:
    """The kind of model of a directory or of a GGUF file: the name of its family.

    Raises:
        CheckpointError: there is no config, it is damaged, or it is of no kind known here.
    """
    return _kind(_config(directory), directory)


def _config(directory: Path) -> dict[str, object]:
    return gguf.read_config(directory) if gguf.is_gguf(directory) else read_config(directory)


def _kind(hf: Mapping[str, object], directory: Path) -> str:
    model_type, names = hf.get("model_type"), plugins.names(FAMILIES)
    if not isinstance(model_type, str) or model_type.removeprefix(OWN_PREFIX) not in names:
        raise CheckpointError("models.unknown_type", path=directory, found=model_type, known=", ".join(names))
    return model_type.removeprefix(OWN_PREFIX)
