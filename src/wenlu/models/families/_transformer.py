"""What a Transformer family is: how its config.json reads, and a two-column table of weight names.

The table is read left to right to load and right to left to export. Every tensor of a file is used or listed as
ignored; every parameter is filled. Nothing is loaded ``strict=False``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from wenlu.core.errors import CheckpointError, SettingsError
from wenlu.models.config import ModelSettings, Scheme, TransformerConfig, given
from wenlu.models.families._files import HFConfig, Weights, write_model
from wenlu.models.initialization import initialize
from wenlu.models.transformer import Transformer, on_meta

TOKEN_EMBEDDING = "decoder.embeddings.token"
OUTPUT = "head.output"

# The settings that every Transformer kind reads.
COMMON = frozenset(
    {"num_layers", "hidden_size", "num_heads", "intermediate_size", "max_positions", "tie_embeddings", "dropout"}
    | {"initialization"}
)


@dataclass(frozen=True)
class Entry:
    """One row of a table: a module of theirs and the modules of ours that it fills; ``{}`` is the layer number."""

    theirs: str
    ours: tuple[str, ...]  # several when theirs is fused
    transposed: bool = False  # theirs stores matrices (in, out), as GPT-2's Conv1D does

    def load(self, tensor: Tensor, sizes: list[int]) -> list[Tensor]:
        """Our tensors, with ``sizes`` rows each, from theirs."""
        tensor = tensor.t() if self.transposed and tensor.dim() == 2 else tensor
        return [part.contiguous() for part in torch.split(tensor, sizes)]

    def save(self, parts: list[Tensor]) -> Tensor:
        """Their tensor from ours."""
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (tensor.t() if self.transposed and tensor.dim() == 2 else tensor).contiguous()


def table(names: str, *, transposed: bool = False) -> tuple[Entry, ...]:
    """Read the rows of a table: ``their.module -> our.module [our.module ...]``."""
    rows = [line.split("->") for line in names.strip().splitlines()]
    return tuple(Entry(theirs.strip(), tuple(ours.split()), transposed) for theirs, ours in rows)


@dataclass(frozen=True)
class TransformerFamily:
    """A family of Transformers. Implements ``wenlu.models.config.Family``.

    ``config`` reads their config.json and ``to_hf`` writes it; a family can express exactly the configs that survive
    writing and reading. ``settings_to_config`` makes the config of a new model.
    """

    model_type: str
    config: Callable[[HFConfig], TransformerConfig]
    to_hf: Callable[[TransformerConfig], dict[str, object]]
    settings_to_config: Callable[[ModelSettings, int, int], TransformerConfig]
    entries: tuple[Entry, ...]
    prefix: str  # of their base model; files of bare models lack it
    uses: frozenset[str]
    scheme: Scheme  # of an untied model; a tied one starts as gpt2
    ignored: tuple[str, ...] = ()  # patterns of tensors that hold no weights

    def build(
        self, settings: ModelSettings, *, vocab_size: int, end_id: int, sequence_length: int, seed: int
    ) -> nn.Module:
        """A new model with initial weights drawn from the seed; under ``torch.device("meta")`` its shapes alone."""
        config = self.settings_to_config(settings, vocab_size, sequence_length)
        config = replace(config, start_token_id=end_id, end_token_id=end_id)
        model = on_meta(config)
        if torch.get_default_device().type == "meta":
            return model
        model = model.to_empty(device="cpu")
        scheme: Scheme = "gpt2" if config.tie_embeddings else self.scheme
        initialize(model, seed=seed, scheme=given(settings.initialization, scheme))
        return model

    def load(self, hf: Mapping[str, object], directory: Path, *, dtype: torch.dtype) -> nn.Module:
        """The model of a directory: its weights read from a memory map, its embeddings tied or not by the tensors.

        Raises:
            CheckpointError: ``models.tensors_missing``, ``models.tensors_unused``, ``models.tensor_shape``, ...
        """
        with Weights(directory) as weights:
            known = {f"{entry.theirs}.{kind}" for entry in self.entries for kind in ("weight", "bias")}
            names = {self._canonical(name, known): name for name in weights.names}
            config = self.config(HFConfig(hf, directory / "config.json"))
            config = self._tied_by_tensors(config, names, weights)
            model = on_meta(config)
            state: dict[str, Tensor] = {}
            unused = dict(names)
            missing = []
            for theirs, entry, ours in self._rows(config, dict(model.named_parameters())):
                if theirs not in names:
                    missing.append(theirs)
                    continue
                tensor = weights.read(unused.pop(theirs))
                expected = _fused_shape(entry, ours)
                if tuple(tensor.shape) != expected:
                    raise CheckpointError(
                        "models.tensor_shape",
                        name=theirs, path=directory, found=tuple(tensor.shape), expected=expected,
                    )  # fmt: skip
                parts = entry.load(tensor, [parameter.shape[0] for parameter in ours.values()])
                state |= {name: part.to(dtype) for name, part in zip(ours, parts, strict=True)}
        if missing:
            raise CheckpointError("models.tensors_missing", names=_some(missing), count=len(missing), path=directory)
        left = [name for name in unused if not any(re.fullmatch(pattern, name) for pattern in self.ignored)]
        if config.tie_embeddings and (tied := self._output_name() + ".weight") in left:
            left.remove(tied)
        if left:
            raise CheckpointError("models.tensors_unused", names=_some(left), count=len(left), path=directory)
        model.load_state_dict(state, assign=True)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model

    def save(self, model: nn.Module, directory: Path) -> bool:
        """Write config.json and model.safetensors in float32; False when the family cannot express the model."""
        if not isinstance(model, Transformer) or not self.expresses(model.config):
            return False
        rows = self._rows(model.config, dict(model.named_parameters()))
        tensors = {theirs: entry.save([p.detach().float() for p in ours.values()]) for theirs, entry, ours in rows}
        write_model(directory, {"model_type": self.model_type, "dtype": "float32", **self.to_hf(model.config)}, tensors)
        return True

    def expresses(self, config: TransformerConfig) -> bool:
        """Whether the config survives being written and read by this family."""
        try:
            again = self.config(HFConfig(self.to_hf(config), Path("config.json")))
        except (CheckpointError, SettingsError):  # a size that this family derives may not come out for this model
            return False
        return _resolved(again) == _resolved(config)

    def _rows(
        self, config: TransformerConfig, parameters: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Entry, dict[str, Tensor]]]:
        """Every tensor of theirs that the config has, with our parameters that it fills; checks that all are filled."""
        left = set(parameters)
        for entry in self.entries:
            for number in range(config.decoder.num_layers if "{}" in entry.theirs else 1):
                for kind in ("weight", "bias"):
                    names = [f"{ours}.{kind}".format(number) for ours in entry.ours]
                    if names[0] in parameters:
                        left -= set(names)
                        yield f"{entry.theirs}.{kind}".format(number), entry, {n: parameters[n] for n in names}
        assert not left, f"{self.model_type}: the table fills no {sorted(left)}"

    def _canonical(self, name: str, known: set[str]) -> str:
        """Their name with the family's prefix, whether the file has it or not."""
        prefixed = self.prefix + name
        return prefixed if re.sub(r"\.\d+\.", ".{}.", prefixed) in known else name

    def _output_name(self) -> str:
        return next(entry.theirs for entry in self.entries if entry.ours == (OUTPUT,))

    def _tied_by_tensors(
        self, config: TransformerConfig, names: Mapping[str, str], weights: Weights
    ) -> TransformerConfig:
        """Tied when there is no output matrix, or when it equals the embedding and the config does not untie them."""
        embedding = next(entry.theirs for entry in self.entries if entry.ours == (TOKEN_EMBEDDING,)) + ".weight"
        output = self._output_name() + ".weight"
        tied = output not in names
        if not tied and config.tie_embeddings and embedding in names:
            tied = torch.equal(weights.read(names[output]), weights.read(names[embedding]))
        return replace(config, tie_embeddings=tied)


def _resolved(config: TransformerConfig) -> TransformerConfig:
    """The config with its derived sizes written out, so that equal models have equal configs."""
    stack = config.decoder
    stack = replace(stack, num_kv_heads=stack.kv_heads, head_dim=stack.head_size)
    return replace(config, decoder=stack)


def _fused_shape(entry: Entry, ours: Mapping[str, Tensor]) -> tuple[int, ...]:
    first = next(iter(ours.values()))
    shape = (sum(parameter.shape[0] for parameter in ours.values()), *first.shape[1:])
    return shape[::-1] if entry.transposed else shape


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
