"""Which optimizer moves which parameter, at which rate; and its state as named tensors for the checkpoint.

Lower layers may learn more slowly than those above them, or not at all: Howard and Ruder 2018, section 3.2 (rates of
their own); Clark et al. 2020, appendix B (a factor a layer).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from wenlu.core.errors import CheckpointError, SettingsError
from wenlu.core.log import Notice
from wenlu.core.settings import changed, refuse_changed, refuse_outside, unused_setting

if TYPE_CHECKING:
    from wenlu.training.settings import RunSettings

_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.")
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration; they maximise the slope at zero, so singular values end in about (0.7, 1.2), not at 1."""
OptimizerName = Literal["muon", "adamw", "adam"]
Role = Literal["matrix", "embedding", "head", "vector"]


@dataclass(frozen=True)
class OptimizerSettings:
    """The ``[optimizer]`` table.

    Parameters play four roles: ``matrix`` (two or more dimensions), ``embedding``, ``head`` (the untied output matrix)
    and ``vector`` (norms, biases). ``muon`` moves the matrices with Muon, the rest with AdamW; ``adamw`` and ``adam``
    (decay added to the gradient) move all. ``learning_rate`` is the peak rate of the matrices, the other three follow
    it when they are None. Weight decay acts on matrices and the head, never on embeddings, norms or biases.
    ``layer_decay`` multiplies the rates of the top layer, its square those of the next, and so on to the embeddings.
    ``frozen_layers`` from the bottom, and the embeddings, stay as they are.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    embedding_rate: float | None = None
    head_rate: float | None = None
    vector_rate: float | None = None
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    frozen_layers: int = 0
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
            "0 < x <= 1": ("layer_decay",),
            ">= 0": ("momentum_warmup_steps", "frozen_layers"),
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


def layer_depths(model: nn.Module) -> dict[str, int]:
    """How far each parameter lies below the heads: 0 for these, 1 for a stack's top layer, the most for embeddings."""
    layers = {name: _LAYER.match(name) for name, _ in model.named_parameters()}
    sizes: dict[str, int] = {}
    for layer in filter(None, layers.values()):
        sizes[layer[1]] = max(sizes.get(layer[1], 0), int(layer[2]) + 1)
    lowest = max(sizes.values(), default=0) + 1
    return {
        name: sizes[layer[1]] - int(layer[2]) if layer else lowest if _is_embedding(name) else 0
        for name, layer in layers.items()
    }


def freeze_layers(model: nn.Module, count: int) -> None:
    """Leave the embeddings and ``count`` layers of each stack as they are, from the bottom; 0 leaves nothing."""
    for name, parameter in model.named_parameters() if count else ():
        layer = _LAYER.match(name)
        if int(layer[2]) < count if layer else _is_embedding(name):
            parameter.requires_grad_(False)


def refuse_layers(model: nn.Module, settings: RunSettings) -> None:
    """Refuse settings of layers that nothing would read.

    Raises:
        SettingsError: ``core.setting_unused`` for a model without such layers, or frozen layers with LoRA, which
            freezes all; ``training.range`` for more layers than there are.
    """
    layers = [int(layer[2]) + 1 for name, _ in model.named_parameters() if (layer := _LAYER.match(name))]
    frozen, rank = settings.optimizer.frozen_layers, settings.lora.rank
    for key, value in changed(settings.optimizer, "optimizer", ["layer_decay", "frozen_layers"]).items():
        if not layers or (rank and key == "optimizer.frozen_layers"):
            setting, found = ("lora.rank", rank) if layers else ("model.kind", settings.model.kind)
            raise unused_setting(key, value, because=Notice("training.because", {"setting": setting, "value": found}))
    if frozen > max(layers, default=frozen):
        bounds = f"<= {max(layers)}"
        raise SettingsError("training.range", setting="optimizer.frozen_layers", value=frozen, bounds=bounds)


def _is_embedding(name: str) -> bool:
    """Whether what lies in no layer stands below them all."""
    return not name.startswith("head.") and ".final_norm." not in name


def orthogonalize(matrices_NRC: Tensor, *, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """Replace each matrix U S V^T of a batch by about U V^T (quintic Newton-Schulz iteration).

    The result has the input's dtype; the iteration runs in ``dtype`` (None: the input's).
    """
    a, b, c = COEFFICIENTS
    x = matrices_NRC.to(dtype or matrices_NRC.dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # the spectral norm is at most 1 now
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_NRC.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov's) whose update is orthogonalised, for weight matrices.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. torch has `torch.optim.Muon` since 2.9, with the
    same formula (a test compares them), but its Newton-Schulz iteration is always bfloat16: slower than float32 on
    processors that lack fast bfloat16 products, and impossible to check in float64. This one takes the precision as an
    argument, and matrices of one shape (up to transposition) as one batch. Measured for 4 layers of 192 on one core of
    a Xeon without AMX: 88 ms a step in float32 and 130 ms in bfloat16, torch's 136 ms.

    The rate of a matrix of R rows and C columns is lr * max(1, R / C) ** 0.5. State: ``momentum_buffer``, an
    exponential average of the gradients.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[Mapping[str, object]],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        newton_schulz_steps: int = 5,
        dtype: torch.dtype | None = None,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": newton_schulz_steps}
        super().__init__(params, defaults)  # type: ignore[arg-type]  # torch's ParamsT wants dict, not Mapping
        self.dtype = dtype
        for group in self.param_groups:
            assert all(parameter.ndim == 2 for parameter in group["params"]), "Muon is for matrices"

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures: the trainer owns the gradients
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = {}  # of one shape up to transposition, in a fixed order
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(tuple(sorted(parameter.shape)), []).append(parameter)
                    if not self.state[parameter]:
                        self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            for parameters in alike.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: Mapping[str, float]) -> None:
        momentum, rate = group["momentum"], group["lr"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers: list[Tensor] = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        nesterov = torch._foreach_lerp(gradients, buffers, momentum)
        wide = torch.stack([update.mT if update.size(0) > update.size(1) else update for update in nesterov])
        updates = orthogonalize(wide, steps=int(group["steps"]), dtype=self.dtype)
        for parameter, update in zip(parameters, updates, strict=True):
            rows, columns = parameter.shape
            if group["weight_decay"]:
                parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update.mT if rows > columns else update, alpha=-rate * max(1.0, rows / columns) ** 0.5)


class Optimizer:
    """The optimizers of one model behind one face.

    Args:
        model: its trainable parameters are moved; frozen layers become untrainable.
        settings: rates and constants.
        newton_schulz_dtype: the precision of Muon's iteration; bfloat16 where the processor is fast in it.
    """

    def __init__(
        self, model: nn.Module, settings: OptimizerSettings, *, newton_schulz_dtype: torch.dtype | None = None
    ) -> None:
        self.settings = settings
        freeze_layers(model, settings.frozen_layers)
        depths = layer_depths(model) if settings.layer_decay < 1 else {}
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        alike: dict[tuple[bool, Role, int], list[nn.Parameter]] = {}  # of one role, in layers of one depth
        for name, role in parameter_roles(model).items():
            parameter = self.parameters[name]
            by_muon = settings.name == "muon" and role == "matrix" and parameter.ndim == 2
            alike.setdefault((by_muon, role, depths.get(name, 0)), []).append(parameter)
        groups: dict[bool, list[dict[str, object]]] = {True: [], False: []}
        for by_muon, role, depth in sorted(alike):
            decay = settings.weight_decay if role in ("matrix", "head") else 0.0
            rate = settings.rate(role) * settings.layer_decay**depth
            group = {"params": alike[by_muon, role, depth], "lr": rate, "peak": rate, "weight_decay": decay}
            groups[by_muon].append(group)
        parts: list[torch.optim.Optimizer] = []
        if groups[True]:
            steps = settings.newton_schulz_steps
            parts.append(Muon(groups[True], newton_schulz_steps=steps, dtype=newton_schulz_dtype))
        if groups[False]:
            kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
            betas = (settings.beta1, settings.beta2)
            parts.append(kind(groups[False], betas=betas, eps=settings.eps, fused=True))
        self._parts = parts
        self._of = {held: part for part in parts for group in part.param_groups for held in group["params"]}

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
        states = {name: self._of[held].state.get(held, {}) for name, held in self.parameters.items()}
        return {f"{name}/{key}": value.detach() for name, state in states.items() for key, value in state.items()}

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
            self._of[parameter].state[parameter][key] = own_memory(tensor, parameter.device)


def own_memory(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy in memory of our own, which a mapped file is not: it may be aligned otherwise."""
    return torch.empty_like(tensor, device=device).copy_(tensor)
