"""Small models with every parameter random, as directories and as GGUF files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import nn

from tiny_sentencepiece import model as sentencepiece_model
from tiny_tokenizers import tiny
from wenlu.bundle import save_bundle
from wenlu.core.gguf import TYPES
from wenlu.gguf_export import GGUFType, export_gguf
from wenlu.models.build import family
from wenlu.models.families._files import HFConfig
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.transformer import Transformer
from wenlu.tokenization.tokenizer import Tokenizer

SPARE = 5  # embeddings without a token
POSITIONS = 1024  # transformers takes 1024 for every GPT-2 file, whatever the file says

_LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": POSITIONS,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500_000.0,
}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 256, "n_positions": POSITIONS} | dict.fromkeys(
    ("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0
)
_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_LINEAR = {"rope_type": "linear", "factor": 2.5}

KINDS: dict[str, dict[str, object]] = {  # what config.json says; the first word is the family
    "gpt2": _GPT2 | {"tie_word_embeddings": True},
    "gpt2 untied, odd width": _GPT2 | {"n_inner": 72, "tie_word_embeddings": False},
    "llama": _LLAMA,
    "llama tied": _LLAMA | {"head_dim": 24, "tie_word_embeddings": True},
    "llama biases": _LLAMA | {"attention_bias": True, "mlp_bias": True},
    "llama 3": _LLAMA | {"rope_scaling": _LLAMA3},
    "llama linear": _LLAMA | {"rope_scaling": _LINEAR},
    "mistral": _LLAMA | {"sliding_window": None},
    "qwen2": _LLAMA | {"tie_word_embeddings": True},
    "qwen3": _LLAMA | {"head_dim": 128},
}


def random_model(kind: str, *, vocab_size: int, **changes: object) -> Transformer:
    """A model of a kind, with changes of its config.json; norms and biases are random too."""
    made = family(kind.split()[0])
    assert isinstance(made, TransformerFamily)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    config = made.config(HFConfig({**KINDS[kind], **ids, "vocab_size": vocab_size, **changes}, Path("config.json")))
    model = Transformer(config).eval()
    model.kind = made.model_type
    fill(model)
    return model


def fill(model: nn.Module) -> None:
    """Draw every parameter anew."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data.normal_(centre, 0.2, generator=generator)


def directory(path: Path, kind: str, *, tokenizer: Tokenizer | None = None, **changes: object) -> Transformer:
    """Write a model directory and give the model."""
    chosen = tokenizer or tiny("bpe")
    model = random_model(kind, vocab_size=chosen.vocab_size + SPARE, **changes)
    path.mkdir()
    save_bundle(path, model=model, tokenizer=chosen)
    return model


def sentencepiece_directory(folder: Path, family: str) -> Tokenizer:
    """``model``, a Llama with the tokenizer of a small SentencePiece model."""
    (folder / "words").mkdir()
    (folder / "words" / "tokenizer.model").write_bytes(sentencepiece_model(family))
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config |= {"add_bos_token": True, "add_eos_token": family == "gemma"}
    (folder / "words" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer.load(folder / "words")
    directory(folder / "model", "llama", tokenizer=tokenizer)
    return tokenizer


def gguf_file(folder: Path, kind: str, type: GGUFType = "f32") -> tuple[Path, Transformer]:
    """Write a GGUF file below a folder and give its path and the model."""
    model = directory(folder / "model", kind)
    export_gguf(folder / "model", folder / "model.gguf", type=type)
    return folder / "model.gguf", model


def rewrite(
    source: Path,
    target: Path,
    *,
    keys: Mapping[str, object] | None = None,
    change: Callable[[gguf.ReaderTensor], tuple[str, np.ndarray, gguf.GGMLQuantizationType] | None] | None = None,
) -> Path:
    """Write a file again by the gguf package with other values (None: without the key) and other tensors."""
    reader, left = gguf.GGUFReader(source), dict(keys or {})
    writer = gguf.GGUFWriter(
        target, str(left.pop("general.architecture", reader.fields["general.architecture"].contents()))
    )
    for name, field in reader.fields.items():
        value = left.pop(name, field.contents())
        if value is not None and not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for name, value in left.items():
        kinds.get(type(value), writer.add_array)(name, value)
    for tensor in reader.tensors:
        new = (tensor.name, tensor.data, tensor.tensor_type) if change is None else change(tensor)
        if new is not None:
            writer.add_tensor(new[0], np.ascontiguousarray(new[1]), raw_dtype=new[2])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def in_blocks(source: Path, target: Path) -> Path:
    """The file with its matrices, whose rows have 256 n numbers, as random blocks of all types in turn."""
    random = np.random.default_rng(5)
    types = [gguf.GGMLQuantizationType[kind.name] for kind in TYPES.values() if kind.name != "F32"]
    seen = 0

    def change(tensor: gguf.ReaderTensor) -> tuple[str, np.ndarray, gguf.GGMLQuantizationType]:
        nonlocal seen
        if tensor.data.ndim == 1:
            return tensor.name, tensor.data, tensor.tensor_type
        kind, seen = types[seen % len(types)], seen + 1
        if kind.name not in ("Q4_K", "Q6_K"):
            return tensor.name, gguf.quantize(tensor.data, kind), kind
        rows, width = tensor.data.shape
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (rows * width // block_size, block_bytes), dtype=np.uint8)
        scales = slice(0, 4) if kind.name == "Q4_K" else slice(-2, None)
        count = (scales.stop or 0) - scales.start
        small = random.uniform(2e-5, 2e-4, (len(blocks), count // 2)).astype(np.float16)
        blocks[:, scales] = small.view(np.uint8)
        return tensor.name, blocks.reshape(rows, -1), kind

    return rewrite(source, target, change=change)
