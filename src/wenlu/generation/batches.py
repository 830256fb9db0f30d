"""Texts of like length, read together by a model that sees a whole text at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wenlu.core.log import progress
from wenlu.models.device import device_of
from wenlu.models.transformer import Transformer

TOKENS_PER_BATCH_ON_CPU = 2048
TOKENS_PER_BATCH = 16384


@dataclass(frozen=True)
class Batch:
    """Rows by their numbers: ids (B, S), padded at the right where the mask (B, S) is False, and states (B, S, D)."""

    numbers: list[int]
    ids: Tensor
    mask: Tensor
    states: Tensor


def in_batches(
    model: Transformer, rows: Sequence[list[int]], pad_id: int, read: Callable[..., Tensor], *, shown: str
) -> Iterator[Batch]:
    """The states of all rows, the longest first: ``read(ids, mask=...)`` gives them. Padding rounds them differently.

    The model is in evaluation mode meanwhile. ``shown`` names the progress.
    """
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]), reverse=True)
    device, was_training = device_of(model), model.training
    slots = TOKENS_PER_BATCH_ON_CPU if device.type == "cpu" else TOKENS_PER_BATCH
    model.eval()
    try:
        with progress(shown, total=len(rows), unit="texts") as bar:
            while order:
                size = max(1, slots // len(rows[order[0]]))
                numbers, order = order[:size], order[size:]
                S = len(rows[numbers[0]])
                padded = [rows[number] + [pad_id] * (S - len(rows[number])) for number in numbers]
                ids_BS = torch.tensor(padded, device=device)
                lengths_B = torch.tensor([len(rows[number]) for number in numbers], device=device)
                mask_BS = torch.arange(S, device=device) < lengths_B[:, None]
                states_BSD = read(ids_BS, mask=None if bool(mask_BS.all()) else mask_BS)
                yield Batch(numbers, ids_BS, mask_BS, states_BSD)
                bar.advance(len(numbers))
    finally:
        model.train(was_training)
