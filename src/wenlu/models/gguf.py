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
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from wenlu.core.errors import CheckpointError
from wenlu.core.gguf import SUFFIX, Header, TensorInfo, read_header
from wenlu.models.config import DEFAULT_ROPE_THETA, RopeScaling
from wenlu.models.positions import inverse_frequencies

ROPE_FACTORS = "rope_freqs.weight"
LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_POSITIONS = 1.0, 4.0, 8192  # what the factors alone do not say
EXTRA = "export"  # of pip, with the gguf package

_LLAMA_SIZES = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
_GPT2_SIZES = {
    "n_layer": "block_count",
    "n_embd": "embedding_length",
    "n_inner": "feed_forward_length",
    "n_head": "attention.head_count",
    "n_positions": "context_length",
}
SIZES: Final = {"llama": _LLAMA_SIZES, "qwen2": _LLAMA_SIZES, "qwen3": _LLAMA_SIZES, "gpt2": _GPT2_SIZES}
"""The architectures that are read and written: a key of config.json for each key of the file that all must have."""

_OTHER_KEYS = {"attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count"} | {
    *("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "rope.freq_base", "vocab_size"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned"),
    *("tensor_data_layout",),
}
_NEUTRAL = {"expert_count": 0, "expert_used_count": 0, "rope.scale_linear": 1.0, "attention.causal": True}
_LARGEST_SIZE, _MOST_HEADS = 1 << 24, 1 << 16
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
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
    architecture = header.text("general.architecture")
    if architecture not in SIZES:
        raise CheckpointError("models.unknown_type", path=path, found=architecture, known=", ".join(SIZES))
    prefix = f"{architecture}."
    keys = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
    for key, value in keys.items():
        if key not in _OTHER_KEYS and key not in SIZES[architecture].values() and _NEUTRAL.get(key) != value:
            raise CheckpointError(
                "models.config_unsupported", key=prefix + key, value=value, supported=_NEUTRAL.get(key, "-"), path=path
            )
    hf: dict[str, object] = {"model_type": architecture, "vocab_size": _vocab_size(header)}
    hf |= {name: _size(header, prefix + key) for name, key in SIZES[architecture].items()}
    layers = {int(match[1]) for name in header.tensors if (match := re.match(r"blk\.(\d{1,6})\.", name))}
    if len(layers) != keys["block_count"]:
        header.refuse(f"{prefix}block_count", keys["block_count"], len(layers))
    hf["tie_word_embeddings"] = "output.weight" not in header.tensors
    hf["bos_token_id"] = header.integer("tokenizer.ggml.bos_token_id")
    hf["eos_token_id"] = header.integer("tokenizer.ggml.eos_token_id")
    hf["pad_token_id"] = header.integer("tokenizer.ggml.padding_token_id")
    if architecture == "gpt2":
        no_dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)  # else Hugging Face's default
        return hf | no_dropout | {"layer_norm_epsilon": _number(header, f"{prefix}attention.layer_norm_epsilon", 1e-5)}
    return hf | _llama_config(header, prefix, hidden_size=_size(header, f"{prefix}embedding_length"))


def _llama_config(header: Header, prefix: str, *, hidden_size: int) -> dict[str, object]:
    """The values that only the Llama kind has."""
    num_heads = _size(header, f"{prefix}attention.head_count", most=_MOST_HEADS)
    head_dim = _size(header, f"{prefix}attention.key_length", hidden_size // num_heads, most=_MOST_HEADS)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := _size(header, prefix + key, head_dim)) != head_dim:
            header.refuse(prefix + key, found, head_dim)
    theta = _number(header, f"{prefix}rope.freq_base", DEFAULT_ROPE_THETA)
    hf: dict[str, object] = {
        "num_key_value_heads": _size(header, f"{prefix}attention.head_count_kv", num_heads, most=_MOST_HEADS),
        "head_dim": head_dim,
        "rms_norm_eps": _number(header, f"{prefix}attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": theta,
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
    }
    scaling = header.text(f"{prefix}rope.scaling.type", "none")
    if scaling != "none":  # linear, or for the family to refuse
        hf["rope_scaling"] = {"rope_type": scaling, "factor": _number(header, f"{prefix}rope.scaling.factor", 1.0)}
    elif ROPE_FACTORS in header.tensors:
        original = _size(header, f"{prefix}rope.scaling.original_context_length", LLAMA3_POSITIONS)
        hf["rope_scaling"] = _llama3_scaling(header, head_dim=head_dim, theta=theta, original_max_positions=original)
    return hf


def rope_factors(scaling: RopeScaling, *, head_dim: int, theta: float) -> Tensor:
    """By how much each rotary frequency is divided: the tensor that stands for Llama 3's scaling in a GGUF file."""
    plain, scaled = (inverse_frequencies(head_dim, theta, how, torch.device("cpu")) for how in (None, scaling))
    return plain / scaled


def _llama3_scaling(header: Header, *, head_dim: int, theta: float, original_max_positions: int) -> dict[str, object]:
    """Llama 3's scaling with the factors of the file, which must be those that it leads to."""
    info = header.tensors[ROPE_FACTORS]
    if info.type.name != "F32" or info.shape != (head_dim // 2,):
        header.refuse(ROPE_FACTORS, f"{info.type.name} {info.shape}", f"F32 {(head_dim // 2,)}")
    found = _numbers(_mapped(header.path), info)
    scaling = RopeScaling(
        factor=max(float(found.max()), 1.0),
        low_frequency_factor=LLAMA3_LOW,
        high_frequency_factor=LLAMA3_HIGH,
        original_max_positions=original_max_positions,
    )
    if not torch.allclose(found, rope_factors(scaling, head_dim=head_dim, theta=theta), rtol=1e-4):
        possible = f"llama3: {LLAMA3_LOW}, {LLAMA3_HIGH}, {original_max_positions}"
        header.refuse(ROPE_FACTORS, found.tolist()[:8], possible)
    return scaling.to_hf()


@dataclass(frozen=True)
class Layout:
    """How an architecture names and lays out the tensors of its family."""

    architecture: str
    heads: Mapping[str, int]  # of the modules of the file whose rows llama.cpp turns with pairs side by side
    modules: Mapping[str, str]  # theirs by the file's; {} is the layer number
    transposed: frozenset[str]  # the file's modules that their Conv1D stores as (in, out)

    @classmethod
    def of(cls, architecture: str, *, num_heads: int, num_kv_heads: int, path: Path) -> Layout:
        """The layout of an architecture, its names by the gguf package.

        Raises:
            CheckpointError: ``data.missing_extra`` without the package.
        """
        from wenlu.models.build import family
        from wenlu.models.families._transformer import TransformerFamily

        package = import_gguf(path)
        kind = family(architecture)
        assert isinstance(kind, TransformerFamily)
        names = package.get_tensor_name_map(package.MODEL_ARCH[architecture.upper()], 1)
        modules = {
            name.replace("blk.0.", "blk.{}."): entry
            for entry in kind.entries
            if (name := names.get_name(entry.theirs.format(0))) is not None
        }
        heads = {"blk.{}.attn_q": num_heads, "blk.{}.attn_k": num_kv_heads} if architecture == "llama" else {}
        transposed = frozenset(name for name, entry in modules.items() if entry.form == "transposed")
        return cls(architecture, heads, {name: entry.theirs for name, entry in modules.items()}, transposed)

    def theirs(self, name: str) -> str:
        """Hugging Face's name of a tensor; a name that means nothing here stays."""
        return _renamed(name, self.modules)

    def ours(self, name: str) -> str:
        """The file's name of a tensor of theirs."""
        return _renamed(name, {theirs: name for name, theirs in self.modules.items()})

    def read(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor as they store it, from the tensor of this name in the file."""
        return self._turned(name, tensor, (-1, 2))

    def write(self, name: str, tensor: Tensor) -> Tensor:
        """The other way."""
        return self._turned(name, tensor, (2, -1))

    def _turned(self, name: str, tensor: Tensor, pairs: tuple[int, int]) -> Tensor:
        module = _module(name)[0]
        if module in self.heads:
            rows = tensor.reshape(self.heads[module], *pairs, *tensor.shape[1:])
            return rows.swapaxes(1, 2).reshape(tensor.shape)
        return tensor.t() if module in self.transposed and tensor.dim() == 2 else tensor


class Tensors:
    """The tensors of a GGUF file, mapped, under Hugging Face's names, as ``safe_open`` would give them."""

    def __init__(self, path: Path) -> None:
        header = read_header(path, vocabulary=False)
        architecture = header.text("general.architecture")
        num_heads = _size(header, f"{architecture}.attention.head_count", most=_MOST_HEADS)
        num_kv_heads = _size(header, f"{architecture}.attention.head_count_kv", num_heads, most=_MOST_HEADS)
        self.layout = Layout.of(architecture, num_heads=num_heads, num_kv_heads=num_kv_heads, path=path)
        self.infos = {self.layout.theirs(name): info for name, info in header.tensors.items() if name != ROPE_FACTORS}
        self.path = path
        self.data = _mapped(path)

    def keys(self) -> list[str]:
        """Names of all tensors."""
        return list(self.infos)

    def get_tensor(self, name: str) -> Tensor:
        """One tensor: floats mapped and not copied, blocks as float32."""
        info = self.infos[name]
        module = _module(info.name)[0]
        if info.shape[0] % (2 * self.layout.heads.get(module, 1)) and module in self.layout.heads:
            rows = f"2 * {self.layout.heads[module]} * n"
            raise CheckpointError("core.gguf_damaged", path=self.path, part=info.name, found=info.shape, possible=rows)
        return self.layout.read(info.name, _numbers(self.data, info))


def import_gguf(path: Path) -> ModuleType:
    """The gguf package.

    Raises:
        CheckpointError: ``data.missing_extra``.
    """
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError("data.missing_extra", path=path, module="gguf", extra=EXTRA) from error
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
    number = re.search(r"(?<=\.)\d+(?=\.)", module)
    if number is None:
        return module, "", kind
    return f"{module[: number.start()]}{{}}{module[number.end() :]}", number[0], kind


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    module, number, kind = _module(name)
    return f"{modules[module].format(number)}.{kind}" if module in modules else name


def _vocab_size(header: Header) -> int:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        header.refuse("token_embd.weight", "-" if embedding is None else embedding.shape, "(vocab, hidden)")
    return embedding.shape[0]


def _size(header: Header, key: str, default: int | None = None, *, most: int = _LARGEST_SIZE) -> int:
    found = header.integer(key)
    size = default if found is None else found
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
