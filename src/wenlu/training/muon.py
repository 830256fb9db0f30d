"""Muon: momentum whose update is orthogonalised, for weight matrices.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. torch has `torch.optim.Muon` since 2.9, with the same
formula (a test compares them), but its Newton-Schulz iteration is always bfloat16: slower than float32 on processors
that lack fast bfloat16 products, and impossible to check in float64. This one takes the precision as an argument, and
matrices of one shape (up to transposition) as one batch. Measured for 4 layers of 192 on one core of a Xeon without
AMX: 88 ms a step in float32 and 130 ms in bfloat16, torch's 136 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration; they maximise the slope at zero, so singular values end in about (0.7, 1.2), not at 1."""


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
    """Muon with Nesterov momentum for two-dimensional parameters.

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
            for parameters in _by_shape(group["params"]):
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: Mapping[str, float]) -> None:
        momentum, rate = group["momentum"], group["lr"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        nesterov = torch._foreach_lerp(gradients, buffers, momentum)
        wide = torch.stack([update.mT if update.size(0) > update.size(1) else update for update in nesterov])
        for parameter, update in zip(
            parameters, orthogonalize(wide, steps=int(group["steps"]), dtype=self.dtype), strict=True
        ):
            rows, columns = parameter.shape
            if group["weight_decay"]:
                parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update.mT if rows > columns else update, alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
        assert isinstance(buffer, Tensor)
        return buffer


def _by_shape(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Parameters with a gradient, those of one shape up to transposition together; in a fixed order."""
    shapes: dict[tuple[int, int], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            short, long = sorted(parameter.shape)
            shapes.setdefault((short, long), []).append(parameter)
    return list(shapes.values())
