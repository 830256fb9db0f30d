"""RMSNorm and rotation with derivatives of our own, against torch's operations and against finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wenlu.models.fused import rms_norm, rotate_halves

SHAPES = [(2, 5, 8), (3, 4, 2, 6), (7, 10)]


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm_is_torchs(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape[-1], dtype=torch.float64, requires_grad=True)
    ours, theirs = rms_norm(x, weight, 1e-5), F.rms_norm(x, weight.shape, weight, 1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(shape, dtype=torch.float64)
    for mine, reference in zip(
        torch.autograd.grad(ours, (x, weight), upstream),
        torch.autograd.grad(theirs, (x, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(x, weight, 1e-5), (x, weight))


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_is_the_written_out_one(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    angles = torch.randn((shape[1], *[1] * (len(shape) - 3), shape[-1] // 2) if len(shape) > 2 else (shape[-1] // 2,))
    cos, sin = angles.double().cos(), angles.double().sin()
    torch.testing.assert_close(rotate_halves(x, cos, sin), _rotated(x, cos, sin), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: rotate_halves(x, cos, sin), (x,))


@pytest.mark.parametrize("strided", [False, True])
def test_gradients_that_are_not_contiguous(strided: bool) -> None:
    """Attention hands back gradients whose heads and positions are swapped."""
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64)
    upstream = torch.randn(2, 4, 3, 6, dtype=torch.float64).transpose(1, 2)
    upstream = upstream if strided else upstream.contiguous()
    (ours,) = torch.autograd.grad(rms_norm(x, weight, 1e-6), x, upstream)
    (theirs,) = torch.autograd.grad(F.rms_norm(x, (6,), weight, 1e-6), x, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
