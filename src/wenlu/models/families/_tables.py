"""The two tables of a family: keys of its config.json with the choices they make, and names of weights with ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from wenlu.models.config import FeedForwardKind, Head, StackConfig, given
from wenlu.models.families._files import HFConfig, written_choice

Form = Literal["plain", "transposed", "row"]
"""How their tensor lies: as ours; matrices as (in, out), as GPT-2's Conv1D has them; a vector as one row."""


class Key(NamedTuple):
    """A key of a config.json, and the choices on a stack that its value makes; the first of them is written back.

    ``words`` says what its words stand for. Else it is a number, an integer where the default is no float.
    """

    theirs: str
    ours: str  # choices, with blanks between them
    default: Any = None  # what a file without it means; None: each must have it
    words: Mapping[str, Any] | None = None
    optional: bool = False  # None where the file does not say

    @property
    def first(self) -> str:
        """The choice that is written back."""
        return self.ours.split()[0]

    def read(self, hf: HFConfig, default: object) -> object:
        """The value in a config.json."""
        absent: Any = given(default, self.default)
        if self.words is not None:
            return hf.choice(self.theirs, self.words, absent)
        if self.optional:
            return hf.optional_integer(self.theirs)
        return hf.number(self.theirs, absent) if isinstance(absent, float) else hf.integer(self.theirs, absent)

    def write(self, stack: StackConfig) -> object:
        """What a config.json says of a stack."""
        value = getattr(stack, self.first)
        return value if self.words is None else written_choice(self.words, value)


@dataclass(frozen=True)
class Entry:
    """One row of a table: a module of theirs and the modules of ours that it fills; ``{}`` is the layer number."""

    theirs: str
    ours: tuple[str, ...]  # several when theirs is fused
    form: Form = "plain"
    only: Head | FeedForwardKind | None = None  # of models with this head, or this kind of feed-forward

    def shape(self, ours: Mapping[str, Tensor]) -> tuple[int, ...]:
        """The shape of their tensor, from the parameters of ours that it fills."""
        first = next(iter(ours.values()))
        shape = (sum(parameter.shape[0] for parameter in ours.values()), *first.shape[1:])
        return (1, *shape) if self.form == "row" else shape[::-1] if self.form == "transposed" else shape

    def load(self, tensor: Tensor, ours: Mapping[str, Tensor]) -> list[Tensor]:
        """Our tensors from theirs, which has their shape."""
        tensor = tensor[0] if self.form == "row" else tensor.t() if self._turned(tensor) else tensor
        return [part.contiguous() for part in torch.split(tensor, [parameter.shape[0] for parameter in ours.values()])]

    def save(self, parts: list[Tensor]) -> Tensor:
        """Their tensor from ours."""
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        tensor = tensor[None] if self.form == "row" else tensor.t() if self._turned(tensor) else tensor
        return tensor.contiguous()

    def _turned(self, tensor: Tensor) -> bool:
        return self.form == "transposed" and tensor.dim() == 2


def table(names: str, *, form: Form = "plain", only: Head | FeedForwardKind | None = None) -> tuple[Entry, ...]:
    """Read the rows of a table: ``their.module -> our.module``.

    ``{q,k}`` on both sides stands for a row each; on the right alone, for the modules that a fused one of theirs fills.
    """
    found: list[Entry] = []
    for line in filter(str.strip, names.splitlines()):
        theirs, ours = map(_spread, line.split("->"))
        rows = (
            [(theirs[0], tuple(ours))] if len(theirs) == 1 else [(a, (b,)) for a, b in zip(theirs, ours, strict=True)]
        )
        found += [Entry(*row, form, only) for row in rows]
    return tuple(found)


def _spread(name: str) -> list[str]:
    """The names that ``{a,b}`` in a name stands for, as in a shell."""
    braces = re.search(r"\{(\w+(?:,\w+)+)\}", name)
    parts = [""] if braces is None else braces[1].split(",")
    return [name.strip() if braces is None else name.strip().replace(braces[0], part) for part in parts]
