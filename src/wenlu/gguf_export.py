"""Model directories as GGUF files for llama.cpp: Llama, Mistral, Qwen and GPT-2, with tokenizer and chat template.

Names, layout and keys are those of llama.cpp's own converter: matrices take the wanted type, everything with one
dimension and learned positions stay float32, and a row that Q8_0's blocks of 32 do not divide is stored as F16.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
from torch import Tensor

from wenlu.bundle import Bundle, load_bundle
from wenlu.core.errors import CheckpointError, DataError, TokenizerError
from wenlu.core.gguf import SUFFIX
from wenlu.core.publication import publish_file
from wenlu.models.build import family
from wenlu.models.config import TransformerConfig, given
from wenlu.models.families._files import HFConfig, Weights, read_config
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.gguf import (
    LLAMA3_HIGH,
    LLAMA3_LOW,
    ROPE_FACTORS,
    SIZES,
    Layout,
    import_gguf,
    is_gguf,
    rope_factors,
)
from wenlu.models.gguf import read_config as read_gguf_config
from wenlu.models.transformer import Transformer
from wenlu.tokenization.gguf import describe

GGUFType = Literal["f32", "f16", "bf16", "q8_0"]
TYPES: Final[Mapping[GGUFType, tuple[str, str]]] = {  # of tensors, and of the file
    "f32": ("F32", "ALL_F32"),
    "f16": ("F16", "MOSTLY_F16"),
    "bf16": ("BF16", "MOSTLY_BF16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
}
_ALWAYS_FLOAT32 = ("position_embd.weight", ROPE_FACTORS)
_LARGEST_F16 = 65504.0
_LLAMA_NUMBERS = {
    "num_key_value_heads": ("attention.head_count_kv",),
    "head_dim": ("attention.key_length", "attention.value_length", "rope.dimension_count"),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon",),
    "rope_theta": ("rope.freq_base",),
    "vocab_size": ("vocab_size",),
}
_ONLY = {  # what llama.cpp computes
    **{"hidden_act": "silu", "sliding_window": None},
    **{"activation_function": "gelu_new", "scale_attn_weights": True},
}


def export_gguf(where: str | Path | None, target: Path, *, type: GGUFType) -> Bundle:
    """Write a model (see ``load_bundle``), its tokenizer and its chat template into one GGUF file, whole or not at all.

    Raises:
        CheckpointError: there is no model, or none that llama.cpp has a place for (``models.gguf_architecture``,
            ``models.config_unsupported``); ``models.gguf_range`` for a weight beyond the type;
            ``models.gguf_suffix``; ``data.missing_extra``.
        TokenizerError: ``tokenization.gguf_unsupported``, ``tokenization.gguf_template``.
        DataError: ``core.target_exists``.
        RunError: the file cannot be written.
    """
    package = import_gguf(target)
    if target.suffix != SUFFIX:
        raise CheckpointError("models.gguf_suffix", path=target)
    if target.exists():
        raise DataError("core.target_exists", path=target)
    bundle = load_bundle(where)
    export = _Export.of(bundle, package)
    keys = export.keys(type) | _tokenizer_keys(bundle, export.model.config)
    publish_file(target, lambda path: export.write(path, keys, type))
    return bundle


@dataclass(frozen=True)
class _Export:
    """A model with what the file says of it."""

    package: ModuleType
    path: Path
    model: Transformer
    kind: TransformerFamily
    values: HFConfig
    layout: Layout

    @classmethod
    def of(cls, bundle: Bundle, package: ModuleType) -> _Export:
        path, model = bundle.path, bundle.model
        name = (read_gguf_config(path) if is_gguf(path) else read_config(path)).get("model_type")
        architecture = "llama" if name == "mistral" else str(name)
        heads = sorted(model.config.heads) if isinstance(model, Transformer) else []
        if architecture not in SIZES or not isinstance(model, Transformer) or heads != ["language_model"]:
            found, known = ", ".join([str(name), *heads]), ", ".join([*SIZES, "mistral"])
            raise CheckpointError("models.gguf_architecture", path=path, found=found, known=known)
        kind = family(str(name))
        assert isinstance(kind, TransformerFamily)
        values = HFConfig(kind.to_hf(model.config), path / "config.json")
        for key, supported in _ONLY.items():
            values.require(key, supported)
        if (scaling := values.table("rope_scaling")) is not None:
            scaling.require("low_freq_factor", LLAMA3_LOW)
            scaling.require("high_freq_factor", LLAMA3_HIGH)
        stack = model.config.main
        layout = Layout.of(architecture, num_heads=stack.num_heads, num_kv_heads=stack.kv_heads, path=path)
        return cls(package, path, model, kind, values, layout)

    def keys(self, type: GGUFType) -> dict[str, object]:
        """What the file says of the model."""
        prefix, values = self.layout.architecture, self.values
        keys: dict[str, object] = {"general.file_type": int(self.package.LlamaFileType[TYPES[type][1]])}
        keys["general.quantization_version"] = int(self.package.GGML_QUANT_VERSION)
        keys |= {f"{prefix}.{key}": values.integer(name) for name, key in SIZES[prefix].items()}
        if prefix == "gpt2":
            return keys | {f"{prefix}.attention.layer_norm_epsilon": values.number("layer_norm_epsilon")}
        for name, places in _LLAMA_NUMBERS.items():
            keys |= {f"{prefix}.{place}": values.values[name] for place in places}
        if (scaling := values.table("rope_scaling")) is not None:
            if (original := scaling.optional_integer("original_max_position_embeddings")) is not None:
                return keys | {f"{prefix}.rope.scaling.original_context_length": original}  # Llama 3's, as a tensor
            keys |= {f"{prefix}.rope.scaling.type": "linear", f"{prefix}.rope.scaling.factor": scaling.number("factor")}
        return keys

    def write(self, path: Path, keys: Mapping[str, object], type: GGUFType) -> None:
        """Write the file: what it says, then a tensor at a time."""
        writer = self.package.GGUFWriter(path, self.layout.architecture)
        for key, value in keys.items():
            add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            add.get(value.__class__, writer.add_array)(key, value)
        with Weights(self.path) as weights:
            stored = {name: self._type(name, shape, type) for name, _, shape in self._tensors(weights)}
            for name, _, shape in self._tensors(weights):
                block_size, block_bytes = self.package.GGML_QUANT_SIZES[stored[name]]
                num_bytes = math.prod(shape) // block_size * block_bytes
                writer.add_tensor_info(name, shape, np.dtype(np.float32), num_bytes, raw_dtype=stored[name])
            try:
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_ti_data_to_file()
                for name, tensor, _ in self._tensors(weights):
                    writer.write_tensor_data(self._stored(name, tensor, stored[name]))
            finally:
                writer.close()

    def _tensors(self, weights: Weights) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
        """Name, values and shape of each tensor of the file; what a family ignores, and a tied output, are left out."""
        stack = self.model.config.main
        if (scaling := stack.rope_scaling) is not None and scaling.original_max_positions is not None:
            factors = rope_factors(scaling, head_dim=stack.head_size, theta=stack.rope_theta)
            yield ROPE_FACTORS, factors, tuple(factors.shape)
        for theirs in weights.names:
            whole = self.kind.prefix + theirs
            found = [(full, name) for full in (theirs, whole) if (name := self.layout.ours(full)) != full]
            if not found or (found[0][1] == "output.weight" and self.model.config.tie_embeddings):
                continue
            tensor = self.layout.write(found[0][1], weights.read(theirs))
            yield found[0][1], tensor, tuple(tensor.shape)

    def _type(self, name: str, shape: tuple[int, ...], type: GGUFType) -> Any:
        types = self.package.GGMLQuantizationType
        if len(shape) == 1 or name in _ALWAYS_FLOAT32:
            return types.F32
        kind = types[TYPES[type][0]]
        return types.F16 if shape[-1] % self.package.GGML_QUANT_SIZES[kind][0] else kind

    def _stored(self, name: str, tensor: Tensor, kind: Any) -> Any:
        numbers = tensor.float().contiguous().numpy()
        largest = float(np.abs(numbers).max(initial=0))
        if kind.name in ("F16", "Q8_0") and not largest <= _LARGEST_F16:
            raise CheckpointError("models.gguf_range", path=self.path, name=name, found=largest, limit=_LARGEST_F16)
        return self.package.quantize(numbers, kind)


def _tokenizer_keys(bundle: Bundle, config: TransformerConfig) -> dict[str, object]:
    """What the file says of the tokenizer: its tokens, the ids of its special ones, its chat template."""
    tokenizer = bundle.tokenizer
    described = describe(json.loads(tokenizer.serialized), size=config.vocab_size, where=bundle.path)
    start = given(tokenizer.start_id, config.start_token_id)
    around = tokenizer.with_special_tokens([]).ids
    begins = around[:1] == [start]
    behind = around[1:] if begins else around
    ends = behind == [tokenizer.end_id]
    if behind and not ends:
        found = " ".join(map(tokenizer.token, around))
        raise TokenizerError("tokenization.gguf_template", path=bundle.path, found=found)
    roles = {
        "bos_token_id": start,
        "eos_token_id": tokenizer.end_id,
        "padding_token_id": tokenizer.pad_id,
        "unknown_token_id": tokenizer.unknown_id,
        "add_bos_token": begins,
        "add_eos_token": ends,
    }
    named = described | {key: value for key, value in roles.items() if value is not None}
    keys = {f"tokenizer.ggml.{key}": value for key, value in named.items()}
    return keys if tokenizer.chat_template is None else keys | {"tokenizer.chat_template": tokenizer.chat_template}
