"""Adapters: LoRA paths put into a Transformer, and PEFT's two files of them.

    add_lora(model, settings, seed=...)     new paths: A drawn as PEFT draws it, B zero; the rest is frozen
    write_adapter(model, directory)         adapter_config.json and adapter_model.safetensors
    load_adapted(base, directory)           the model of a directory with the paths of such files

Names and layouts follow the family's table of weights. Parts of one matrix of theirs (GPT-2's q, k, v) share one A, and
are one pair in the files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wenlu.core.errors import CheckpointError, SettingsError
from wenlu.core.log import Notice, warn
from wenlu.core.reproducibility import derive_seed
from wenlu.core.settings import changed, refuse_outside, unused_setting
from wenlu.models.build import family
from wenlu.models.checkpoint import digest, read_kind
from wenlu.models.config import Head
from wenlu.models.families._files import HFConfig, Weights, read_config
from wenlu.models.families._tables import Entry
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.lora import LoraLinear, is_lora
from wenlu.models.transformer import Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FOLDER = "adapter"  # of a model directory that was trained so
Target = Literal["q", "k", "v", "o", "gate", "up", "down", "attention", "mlp", "all"]

_ATTENTION, _MLP = frozenset("qkvo"), frozenset({"gate", "up", "down"})
_GROUPS = {"attention": _ATTENTION, "mlp": _MLP, "all": _ATTENTION | _MLP}
_OF_WORDS = ("head.output.", "head.transform.", "head.bias")  # other heads are trained whole: they may be new
_PREFIX = "base_model.model."
_DIGEST = "base_sha256"
_TASKS: dict[Head, str] = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS", "span": "QUESTION_ANS"}
_REQUIRED: dict[str, object] = {  # what is otherwise would compute something else, or with other matrices
    "peft_type": "LORA",
    "bias": "none",
    **dict.fromkeys(("use_dora", "use_qalora", "use_bdlora", "lora_bias"), False),
    **dict.fromkeys(("layer_replication", "alora_invocation_tokens", "arrow_config", "kasa_config")),
    **dict.fromkeys(("monteclora_config", "trainable_token_indices", "target_parameters")),
}


@dataclass(frozen=True)
class LoraSettings:
    """The ``[lora]`` table: with a ``rank``, a run trains low-rank paths beside matrices of the model it starts from.

    ``targets`` name the matrices, of both stacks and of cross-attention too. The paths are scaled by ``alpha / rank``;
    ``dropout`` acts on what they read. Heads that judge (classifier, pooler, spans, pairs) are trained whole.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[Target, ...] = ("all",)

    def __post_init__(self) -> None:
        bounds = {">= 0": ("rank",), "0 < x < inf": ("alpha",), "0 <= x < 1": ("dropout",)}
        refuse_outside("training.range", "lora", self, bounds)
        for key, value in changed(self, "lora", () if self.rank else ("alpha", "dropout", "targets")).items():
            raise unused_setting(key, value, because=Notice("training.because", {"setting": "lora.rank", "value": 0}))


@torch.no_grad()
def add_lora(model: nn.Module, settings: LoraSettings, *, seed: int) -> nn.Module:
    """Put paths beside the matrices that the settings name, in place, and freeze all else but heads that judge.

    A is drawn as PEFT draws it, ``kaiming_uniform_(a=sqrt(5))``: uniform within 1 / sqrt(inputs).

    Raises:
        SettingsError: ``models.lora_kind`` for what is no Transformer, ``models.lora_target`` for a target that it
            does not have.
    """
    if not settings.rank:
        return model
    if not isinstance(model, Transformer):
        raise SettingsError("models.lora_kind", found=type(model).__name__)
    rows = [(theirs, linears) for theirs, _, linears in _matrices(model)]
    present = {name.rpartition(".")[2] for _, linears in rows for name in linears} & _GROUPS["all"]
    chosen = [_GROUPS.get(target, frozenset({target})) & present for target in settings.targets]
    if not chosen or not all(chosen):
        found, known = ", ".join(settings.targets), ", ".join(sorted(present))
        raise SettingsError("models.lora_target", found=found, known=known)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head.") and not name.startswith(_OF_WORDS))
    for theirs, linears in rows:
        inputs = next(iter(linears.values())).in_features
        generator, bound = torch.Generator().manual_seed(derive_seed(seed, f"lora {theirs}")), inputs**-0.5
        a_RI = torch.empty(settings.rank, inputs, device="cpu").uniform_(-bound, bound, generator=generator)
        shared = nn.Parameter(a_RI.to(model.token_embedding.weight))
        for name, base in linears.items():
            if name.rpartition(".")[2] in frozenset[str]().union(*chosen):
                b_OR = base.weight.new_zeros(base.out_features, settings.rank)
                scale = settings.alpha / settings.rank
                model.set_submodule(name, LoraLinear(base, shared, b_OR, scale=scale, dropout=settings.dropout))
    return model


@torch.no_grad()
def write_adapter(model: nn.Module, directory: Path, *, base: str) -> None:
    """Write what LoRA has trained as PEFT's two files into a new directory; nothing for a model without LoRA.

    ``base`` is where the model lies that the adapter belongs to; a digest of the matrices beside the paths tells
    whether another one is that model.
    """
    paths = [module for module in model.modules() if isinstance(module, LoraLinear)]
    if not isinstance(model, Transformer) or not paths:
        return
    tensors: dict[str, Tensor] = {}
    beside: dict[str, Tensor] = {}
    targets, whole, transposed = [], set(), False
    rank = len(paths[0].lora_A)
    alpha = round(paths[0].scale * rank, 6)
    prefix = _family(model).prefix if model.config.heads <= {"pooler"} else ""  # which their bare models lack
    for theirs, entry, ours in _rows(model):
        module, _, kind = theirs.removeprefix(prefix).rpartition(".")
        parts = {name: model.get_submodule(name.rpartition(".")[0]) for name in ours}
        adapted = [part for part in parts.values() if isinstance(part, LoraLinear)]
        if adapted and kind == "weight":
            rows = [
                p.lora_B if isinstance(p, LoraLinear) else ours[n].new_zeros(len(ours[n]), rank)
                for n, p in parts.items()
            ]
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = adapted[0].lora_A
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = torch.cat(rows)
            beside[theirs] = _joined(entry, ours)
            targets.append(module)
            transposed |= entry.form == "transposed"
        elif any(parameter.requires_grad for parameter in ours.values()):
            tensors[f"{_PREFIX}{module}.{kind}"] = _joined(entry, ours)
            whole.add(module)
    # PEFT has no word for a model that says what is hidden.
    writes = None if model.decoder is None else "CAUSAL_LM" if model.encoder is None else "SEQ_2_SEQ_LM"
    config = {
        "peft_type": "LORA",
        "task_type": next((task for head, task in _TASKS.items() if head in model.config.heads), writes),
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": paths[0].dropout,
        "target_modules": targets,
        "modules_to_save": sorted(whole) or None,
        "fan_in_fan_out": transposed,
    }
    directory.mkdir()
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(on_cpu, directory / WEIGHTS, metadata={"format": "pt", _DIGEST: digest(beside.items())})


def load_adapted(base: Path, directory: Path) -> Transformer:
    """The model of a directory in float32, in evaluation mode, with the paths and the heads of an adapter's files.

    An adapter whose files say of which matrices it was trained beside is announced where they are others.

    Raises:
        CheckpointError: there is no adapter, it is damaged, computes something else, or does not fit the model.
    """
    config = HFConfig(read_config(directory, CONFIG), directory / CONFIG)
    for key, supported in _REQUIRED.items():
        config.require(key, supported)
    hf, name = read_kind(base)
    kind = family(name)
    if not isinstance(kind, TransformerFamily):
        raise CheckpointError("models.adapter_kind", path=base, found=name)
    with Weights(directory, WEIGHTS) as file, Weights(base) as weights:
        pairs, weights.added = _read_pairs(file, kind)
        model = kind.load_weights(hf, weights, base / "config.json", torch.float32)
        beside: dict[str, Tensor] = {}
        for theirs, entry, linears in list(_matrices(model)):
            if pairs.get(theirs, {}).keys() == {"A", "B"}:
                beside[f"{theirs}.weight"] = _joined(entry, {name: linear.weight for name, linear in linears.items()})
                _attach(model, theirs, linears, pairs.pop(theirs), config)
        if pairs or not beside:
            names = ", ".join(sorted(pairs)[:5]) or "-"
            raise CheckpointError("models.adapter_modules", path=directory, count=len(pairs), names=names, base=base)
        if file.metadata().get(_DIGEST, found := digest(beside.items())) != found:
            warn("models.adapter_other_base", path=directory, base=base)
    return model.eval()


def _read_pairs(file: Weights, kind: TransformerFamily) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """A and B by the names of the matrices in the family's table, and the other tensors by their own."""
    pairs: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name in file.names:
        module, _, matrix = name.removeprefix(_PREFIX).partition(".lora_")
        if matrix in ("A.weight", "B.weight"):
            own = kind.canonical(f"{module}.weight").removesuffix(".weight")
            pairs.setdefault(own, {})[matrix[0]] = file.read(name).float()
        else:
            whole[name.removeprefix(_PREFIX)] = file.read(name)
    return pairs, whole


@torch.no_grad()
def _attach(
    model: Transformer, theirs: str, linears: Mapping[str, nn.Linear], pair: Mapping[str, Tensor], config: HFConfig
) -> None:
    """Put one pair of theirs beside our matrices; the parts share A, and B is theirs in order."""
    rank = _of_module(config, "rank_pattern", theirs, config.number("r"))
    alpha = _of_module(config, "alpha_pattern", theirs, config.number("lora_alpha"))
    if not (1 <= rank < math.inf and math.isfinite(alpha)):
        config.refuse("r, lora_alpha", f"{rank}, {alpha}", "r >= 1")
    rows = [linear.out_features for linear in linears.values()]
    expected = {"A": (rank, next(iter(linears.values())).in_features), "B": (sum(rows), rank)}
    for letter, shape in expected.items():
        if (found := tuple(pair[letter].shape)) != shape:
            name = f"{theirs}.lora_{letter}"
            raise CheckpointError("models.adapter_shape", name=name, path=config.path, found=found, expected=shape)
    scale = alpha / (rank**0.5 if config.boolean("use_rslora", False) else rank)
    shared = nn.Parameter(pair["A"])
    for (name, linear), b_OR in zip(linears.items(), torch.split(pair["B"], rows), strict=True):
        dropout = config.number("lora_dropout", 0.0)
        model.set_submodule(name, LoraLinear(linear, shared, b_OR, scale=scale, dropout=dropout))


def _of_module(config: HFConfig, key: str, module: str, default: float) -> float:
    """What a table of names or endings of names says of a module."""
    table = config.table(key) or HFConfig({}, config.path)
    for ending in table.values:
        if not re.fullmatch(r"[\w.-]+", ending):  # PEFT allows regular expressions, which may take for ever
            config.refuse(key, ending, "q_proj, layers.0.self_attn.q_proj, ...")
        if f".{module}".endswith(f".{ending}"):
            return table.number(ending)
    return default


def _family(model: Transformer) -> TransformerFamily:
    assert model.kind is not None, "a model of no family has no table of names"
    return cast(TransformerFamily, family(model.kind))


def _rows(model: Transformer) -> Iterator[tuple[str, Entry, dict[str, Tensor]]]:
    """The rows of the family's table, without the paths."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if not is_lora(name)}
    return _family(model).rows(model.config, parameters)


def _matrices(model: Transformer) -> Iterator[tuple[str, Entry, dict[str, nn.Linear]]]:
    """The matrices that are called: their name, the row of the table, and our modules by their names."""
    for theirs, entry, ours in _rows(model):
        found = {name.removesuffix(".weight"): model.get_submodule(name.rpartition(".")[0]) for name in ours}
        linears = {name: module for name, module in found.items() if isinstance(module, nn.Linear)}
        if theirs.endswith(".weight") and linears and "head.output" not in linears:  # which is read, not called
            yield theirs.removesuffix(".weight"), entry, linears


def _joined(entry: Entry, ours: Mapping[str, Tensor]) -> Tensor:
    """Their tensor, in float32."""
    return entry.save([tensor.detach().float() for tensor in ours.values()])
