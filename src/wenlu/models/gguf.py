"""GGUF files as models: their metadata as the values of a config.json, and their tensors under the names, of a family.

What llama.cpp's one file says is turned into what Hugging Face says about the same model, so that a family reads it
with its own table and its own checks. Tensors are mapped from the file; blocks become numbers by the routines of the
``gguf`` package, a stretch at a time.
"""

from __future__ import annotations

import mmap
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from wenlu.core.errors import CheckpointError
from wenlu.core.gguf import SUFFIX, Header, TensorInfo, read_header
from wenlu.models.config import DEFAULT_ROPE_THETA, RopeScaling
from wenlu.models.positions import inverse_frequencies

ROPE_FACTORS = "rope_freqs.weight"
LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_POSITIONS = 1.0, 4.0, 8192  # what the factors alone do not say

_LLAMA = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
_GPT2 = {
    "block_count": "n_layer",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "context_length": "n_positions",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
KEYS: Final = {"llama": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA, "gpt2": _GPT2}
"""The architectures that are read and written: the key of config.json for each key of the file."""

_SCALING = tuple(f"rope.scaling.{key}" for key in ("type", "factor", "original_context_length", "finetuned"))
_KNOWN = {*_LLAMA, *_GPT2, *_SCALING, "tensor_data_layout"}
_NUMBERS = {  # where the file does not say
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.layer_norm_epsilon": 1e-5,
    "rope.freq_base": DEFAULT_ROPE_THETA,
}
_NEUTRAL = {"expert_count": 0, "expert_used_count": 0, "rope.scale_linear": 1.0, "attention.causal": True}
_LARGEST_SIZE, _MOST_HEADS = 1 << 24, 1 << 16
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
_STRETCH = 1 << 16  # numbers that become floats at a time: what fits a processor's cache


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file by its name."""
    return path.suffix == SUFFIX and path.is_file()


def read_config(path: Path) -> dict[str, object]:
    """What a config.json would say of the model in a GGUF file.

    Raises:
        CheckpointError: ``models.unknown_type``, ``models.config_unsupported``, ``core.gguf_*``.
    """
    header = read_header(path, vocabulary=False)
    architecture = header.value("general.architecture", "")
    if architecture not in KEYS:
        raise CheckpointError("models.unknown_type", path=path, found=architecture, known=", ".join(KEYS))
    prefix = f"{architecture}."
    for key, value in header.metadata.items():
        supported = _NEUTRAL.get(key.removeprefix(prefix), "-")
        if key.startswith(prefix) and key.removeprefix(prefix) not in _KNOWN and value != supported:
            raise CheckpointError("models.config_unsupported", key=key, value=value, supported=supported, path=path)
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        header.refuse("token_embd.weight", "-" if embedding is None else embedding.shape, "(vocab, hidden)")
    hf: dict[str, Any] = {"model_type": architecture, "vocab_size": embedding.shape[0]}
    num_heads = _size(header, f"{prefix}attention.head_count")
    head_dim = _size(header, f"{prefix}embedding_length") // num_heads
    defaults = {"attention.head_count_kv": num_heads, "attention.key_length": head_dim}
    for key, name in KEYS[architecture].items():
        if key in _NUMBERS:
            hf[name] = _number(header, prefix + key, _NUMBERS[key])
        else:
            size = _size(header, prefix + key, defaults.get(key, hf.get(name)))
            if hf.setdefault(name, size) != size and name == "head_dim":  # a head is as wide everywhere, and all turns
                header.refuse(prefix + key, size, hf[name])
    num_layers = header.integer(f"{prefix}block_count")
    layers = {int(match[1]) for name in header.tensors if (match := re.match(r"blk\.(\d{1,6})\.", name))}
    if len(layers) != num_layers:
        header.refuse(f"{prefix}block_count", num_layers, len(layers))
    hf["tie_word_embeddings"] = "output.weight" not in header.tensors
    for role, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        hf[f"{role}_token_id"] = header.integer(f"tokenizer.ggml.{name}_token_id")
    if architecture == "gpt2":
        return hf | dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)  # else Hugging Face's default
    hf["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    hf["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    return hf | {"rope_scaling": _rope_scaling(header, prefix, head_dim=hf["head_dim"], theta=hf["rope_theta"])}


def rope_factors(scaling: RopeScaling, *, head_dim: int, theta: float) -> Tensor:
    """By how much each rotary frequency is divided: the tensor that stands for Llama 3's scaling in a GGUF file."""
    plain, scaled = (inverse_frequencies(head_dim, theta, how, torch.device("cpu")) for how in (None, scaling))
    return plain / scaled


def _rope_scaling(header: Header, prefix: str, *, head_dim: int, theta: float) -> dict[str, object] | None:
    """The scaling that a file names, or Llama 3's with the factors of the file, which must be those it leads to."""
    kind = header.value(f"{prefix}rope.scaling.type", "none")
    if kind != "none":  # linear, or for the family to refuse
        return {"rope_type": kind, "factor": _number(header, f"{prefix}rope.scaling.factor", 1.0)}
    info = header.tensors.get(ROPE_FACTORS)
    if info is None:
        return None
    if info.type.name != "F32" or info.shape != (head_dim // 2,):
        header.refuse(ROPE_FACTORS, f"{info.type.name} {info.shape}", f"F32 {(head_dim // 2,)}")
    found = _numbers(_mapped(header.path), info)
    original = _size(header, f"{prefix}rope.scaling.original_context_length", LLAMA3_POSITIONS)
    bounds = {"low_frequency_factor": LLAMA3_LOW, "high_frequency_factor": LLAMA3_HIGH}
    scaling = RopeScaling(factor=max(float(found.max()), 1.0), original_max_positions=original, **bounds)
    if not torch.allclose(found, rope_factors(scaling, head_dim=head_dim, theta=theta), rtol=1e-4):
        header.refuse(ROPE_FACTORS, found.tolist()[:8], f"llama3: {LLAMA3_LOW}, {LLAMA3_HIGH}, {original}")
    return scaling.to_hf()


class Layout:
    """How an architecture names and lays out the tensors of its family, its names by the gguf package."""

    def __init__(self, architecture: str, *, num_heads: int, num_kv_heads: int, path: Path) -> None:
        from wenlu.models.build import family
        from wenlu.models.families._transformer import TransformerFamily

        package, kind = import_gguf(path), family(architecture)
        assert isinstance(kind, TransformerFamily)
        names = package.get_tensor_name_map(package.MODEL_ARCH[architecture.upper()], 1)
        entries = {
            name.replace("blk.0.", "blk.{}."): entry
            for entry in kind.entries
            if (name := names.get_name(entry.theirs.format(0))) is not None
        }
        self.theirs = {name: entry.theirs for name, entry in entries.items()}  # by the file's; {} is the layer number
        self.ours = {theirs: name for name, theirs in self.theirs.items()}
        self.transposed = {name for name, entry in entries.items() if entry.form == "transposed"}  # as Conv1D has it
        turned = {"blk.{}.attn_q": num_heads, "blk.{}.attn_k": num_kv_heads}  # rows with pairs side by side
        self.heads = turned if architecture == "llama" else {}

    def turned(self, name: str, tensor: Tensor, *, back: bool = False) -> Tensor:
        """The tensor of this name in the file as they store it; ``back`` is the other way."""
        module = _module(name)[0]
        if module in self.heads:
            pairs = (2, -1) if back else (-1, 2)
            rows = tensor.reshape(self.heads[module], *pairs, *tensor.shape[1:])
            return rows.swapaxes(1, 2).reshape(tensor.shape)
        return tensor.t() if module in self.transposed and tensor.dim() == 2 else tensor


class Tensors:
    """The tensors of a GGUF file, mapped, under Hugging Face's names, as ``safe_open`` would give them."""

    def __init__(self, path: Path) -> None:
        self.header = header = read_header(path, vocabulary=False)
        architecture = header.value("general.architecture", "")
        num_heads = _size(header, f"{architecture}.attention.head_count")
        num_kv_heads = _size(header, f"{architecture}.attention.head_count_kv", num_heads)
        self.layout = Layout(architecture, num_heads=num_heads, num_kv_heads=num_kv_heads, path=path)
        own = {name: info for name, info in header.tensors.items() if name != ROPE_FACTORS}
        self.infos = {renamed(name, self.layout.theirs): info for name, info in own.items()}
        self.data = _mapped(path)

    def keys(self) -> list[str]:
        """Names of all tensors."""
        return list(self.infos)

    def get_tensor(self, name: str) -> Tensor:
        """One tensor: floats mapped and not copied, blocks as float32."""
        info = self.infos[name]
        num_heads = self.layout.heads.get(_module(info.name)[0])
        if num_heads and info.shape[0] % (2 * num_heads):
            self.header.refuse(info.name, info.shape, f"2 * {num_heads} * n")
        return self.layout.turned(info.name, _numbers(self.data, info))


def import_gguf(path: Path) -> ModuleType:
    """The gguf package.

    Raises:
        CheckpointError: ``data.missing_extra``.
    """
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError("data.missing_extra", path=path, module="gguf", extra="export") from error
    return gguf


def _mapped(path: Path) -> mmap.mmap:
    """The file in memory; what is written there stays there."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _numbers(data: mmap.mmap, info: TensorInfo) -> Tensor:
    """The floats of a tensor."""
    if info.type.name in _FLOATS:
        count = info.num_bytes // info.type.block_bytes
        return torch.frombuffer(data, dtype=_FLOATS[info.type.name], count=count, offset=info.offset).view(info.shape)
    import gguf

    kind = gguf.GGMLQuantizationType[info.type.name]
    blocks = np.frombuffer(data, np.uint8, info.num_bytes, info.offset).reshape(-1, info.type.block_bytes)
    numbers = torch.empty(len(blocks), info.type.block_size)
    step = _STRETCH // info.type.block_size
    with np.errstate(all="ignore"):  # a damaged scale may be anything
        for start in range(0, len(blocks), step):
            stretch = gguf.dequantize(blocks[start : start + step].reshape(1, -1), kind)
            numbers[start : start + step] = torch.from_numpy(stretch).view(-1, info.type.block_size)
    if sys.platform != "win32":  # what was read need not stay in memory beside what it became
        first = -(-info.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        if (length := info.offset + info.num_bytes - first) > 0:
            data.madvise(mmap.MADV_DONTNEED, first, length)
    return numbers.view(info.shape)


def _module(name: str) -> tuple[str, str, str]:
    """``blk.3.attn_q.weight`` -> ``blk.{}.attn_q``, ``3``, ``weight``."""
    module, _, kind = name.rpartition(".")
    number = re.search(_LAYER, module)
    return re.sub(_LAYER, "{}", module, count=1), number[0] if number else "", kind


def renamed(name: str, modules: Mapping[str, str]) -> str:
    """The name of a tensor in another file, whose modules are given; a name that means nothing there stays."""
    module, number, kind = _module(name)
    return f"{modules[module].format(number)}.{kind}" if module in modules else name


def _size(header: Header, key: str, default: int | None = None) -> int:
    found = header.integer(key)
    size = default if found is None else found
    most = _MOST_HEADS if ".attention." in key else _LARGEST_SIZE
    if size is None or not 1 <= size <= most:
        header.refuse(key, "-" if size is None else size, f"1 ... {most}")
    return size


def _number(header: Header, key: str, default: float) -> float:
    """A positive number, as the shortest decimal that gives the float32 of the file."""
    value = header.metadata.get(key, default)
    number = float(str(np.float32(value))) if isinstance(value, float) else float("nan")
    if not 0 < number < float("inf"):
        header.refuse(key, value, "0 < x < inf")
    return number
