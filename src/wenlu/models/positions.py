"""Where a token stands: where documents begin, counting positions, sinusoids, rotary embedding, relative distances.

Legend: B batch, S query length, H heads, E head size; e = E / 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wenlu.models.config import Cache, RopeScaling, StackConfig
from wenlu.models.fused import rotate_halves


def count_positions(document_ids_BS: Tensor) -> Tensor:
    """Positions (B, S) that restart at 0 where a document begins."""
    index_S = torch.arange(document_ids_BS.shape[1], device=document_ids_BS.device)
    begins_BS = torch.ones_like(document_ids_BS, dtype=torch.bool)
    begins_BS[:, 1:] = document_ids_BS[:, 1:] != document_ids_BS[:, :-1]
    return index_S - torch.where(begins_BS, index_S, 0).cummax(dim=1).values


def document_starts(
    input_ids_BS: Tensor,
    *,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    document_ids: Tensor | None = None,
    cache: Cache | None = None,
) -> Tensor:
    """True (bool, B S) in every slot whose state must not see the slot before it, in models that read step by step.

    A document begins where ``positions`` is 0, where ``document_ids`` changes, and at the first slot after padding. The
    first slot continues what came before only if a cache was given that has read something, and its position, when
    given, is not 0.
    """
    starts_BS = torch.zeros_like(input_ids_BS, dtype=torch.bool)
    starts_BS[:, 0] = cache is None or cache.length == 0
    if positions is not None:
        starts_BS |= positions.expand_as(input_ids_BS) == 0
    if document_ids is not None:
        starts_BS[:, 1:] |= document_ids[:, 1:] != document_ids[:, :-1]
    if mask is not None:
        if mask.shape != input_ids_BS.shape:
            raise ValueError(f"mask {tuple(mask.shape)} for tokens {tuple(input_ids_BS.shape)}: only padding (B, S)")
        starts_BS[:, 1:] |= mask[:, 1:] & ~mask[:, :-1]
    return starts_BS


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None, device: torch.device) -> Tensor:
    """Rotary frequencies (e) in float32, as the reference libraries compute them.

    RoFormer (Su et al. 2021), section 3.4.2; the scaling is that of Llama 3.1 (``apply_scaling`` of its release).
    """
    frequencies_e = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    if scaling is None:
        return frequencies_e
    if scaling.original_max_positions is None:
        return frequencies_e / scaling.factor
    turns_e = scaling.original_max_positions * frequencies_e / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    keep_e = ((turns_e - low) / (high - low)).clamp(0, 1)  # 1: fast, unchanged; 0: slow, stretched by the factor
    return keep_e * frequencies_e + (1 - keep_e) * frequencies_e / scaling.factor


def rotation(positions_BS: Tensor, stack: StackConfig, window: int | None) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines (B, S, 1, e) of the rotary angles, in float32 whatever the model's type.

    Of layers with this window; those with a base of their own are not stretched. None without rotary positions.
    """
    if stack.position != "rotary":
        return None
    theta, scaling = stack.rope_theta, stack.rope_scaling
    if window is not None and stack.window_rope_theta is not None:
        theta, scaling = stack.window_rope_theta, None
    frequencies_e = inverse_frequencies(stack.head_size, theta, scaling, positions_BS.device)
    angles_BS1e = (positions_BS[..., None].float() * frequencies_e)[:, :, None, :]
    return angles_BS1e.cos(), angles_BS1e.sin()


def rotate(x_BSHE: Tensor, cos_BS1e: Tensor, sin_BS1e: Tensor) -> Tensor:
    """Turn the pairs (i, i + e) of every head by the angles: the half-split convention of the checkpoints."""
    return rotate_halves(x_BSHE, cos_BS1e.to(x_BSHE.dtype), sin_BS1e.to(x_BSHE.dtype))


def sinusoids(positions_BS: Tensor, size: int) -> Tensor:
    """Sines, then cosines (B, S, size) of positions, in float32 (Vaswani et al. 2017, section 3.5, in other order).

    The angles are taken in float64, as in the reference libraries' tables: at position 500, float32 is off by 2e-5.
    """
    exponents_e = torch.arange(0, size, 2, dtype=torch.float64, device=positions_BS.device) / size
    angles_BSe = positions_BS[..., None].double() / 10_000.0**exponents_e
    return torch.cat((angles_BSe.sin(), angles_BSe.cos()), dim=-1).float()


def relative_buckets(num_queries: int, num_keys: int, config: StackConfig, device: torch.device) -> Tensor:
    """Bucket (S, T) of each key's distance from each query, the queries being the last of the keys.

    Half of the buckets are single distances, the others grow with their logarithm up to the largest (Raffel et al.
    2020, section 2.1). Looking both ways, half of all are for later keys.
    """
    keys_T = torch.arange(num_keys, device=device)
    back_ST = keys_T[num_keys - num_queries :, None] - keys_T
    later, buckets, distance = 0 * back_ST, config.relative_buckets, config.relative_distance
    if config.attention == "bidirectional":
        buckets //= 2
        later = buckets * (back_ST < 0)
        back_ST = back_ST.abs()
    back_ST = back_ST.clamp(min=0)
    single = buckets // 2
    grown_ST = torch.log(back_ST.clamp(min=1).float() / single) / math.log(distance / single) * (buckets - single)
    far_ST = (single + grown_ST.long()).clamp(max=buckets - 1)
    return later + torch.where(back_ST < single, back_ST, far_ST)
