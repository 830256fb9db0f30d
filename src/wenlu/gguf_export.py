"""Model directories as GGUF files for llama.cpp: Llama, Mistral, Qwen and GPT-2, with tokenizer and chat template.

Names, layout and keys are those of llama.cpp's own converter: matrices take the wanted type, everything with one
dimension and learned positions stay float32, and a row that Q8_0's blocks of 32 do not divide is stored as F16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from torch import Tensor

from wenlu.bundle import Bundle, load_bundle
from wenlu.core.errors import CheckpointError, DataError, TokenizerError
from wenlu.core.gguf import SUFFIX
from wenlu.core.publication import publish_file
from wenlu.models import gguf
from wenlu.models.build import family
from wenlu.models.config import TransformerConfig, given
from wenlu.models.families._files import HFConfig, Weights, read_config
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.transformer import Transformer
from wenlu.tokenization.gguf import describe

GGUFType = Literal["f32", "f16", "bf16", "q8_0"]
_ALWAYS_FLOAT32 = ("position_embd.weight", gguf.ROPE_FACTORS)
_LARGEST_F16 = 65504.0
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
    package = gguf.import_gguf(target)
    if target.suffix != SUFFIX:
        raise CheckpointError("models.gguf_suffix", path=target)
    if target.exists():
        raise DataError("core.target_exists", path=target)
    bundle = load_bundle(where)
    export = _Export(bundle, package)
    keys = export.keys(type) | _tokenizer_keys(bundle, export.config)
    publish_file(target, lambda path: export.write(path, keys, type))
    return bundle


class _Export:
    """A model with what the file says of it."""

    def __init__(self, bundle: Bundle, package: ModuleType) -> None:
        path, model = bundle.path, bundle.model
        name = (gguf.read_config(path) if gguf.is_gguf(path) else read_config(path)).get("model_type")
        self.architecture = "llama" if name == "mistral" else str(name)
        heads = sorted(model.config.heads) if isinstance(model, Transformer) else []
        if self.architecture not in gguf.KEYS or not isinstance(model, Transformer) or heads != ["language_model"]:
            found, known = ", ".join([str(name), *heads]), ", ".join([*gguf.KEYS, "mistral"])
            raise CheckpointError("models.gguf_architecture", path=path, found=found, known=known)
        kind = family(str(name))
        assert isinstance(kind, TransformerFamily)
        values = HFConfig(kind.to_hf(model.config), path / "config.json")
        for key, supported in _ONLY.items():
            values.require(key, supported)
        if (scaling := values.table("rope_scaling")) is not None:
            scaling.require("low_freq_factor", gguf.LLAMA3_LOW)
            scaling.require("high_freq_factor", gguf.LLAMA3_HIGH)
        stack = model.config.main
        self.layout = gguf.Layout(self.architecture, num_heads=stack.num_heads, num_kv_heads=stack.kv_heads, path=path)
        self.package, self.path, self.prefix = package, path, kind.prefix
        self.values, self.config = values, model.config

    def keys(self, type: GGUFType) -> dict[str, object]:
        """What the file says of the model."""
        prefix, values = self.architecture, self.values
        whole = "ALL_F32" if type == "f32" else f"MOSTLY_{type.upper()}"
        keys: dict[str, object] = {"general.file_type": int(self.package.LlamaFileType[whole])}
        keys["general.quantization_version"] = int(self.package.GGML_QUANT_VERSION)
        keys |= {f"{prefix}.{key}": values.values[name] for key, name in gguf.KEYS[prefix].items()}
        if (scaling := values.table("rope_scaling")) is not None:
            if (original := scaling.optional_integer("original_max_position_embeddings")) is not None:
                return keys | {f"{prefix}.rope.scaling.original_context_length": original}  # Llama 3's, as a tensor
            keys |= {f"{prefix}.rope.scaling.type": "linear", f"{prefix}.rope.scaling.factor": scaling.number("factor")}
        return keys

    def write(self, path: Path, keys: Mapping[str, object], type: GGUFType) -> None:
        """Write the file: what it says, then a tensor at a time."""
        writer = self.package.GGUFWriter(path, self.architecture)
        for key, value in keys.items():
            add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            add.get(value.__class__, writer.add_array)(key, value)
        types, sizes = self.package.GGMLQuantizationType, self.package.GGML_QUANT_SIZES
        with Weights(self.path) as weights:
            kinds: dict[str, Any] = {}
            for name, tensor in self._tensors(weights):
                kind = types.F32 if tensor.dim() == 1 or name in _ALWAYS_FLOAT32 else types[type.upper()]
                kinds[name] = kind = types.F16 if tensor.shape[-1] % sizes[kind][0] else kind
                num_bytes = tensor.numel() // sizes[kind][0] * sizes[kind][1]
                writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), num_bytes, raw_dtype=kind)
            try:
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_ti_data_to_file()
                for name, tensor in self._tensors(weights):
                    numbers = tensor.float().contiguous().numpy()
                    largest, limit = float(np.abs(numbers).max(initial=0)), _LARGEST_F16
                    if kinds[name] in (types.F16, types.Q8_0) and not largest <= limit:
                        raise CheckpointError(
                            "models.gguf_range", path=self.path, name=name, found=largest, limit=limit
                        )
                    writer.write_tensor_data(self.package.quantize(numbers, kinds[name]))
            finally:
                writer.close()

    def _tensors(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        """Name and values of each tensor of the file; what a family ignores, and a tied output, are left out."""
        stack = self.config.main
        if (scaling := stack.rope_scaling) is not None and scaling.original_max_positions is not None:
            yield gguf.ROPE_FACTORS, gguf.rope_factors(scaling, head_dim=stack.head_size, theta=stack.rope_theta)
        for theirs in weights.names:
            names = ((full, gguf.renamed(full, self.layout.ours)) for full in (theirs, self.prefix + theirs))
            name = next((name for full, name in names if name != full), None)
            if name is not None and not (name == "output.weight" and self.config.tie_embeddings):
                yield name, self.layout.turned(name, weights.read(theirs), back=True)


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
    keys = {f"tokenizer.ggml.{key}": value for key, value in (described | roles).items()}
    keys["tokenizer.chat_template"] = tokenizer.chat_template
    return {key: value for key, value in keys.items() if value is not None}
