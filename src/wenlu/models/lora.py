"""LoRA: a frozen matrix with a low-rank path beside it (Hu et al. 2021, section 4.1).

    W x + scale * B A x        scale = alpha / rank

``adapters`` puts such paths into a model, and reads and writes PEFT's files of them.

Legend: R rank, I inputs, O outputs of a matrix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoraLinear(nn.Linear):
    """A matrix of a model, its own weight and bias as they were, and the path beside it."""

    def __init__(self, base: nn.Linear, a_RI: nn.Parameter, b_OR: Tensor, *, scale: float, dropout: float) -> None:
        super(nn.Linear, self).__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight = base.weight
        self.register_parameter("bias", base.bias)
        self.lora_A = a_RI
        self.lora_B = nn.Parameter(b_OR)
        self.scale, self.dropout = scale, dropout

    def forward(self, x: Tensor) -> Tensor:
        """The matrix's output and the path's; dropout acts on what the path reads."""
        low = F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)
        return super().forward(x) + self.scale * F.linear(low, self.lora_B)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """Matrix and path as one matrix, in float32."""
        return self.weight.float() + self.scale * (self.lora_B.float() @ self.lora_A.float())


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model with its paths merged into the matrices: that of a model without LoRA."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not is_lora(name)}
    return state | {f"{name}.weight": module.merged() for name, module in _paths(model).items()}


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """What ``merged_state`` cannot give back: the paths, and the matrices beside them; empty without LoRA."""
    beside = {f"{name}.weight" for name in _paths(model)}
    return {name: tensor for name, tensor in model.named_parameters() if name in beside or is_lora(name)}


def is_lora(name: str) -> bool:
    """Whether a parameter of this name belongs to a path."""
    return name.endswith((".lora_A", ".lora_B"))


def _paths(model: nn.Module) -> dict[str, LoraLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
