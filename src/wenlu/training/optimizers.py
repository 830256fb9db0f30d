"""Which optimizer moves which parameter, at which rate; and its state as named tensors for the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wenlu.core.errors import CheckpointError
from wenlu.core.log import Notice
from wenlu.core.settings import refuse_changed, refuse_outside
from wenlu.training.muon import Muon

OptimizerName = Literal["muon", "adamw", "adam"]
Role = Literal["matrix", "embedding", "head", "vector"]


@dataclass(frozen=True)
class OptimizerSettings:
    """The ``[optimizer]`` table.

    Parameters play four roles: ``matrix`` (two or more dimensions), ``embedding``, ``head`` (the untied output matrix)
    and ``vector`` (norms, biases). ``muon`` moves the matrices with Muon, the rest with AdamW; ``adamw`` and ``adam``
    (decay added to the gradient) move all. ``learning_rate`` is the peak rate of the matrices, the other three follow
    it when they are None. Weight decay acts on matrices and the head, never on embeddings, norms or biases.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    embedding_rate: float | None = None
    head_rate: float | None = None
    vector_rate: float | None = None
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-10
    momentum: float = 0.95
    momentum_start: float = 0.85
    momentum_warmup_steps: int = 100
    newton_schulz_steps: int = 5

    def __post_init__(self) -> None:
        bounds = {
            "0 < x < inf": ("learning_rate",),
            "0 <= x < inf": ("embedding_rate", "head_rate", "vector_rate", "eps", "weight_decay"),
            "0 <= x < 1": ("beta1", "beta2", "momentum", "momentum_start"),
            ">= 0": ("momentum_warmup_steps",),
            ">= 1": ("newton_schulz_steps",),
        }
        refuse_outside("training.range", "optimizer", self, bounds)
        if self.name != "muon":
            names = ("momentum", "momentum_start", "momentum_warmup_steps", "newton_schulz_steps")
            because = Notice("training.because", {"setting": "optimizer.name", "value": self.name})
            refuse_changed(self, "optimizer", names, because=because)

    def rate(self, role: Role) -> float:
        """The peak learning rate of a role."""
        own = {"embedding": self.embedding_rate, "head": self.head_rate, "vector": self.vector_rate}.get(role)
        return self.learning_rate if own is None else own


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """The role of every trainable parameter by name; a tied output matrix is an embedding.

    The head is what a model calls ``head``, as all models here do.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    roles: dict[str, Role] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in embeddings:
            roles[name] = "embedding"
        elif parameter.ndim < 2:
            roles[name] = "vector"
        else:
            inner = name.startswith(("head.transform.", "head.pooler."))
            roles[name] = "head" if name.startswith("head.") and not inner else "matrix"
    return roles


class Optimizer:
    """The optimizers of one model behind one face.

    Args:
        model: its trainable parameters are moved.
        settings: rates and constants.
        newton_schulz_dtype: the precision of Muon's iteration; bfloat16 where the processor is fast in it.
    """

    def __init__(
        self, model: nn.Module, settings: OptimizerSettings, *, newton_schulz_dtype: torch.dtype | None = None
    ) -> None:
        self.settings = settings
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        groups: dict[Role, list[nn.Parameter]] = {}
        for name, role in parameter_roles(model).items():
            groups.setdefault(role, []).append(self.parameters[name])
        self._parts: list[torch.optim.Optimizer] = []
        adam_roles = set(groups)
        if settings.name == "muon":
            matrices = [parameter for parameter in groups.get("matrix", []) if parameter.ndim == 2]
            groups["matrix"] = [parameter for parameter in groups.get("matrix", []) if parameter.ndim != 2]
            if matrices:
                group = {"params": matrices, "lr": settings.learning_rate, "peak": settings.learning_rate}
                decay, steps = settings.weight_decay, settings.newton_schulz_steps
                muon = Muon([group], weight_decay=decay, newton_schulz_steps=steps, dtype=newton_schulz_dtype)
                self._parts.append(muon)
        described = [_group(settings, role, groups[role]) for role in sorted(adam_roles) if groups[role]]
        if described:
            kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
            betas = (settings.beta1, settings.beta2)
            self._parts.append(kind(described, betas=betas, eps=settings.eps, fused=True))

    def set_rates(self, factor: float, *, index: int) -> None:
        """Set every rate to ``factor`` times its peak, and Muon's momentum for the step with this index (from 0)."""
        s = self.settings
        warm = min(1.0, index / s.momentum_warmup_steps) if s.momentum_warmup_steps else 1.0
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = group["peak"] * factor
                if isinstance(part, Muon):
                    group["momentum"] = (1 - warm) * s.momentum_start + warm * s.momentum

    def step(self) -> None:
        """Move the weights by their gradients."""
        for part in self._parts:
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The state by ``<parameter name>/<state name>``: what a checkpoint keeps."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            for key, value in self._part_of(parameter).state.get(parameter, {}).items():
                found[f"{name}/{key}"] = value.detach()
        return found

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the state back, bit for bit.

        Raises:
            CheckpointError: ``training.optimizer_state`` when a tensor belongs to no parameter or has another shape.
        """
        for full_name, tensor in tensors.items():
            name, _, key = full_name.rpartition("/")
            parameter = self.parameters.get(name)
            if parameter is None or (tensor.ndim and tensor.shape != parameter.shape):
                raise CheckpointError("training.optimizer_state", tensor=full_name, shape=tuple(tensor.shape))
            self._part_of(parameter).state[parameter][key] = own_memory(tensor, parameter.device)

    def _part_of(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        return next(part for part in self._parts if _holds(part, parameter))


def own_memory(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy in memory of our own, which a mapped file is not: it may be aligned otherwise."""
    return torch.empty_like(tensor, device=device).copy_(tensor)


def _holds(part: torch.optim.Optimizer, parameter: nn.Parameter) -> bool:
    return any(parameter is held for group in part.param_groups for held in group["params"])


def _group(settings: OptimizerSettings, role: Role, parameters: Iterable[nn.Parameter]) -> dict[str, object]:
    decay = settings.weight_decay if role in ("matrix", "head") else 0.0
    rate = settings.rate(role)
    return {"params": list(parameters), "lr": rate, "peak": rate, "weight_decay": decay}
