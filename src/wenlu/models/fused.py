"""RMSNorm and rotary embedding in few passes over memory, for training on a CPU.

torch takes them apart on a CPU: many small operations forwards, more of them backwards, each with a result of its own.
These overwrite their results in place and know their own derivative. Elsewhere (CUDA, half precision,
``torch.compile``, which fuses by itself) torch's operations are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean of x^2 over the last dimension + eps), times the weight (Zhang and Sennrich 2019)."""
    if _best_by_torch(x):
        return F.rms_norm(x, weight_D.shape, weight_D.to(x.dtype), eps)
    if not torch.is_grad_enabled():  # an autograd function's own overhead is that of the norm of a token
        return _normed(x, weight_D, eps)[0]
    return cast(Callable[..., Tensor], _RMSNorm.apply)(x, weight_D, eps)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + e) of the last dimension, of 2 e, by the angles; cos and sin broadcast to (..., e)."""
    if _best_by_torch(x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    if not torch.is_grad_enabled():
        return _turned(x, cos, sin, sign=1)
    return cast(Callable[..., Tensor], _RotateHalves.apply)(x, cos, sin)


def _best_by_torch(x: Tensor) -> bool:
    return torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64)


def _normed(x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm's output, and what it multiplied x by."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * inverse).mul_(weight_D), inverse


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        output, inverse = _normed(x, weight_D, eps)
        ctx.save_for_backward(x, weight_D, inverse)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_D, inverse = ctx.saved_tensors
        normal = x * inverse
        product = gradient * normal
        of_weight_D = product.flatten(0, -2).sum(0)
        along = product @ weight_D  # the gradient's part along x, which the division takes out
        of_x = torch.mul(gradient, weight_D, out=product)
        of_x.addcmul_(normal, along[..., None], value=-1 / x.shape[-1]).mul_(inverse)
        return of_x, of_weight_D, None


class _RotateHalves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, sign=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, sign=-1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, *, sign: int) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    output = torch.empty(x.shape, dtype=x.dtype)
    first, second = output.chunk(2, dim=-1)
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=second).addcmul_(a, sin, value=sign)
    return output
