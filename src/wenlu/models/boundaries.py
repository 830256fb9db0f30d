"""Where documents begin inside a batch: what models that read from left to right (LSTM, n-gram) must forget at.

B batch, S length of the window.
"""

from __future__ import annotations

import torch
from torch import Tensor


def document_starts(
    input_ids_BS: Tensor,
    *,
    positions: Tensor | None = None,
    document_ids: Tensor | None = None,
    mask: Tensor | None = None,
    continues: bool = False,
) -> Tensor:
    """True (bool, B S) in every slot whose model state must not see the slot before it.

    A document begins where ``positions`` is 0, where ``document_ids`` changes, and at the first slot after padding. The
    first slot continues what came before only if ``continues`` (a cache was given that has read something) and its
    position, when given, is not 0.
    """
    starts_BS = torch.zeros_like(input_ids_BS, dtype=torch.bool)
    if not continues:
        starts_BS[:, 0] = True
    if positions is not None:
        starts_BS |= positions.expand_as(input_ids_BS) == 0
    if document_ids is not None:
        starts_BS[:, 1:] |= document_ids[:, 1:] != document_ids[:, :-1]
    if mask is not None:
        if mask.shape != input_ids_BS.shape:
            raise ValueError(f"mask {tuple(mask.shape)} for tokens {tuple(input_ids_BS.shape)}: only padding (B, S)")
        starts_BS[:, 1:] |= mask[:, 1:] & ~mask[:, :-1]
    return starts_BS
