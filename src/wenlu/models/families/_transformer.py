"""What a Transformer family is: the keys of its config.json, and a two-column table of weight names.

Both are read left to right to load and right to left to export. Every tensor of a file is used or listed as ignored;
every parameter is filled. Nothing is loaded ``strict=False``.
"""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wenlu.core.errors import CheckpointError, SettingsError
from wenlu.models.config import (
    Head,
    ModelSettings,
    Scheme,
    TransformerConfig,
    check_size,
    given,
)
from wenlu.models.families._files import HFConfig, Weights, assign, refuse_names, write_model
from wenlu.models.families._tables import Entry, Key
from wenlu.models.initialization import initialize
from wenlu.models.lora import merged_state
from wenlu.models.transformer import Transformer, on_meta

Architectures = Mapping[str, frozenset[Head]]
"""Names of their classes, with the heads that each has."""

_SETTINGS = Path("run.toml")  # where the values of a new model come from, in messages

_KINDS = ("weight", "bias", "")
_OUTPUT = "head.output"
_PREFIX = "wenlu_"  # of keys that no other library knows; they are written where they say something
_TOKENS = ("encoder.embeddings.token", "decoder.embeddings.token")
_HEADS: dict[str, Head] = {
    "head.transform.dense": "language_model",
    _OUTPUT: "language_model",
    "head.pooler": "pooler",
    "head.pair": "pair",
    "head.classifier": "sequence",
    "head.span": "span",
}

_IDS = {  # special tokens
    "bos_token_id": "start_token_id",
    "eos_token_id": "end_token_id",
    "pad_token_id": "pad_token_id",
    "decoder_start_token_id": "decoder_start_token_id",
}

# The settings that every Transformer kind reads.
COMMON = frozenset(
    {"num_layers", "hidden_size", "num_heads", "intermediate_size", "max_positions", "tie_embeddings", "dropout"}
    | {"initialization"}
)


@dataclass(frozen=True, kw_only=True)
class TransformerFamily(ABC):
    """A family of Transformers. Implements ``wenlu.models.config.Family``.

    ``config`` and ``own_hf`` translate of a config.json what its ``keys`` do not; a family expresses a model when its
    config survives writing and reading. ``new_hf`` is the config.json of a new model. ``architectures`` are the names
    of their classes, with the heads that each has; which heads a file has, its tensors say.
    """

    model_type: str
    entries: tuple[Entry, ...]
    architectures: Architectures
    keys: tuple[Key, ...] = ()  # what a config.json says of a stack
    required: Mapping[str, object] = field(default_factory=dict)  # what it must not say otherwise
    tied: bool = True  # what it means without tie_word_embeddings
    new: Mapping[str, object] = field(default_factory=dict)  # what that of a new model says besides its sizes
    new_heads: int = 2
    new_dropouts: tuple[str, ...] = ("embedding_dropout", "attention_dropout", "residual_dropout")
    gated: bool = False  # feed-forward: two matrices in, so that it is narrower
    prefix: str = "model."  # of their base model; files of bare models lack it
    uses: frozenset[str] = COMMON
    scheme: Scheme = "gpt2"  # of an untied model; a tied one starts as gpt2
    ignored: tuple[str, ...] = ()  # patterns of tensors that hold no weights
    copies: tuple[tuple[str, str], ...] = ()  # tensors that must equal another, and that other one
    untied_copies: bool = True  # their untied models look for the copies too

    @abstractmethod
    def config(self, hf: HFConfig) -> TransformerConfig:
        """Read a config.json."""

    def own_hf(self, config: TransformerConfig) -> dict[str, object]:
        """What a config.json says besides the keys; the vocabulary and the heads are added to it."""
        return {}

    def keys_of(self, stack: str) -> tuple[Key, ...]:
        """What a config.json says of the encoder or the decoder."""
        return self.keys

    def read_stack(self, hf: HFConfig, stack: str, **absent: object) -> dict[str, Any]:
        """The choices of a stack by the keys of a config.json; ``absent`` says what lacking keys mean in this one."""
        keys = self.keys_of(stack)
        return {choice: key.read(hf, absent.get(key.theirs)) for key in keys for choice in key.ours.split()}

    def read_whole(self, hf: HFConfig) -> dict[str, Any]:
        """The choices beside the stacks that every config.json makes, once nothing in it is refused."""
        for key, value in self.required.items():
            hf.require(key, value)
        size, tied = hf.integer("vocab_size"), hf.boolean("tie_word_embeddings", self.tied)
        return {"vocab_size": size, "tie_embeddings": tied, **{ours: hf.token_id(key) for key, ours in _IDS.items()}}

    def new_hf(self, settings: ModelSettings, vocab_size: int, sequence_length: int) -> dict[str, object]:
        """What the config.json of a new model would say: by default four layers of 192 in each stack."""
        width, num_heads = given(settings.hidden_size, 192), given(settings.num_heads, self.new_heads)
        choices: dict[str, object] = {
            "num_layers": 4,
            "hidden_size": width,
            "num_heads": num_heads,
            "num_kv_heads": num_heads,
            "head_dim": width // num_heads,
            "intermediate_size": max(64, round(width * 8 / 3 / 64) * 64) if self.gated else 4 * width,
            "max_positions": sequence_length,
            **{name: value for name, value in vars(settings).items() if value is not None},
            **dict.fromkeys(self.new_dropouts, given(settings.dropout, 0.0)),
        }
        keys = [*self.keys_of("encoder"), *self.keys_of("decoder")]
        sizes = {key.theirs: choices[key.first] for key in keys if key.first in choices}
        hf = {"vocab_size": vocab_size, "tie_word_embeddings": self.tied, **self.new, **sizes}
        return hf if settings.tie_embeddings is None else hf | {"tie_word_embeddings": settings.tie_embeddings}

    def settings_to_config(self, settings: ModelSettings, vocab_size: int, sequence_length: int) -> TransformerConfig:
        """The config of a new model."""
        for name in ("hidden_size", "num_heads", "head_dim"):  # which are divided before a config looks at them
            check_size(name, given(getattr(settings, name), 1))
        return self.config(HFConfig(self.new_hf(settings, vocab_size, sequence_length), _SETTINGS))

    def build(
        self, settings: ModelSettings, *, vocab_size: int, end_id: int, sequence_length: int, seed: int
    ) -> nn.Module:
        """A new model with initial weights drawn from the seed; under ``torch.device("meta")`` its shapes alone."""
        config = self.settings_to_config(settings, vocab_size, sequence_length)
        start_id = end_id if len(config.stacks) > 1 else None
        config = replace(config, start_token_id=end_id, end_token_id=end_id, decoder_start_token_id=start_id)
        model = self._empty(config)
        if torch.get_default_device().type != "meta":
            model = model.to_empty(device="cpu")
        scheme: Scheme = "gpt2" if config.tie_embeddings else self.scheme
        initialize(model, seed=seed, scheme=given(settings.initialization, scheme))
        return model

    def load(self, hf: Mapping[str, object], directory: Path, *, dtype: torch.dtype) -> nn.Module:
        """The model of a directory: its weights read from a memory map, its heads and ties told by the tensors.

        Raises:
            CheckpointError: ``models.tensors_missing``, ``models.tensors_unused``, ``models.tensor_shape``, ...
        """
        with Weights(directory) as weights:
            return self.load_weights(hf, weights, directory / "config.json", dtype)

    def load_weights(self, hf: Mapping[str, object], weights: Weights, path: Path, dtype: torch.dtype) -> Transformer:
        """The model of these tensors; ``path`` is where its config was read, for messages."""
        names = {self.canonical(name): name for name in weights.names}
        left = dict(names)
        for copy, original in self.copies:
            if copy not in left:
                continue
            if original not in names:
                names[original] = left[original] = names[copy]
            elif not torch.equal(weights.read(names[copy]), weights.read(names[original])):
                raise CheckpointError("models.copy_differs", name=copy, other=original, path=path.parent)
            del left[copy]
        values = HFConfig(hf, path)
        config = self._by_tensors(self.config(values), values, names, weights)
        missing = [name for name in self._all_names(config) if name not in names]
        refuse_names("models.tensors_missing", missing, path.parent)
        model = self._empty(config)
        state: dict[str, Tensor] = {}
        for theirs, entry, ours in self.rows(config, dict(model.named_parameters())):
            tensor, shape = weights.read(left.pop(theirs)), entry.shape(ours)
            if tensor.shape != shape:
                shapes = {"found": tuple(tensor.shape), "expected": shape}
                raise CheckpointError("models.tensor_shape", name=theirs, path=path.parent, **shapes)
            state |= {name: part.to(dtype) for name, part in zip(ours, entry.load(tensor, ours), strict=True)}
        if config.tie_embeddings:
            left.pop(self._weight(_OUTPUT), None)
        unused = [name for name in left if not any(re.fullmatch(pattern, name) for pattern in self.ignored)]
        refuse_names("models.tensors_unused", unused, path.parent)
        return assign(model, state)

    def save(self, model: nn.Module, directory: Path) -> bool:
        """Write config.json and model.safetensors in float32; False when the family cannot express the model."""
        if not isinstance(model, Transformer) or not self.expresses(model.config):
            return False
        rows = self.rows(model.config, merged_state(model))
        tensors = {theirs: entry.save([tensor.float() for tensor in ours.values()]) for theirs, entry, ours in rows}
        if self.untied_copies and not model.config.tie_embeddings:
            tensors |= {copy: tensors[name].clone() for copy, name in self.copies if name in tensors}
        write_model(directory, self.written(model.config), tensors)
        return True

    def written(self, config: TransformerConfig) -> dict[str, object]:
        """The config.json of a model of this family; of several classes, the one that has most of its heads.

        That a classifier judges tokens, only the name of a class can say.
        """
        fitting = [name for name, heads in self.architectures.items() if heads <= config.heads]
        of = self.architectures
        best = max(fitting, key=lambda name: ("token" in of[name], len(of[name])), default=None)
        known = {"model_type": self.model_type, "dtype": "float32", "architectures": best and [best]}
        hf = {**known, **self.to_hf(config)}
        if config.labels:
            hf["id2label"] = {str(number): label for number, label in enumerate(config.labels)}
            hf["label2id"] = {label: number for number, label in enumerate(config.labels)}
        return hf

    def to_hf(self, config: TransformerConfig) -> dict[str, object]:
        """Write a config.json, without what ``written`` says of the heads."""
        ids = {key: getattr(config, ours) for key, ours in _IDS.items()}
        if len(config.stacks) == 1:
            del ids["decoder_start_token_id"]
        towers = resolved(config).towers.items()
        sizes = {
            key.theirs: value
            for name, stack in towers
            for key in self.keys_of(name)
            if (value := key.write(stack)) != key.default or not key.theirs.startswith(_PREFIX)
        }
        whole = {"vocab_size": config.vocab_size, "tie_word_embeddings": config.tie_embeddings}
        return {**whole, **ids, **sizes, **self.own_hf(config)}

    def _empty(self, config: TransformerConfig) -> Transformer:
        model = on_meta(config)
        model.kind = self.model_type
        return model

    def expresses(self, config: TransformerConfig) -> bool:
        """Whether the config survives being written and read by this family."""
        if not config.heads <= frozenset[Head]().union(*self.architectures.values()):
            return False
        try:
            hf = HFConfig(self.written(config), Path("config.json"))
            again = with_heads(self.config(hf), hf, config.heads, len(config.labels))
            # tensors tell the one, nothing here computes with the other
            again = replace(again, head_bias=config.head_bias, pad_token_id=config.pad_token_id)
        except (CheckpointError, SettingsError):  # a size that this family derives may not come out for this model
            return False
        return resolved(again) == resolved(config)

    def rows(
        self, config: TransformerConfig, parameters: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Entry, dict[str, Tensor]]]:
        """Every tensor of theirs that the config has, with our parameters that it fills; checks that all are filled."""
        left = set(parameters)
        for entry in self.entries:
            if entry.only is not None and entry.only not in (*config.heads, config.main.ffn):
                continue
            stack = config.encoder if entry.ours[0].startswith("encoder.") else config.decoder
            for number in range(stack.distinct_layers if stack and "{}" in entry.theirs else 1):
                for kind in _KINDS:
                    names = [f"{ours}.{kind}".format(number).rstrip(".") for ours in entry.ours]
                    if left.issuperset(names):
                        left -= set(names)
                        theirs = f"{entry.theirs}.{kind}".format(number).rstrip(".")
                        yield theirs, entry, {name: parameters[name] for name in names}
        assert not left, f"{self.model_type}: the table fills no {sorted(left)}"

    def _all_names(self, config: TransformerConfig) -> list[str]:
        """Names of all their tensors of a model, told by one layer of each stack: a file need not hold what it says."""
        one: dict[str, Any] = {
            name: replace(stack, num_layers=1, num_distinct_layers=None) for name, stack in config.towers.items()
        }
        small = replace(config, **one)
        found: list[str] = []
        for theirs, entry, _ in self.rows(small, dict(self._empty(small).named_parameters())):
            stack = config.towers.get(entry.ours[0].partition(".")[0])
            kind = theirs.removeprefix(entry.theirs.format(0))
            layers = range(stack.distinct_layers if stack and "{}" in entry.theirs else 1)
            found += [entry.theirs.format(number) + kind for number in layers]
        return found

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        """Names of all their tensors, without numbers."""
        known = (_numberless(f"{entry.theirs}.{kind}".rstrip(".")) for entry in self.entries for kind in _KINDS)
        return frozenset(known) | {copy for copy, _ in self.copies}

    def canonical(self, name: str) -> str:
        """Their name with the family's prefix, whether the file has it or not; old files say gamma and beta."""
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        whole = self.prefix + name
        bare = _numberless(whole) in self._known or any(re.fullmatch(pattern, whole) for pattern in self.ignored)
        return whole if bare else name

    def _by_tensors(
        self, config: TransformerConfig, hf: HFConfig, names: Mapping[str, str], weights: Weights
    ) -> TransformerConfig:
        """The config with the heads that the file has; tied is what has no output matrix of its own.

        What a classifier judges, a row or each token, a pooler or only the name of the architecture may say.

        Raises:
            CheckpointError: ``models.tensors_missing`` when the config.json says that the output matrix is one of its
                own and the file has none, unless it says too that it is of a class without one.
        """
        heads: set[Head] = set()
        classes = 0
        for entry in self.entries:
            head = _HEADS.get(entry.ours[0])
            if head is not None and (theirs := f"{entry.theirs}.weight") in names:
                heads.add("token" if entry.only == "token" else head)
                if head == "sequence":
                    classes = len(weights.read(names[theirs]))
        pooled = all("pooler" in one for one in self.architectures.values() if "sequence" in one)
        of_tokens = any("TokenClassification" in name for name in hf.names("architectures"))
        if "sequence" in heads and (of_tokens or (pooled and "pooler" not in heads)):
            heads = heads - {"sequence"} | {"token"}
        if config.head_transform is None and not heads & {"sequence", "token", "span"}:
            heads.add("language_model")
        output, embedding = names.get(self._weight(_OUTPUT)), names.get(self._weight(*_TOKENS))
        tied = output is None
        if tied and hf.values.get("tie_word_embeddings") is False and "language_model" in heads:
            bare = (name for name in hf.names("architectures") if name not in self.architectures)
            if not any(name.endswith("Model") for name in bare):
                refuse_names("models.tensors_missing", [self._weight(_OUTPUT)], hf.path.parent)
        if output is not None and config.tie_embeddings and embedding is not None:
            tied = torch.equal(weights.read(output), weights.read(embedding))
        bias = config.head_bias and any(entry.theirs in names for entry in self.entries if entry.ours == ("head.bias",))
        config = replace(config, tie_embeddings=tied, head_bias=bias)
        return with_heads(config, hf, frozenset(heads), classes)

    def _weight(self, *modules: str) -> str:
        """Their name of the matrix of the first of these modules of ours."""
        return next(f"{entry.theirs}.weight" for entry in self.entries if entry.ours[0] in modules)


def with_heads(config: TransformerConfig, hf: HFConfig, heads: frozenset[Head], classes: int) -> TransformerConfig:
    """The config with these heads, and the labels of a classifier by the names that the config.json gives them."""
    if not heads & {"sequence", "token"}:
        return replace(config, heads=heads)
    table = hf.table("id2label")
    labels = {} if table is None else {key: table.text(key, "") for key in table.values}
    if len(labels) != classes or not all(key.isdecimal() for key in labels):
        labels = {str(number): f"LABEL_{number}" for number in range(classes)}
    return replace(config, heads=heads, labels=tuple(labels[key] for key in sorted(labels, key=int)))


def resolved(config: TransformerConfig) -> TransformerConfig:
    """The config with its derived sizes written out, so that equal models have equal configs."""
    towers: dict[str, Any] = {
        name: replace(
            stack, num_kv_heads=stack.kv_heads, head_dim=stack.head_size, num_distinct_layers=stack.distinct_layers
        )
        for name, stack in config.towers.items()
    }
    return replace(config, **towers)


def _numberless(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".{}", name)
