"""Log-probabilities of documents under a language model: one rule of windows for every model.

A document with tokens d[0], ..., d[n-1] (the last one the end token) has n slots: the model reads the token that stands
before texts (``Tokenizer.context_id``) and d[0], ..., d[n-2] and predicts d[0], ..., d[n-1]. So every token is a target
exactly once. Windows of ``context`` slots begin ``stride`` slots apart; each scores what no window before it has,
with positions counted from 0::

    context 6, stride 3     slots  0 1 2 3 4 5 6 7 8 9
    window 1                       S S S S S S            S scored
    window 2                             . . . S S S      . context only
    window 3                                   . . . S

B windows, S slots of the longest of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wenlu.core.errors import NotFiniteError, RequestError, SettingsError
from wenlu.evaluation.documents import TokenizedDocument
from wenlu.metrics.language_model import charged_nats
from wenlu.models.config import LanguageModel
from wenlu.models.device import device_of
from wenlu.models.roles import causal_model

IGNORE_INDEX = -100
# A processor is busy with few slots, and rows of like length waste fewer; what more of them compute is new memory.
SLOTS_PER_BATCH_ON_CPU = 1024
SLOTS_PER_BATCH = 4096
_SLOTS_AT_ONCE = 65536

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DocumentScore:
    """What one document costs a model. ``nats`` are the model's own; ``charged`` those that reports count."""

    nats: float
    tokens: int
    num_bytes: float
    num_characters: float
    language: str
    lossless: bool
    cut: bool = False

    @property
    def charged(self) -> float:
        """Nats by which bits per byte and per character are counted: 8 bits a byte for what does not round-trip."""
        return charged_nats(self.nats, self.num_bytes, lossless=self.lossless)


@dataclass(frozen=True)
class Windows:
    """The window rule: at most ``context`` slots, begun ``stride`` slots apart.

    Raises:
        SettingsError: ``evaluation.window`` unless 1 <= stride <= context.
    """

    context: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.context:
            raise SettingsError("evaluation.window", context=self.context, stride=self.stride)

    def of(self, num_slots: int) -> Iterator[tuple[int, int, int]]:
        """(start, first scored slot, end) of each window of a document."""
        scored, start = 0, 0
        while scored < num_slots:
            end = min(start + self.context, num_slots)
            yield start, scored, end
            scored, start = end, start + self.stride


@dataclass
class _Window:
    """One row: the inputs, the labels that count, and the document it belongs to."""

    document: int
    inputs: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    first: int


def check_context(model: LanguageModel, windows: Windows) -> None:
    """Refuse windows longer than the model can read.

    Raises:
        RequestError: ``evaluation.context_too_long``.
    """
    if model.max_positions is not None and windows.context > model.max_positions:
        raise RequestError("evaluation.context_too_long", context=windows.context, max_positions=model.max_positions)


def token_log_probs(
    model: LanguageModel,
    documents: Iterable[TokenizedDocument],
    *,
    context_id: int,
    windows: Windows,
    slots_per_batch: int | None = None,
) -> Iterator[Floats]:
    """Natural-log probability of every token of each document, document by document.

    Documents are gathered until they fill some batches, and windows of like length are read together; how many (by
    default what suits the device) changes results by rounding only. The model is left in the mode it was in.

    Raises:
        RequestError: ``evaluation.context_too_long``, or the model does not read from left to right.
        NotFiniteError: ``evaluation.not_finite`` when the model gives NaN.
    """
    module = cast(nn.Module, model)
    causal_model(module)
    check_context(model, windows)
    device = device_of(module)
    if slots_per_batch is None:
        slots_per_batch = SLOTS_PER_BATCH_ON_CPU if device.type == "cpu" else SLOTS_PER_BATCH
    was_training = module.training
    try:
        for group in _groups(documents, max(_SLOTS_AT_ONCE, slots_per_batch)):
            if module.training:  # the walk over all modules is as long as the scoring of a short text
                module.eval()
            results = [np.zeros(len(document.ids)) for document in group]
            rows = [
                row for number, document in enumerate(group) for row in _rows(number, document, context_id, windows)
            ]
            rows.sort(key=lambda row: len(row.inputs), reverse=True)
            while rows:
                number = max(1, slots_per_batch // len(rows[0].inputs))
                _score(model, rows[:number], results, context_id=context_id, device=device)
                rows = rows[number:]
            yield from results
    finally:
        if was_training:
            module.train()


def score_documents(
    model: LanguageModel,
    documents: Iterable[TokenizedDocument],
    *,
    context_id: int,
    windows: Windows,
    slots_per_batch: int | None = None,
) -> Iterator[DocumentScore]:
    """The sums of each document, in order, streamed; arguments and errors as for ``token_log_probs``."""
    waiting: list[TokenizedDocument] = []

    def passing() -> Iterator[TokenizedDocument]:
        for document in documents:
            waiting.append(document)
            yield document

    scored = token_log_probs(model, passing(), context_id=context_id, windows=windows, slots_per_batch=slots_per_batch)
    for log_probs in scored:
        document = waiting.pop(0)
        yield DocumentScore(
            nats=-math.fsum(log_probs),
            tokens=len(document.ids),
            num_bytes=document.num_bytes,
            num_characters=document.num_characters,
            language=document.language,
            lossless=document.lossless,
            cut=document.cut,
        )


def _groups(documents: Iterable[TokenizedDocument], slots: int) -> Iterator[list[TokenizedDocument]]:
    group: list[TokenizedDocument] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document.ids)
        if size >= slots:
            yield group
            group, size = [], 0
    if group:
        yield group


def _rows(number: int, document: TokenizedDocument, context_id: int, windows: Windows) -> Iterator[_Window]:
    inputs = np.concatenate([np.array([context_id], dtype=np.int64), document.ids[:-1]])
    for start, scored, end in windows.of(len(document.ids)):
        labels = document.ids[start:end].copy()
        labels[: scored - start] = IGNORE_INDEX
        yield _Window(number, inputs[start:end], labels, start)


@torch.no_grad()
def _score(
    model: LanguageModel, rows: list[_Window], results: list[Floats], *, context_id: int, device: torch.device
) -> None:
    """Put the log-probabilities of the rows where they belong. Rows are padded at the right, where causal models do not
    look; a padded slot has no label.
    """
    shape = (len(rows), len(rows[0].inputs))
    inputs, labels = np.full(shape, context_id), np.full(shape, IGNORE_INDEX)
    for index, row in enumerate(rows):
        inputs[index, : len(row.inputs)] = row.inputs
        labels[index, : len(row.labels)] = row.labels
    log_probs_BS = model.target_log_probs(
        torch.from_numpy(inputs).to(device), torch.from_numpy(labels).to(device)
    ).cpu()
    if bool(torch.isnan(log_probs_BS).any()):
        raise NotFiniteError("evaluation.not_finite")
    values = log_probs_BS.double().numpy()
    for index, row in enumerate(rows):
        counted = row.labels != IGNORE_INDEX
        slots = row.first + np.flatnonzero(counted)
        results[row.document][slots] = values[index, : len(row.labels)][counted]
