"""GGUF files that are broken, hostile, or of a kind that is not read or written here: always our error, and at once."""

from __future__ import annotations

import builtins
import json
import random
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import gguf
import pytest
import torch

from gguf_models import KINDS, directory, rewrite
from promises import Figure, Lane
from tiny_tokenizers import tiny
from wenlu.bundle import load_bundle
from wenlu.core.errors import CheckpointError, WenluError
from wenlu.core.gguf import MAX_ELEMENTS, read_header
from wenlu.core.publication import publish_file
from wenlu.gguf_export import GGUFType, export_gguf
from wenlu.models.checkpoint import load_model, save_model
from wenlu.tokenization.tokenizer import Tokenizer

_LLAMA = {"hidden_size": 32, "head_dim": 8, "intermediate_size": 32, "max_position_embeddings": 64}
_SMALL = {"gpt2": {"n_embd": 32, "n_inner": 32, "n_positions": 64}, "llama 3": _LLAMA, "qwen3": _LLAMA}
MOST_SECONDS, MOST_MIB = 1.0, 500
HUGE = (2**63, 2**64 - 1, 2**40, 2**32 - 1, 2**31, 2**24, 2**16)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A Llama 3 in float32, a GPT-2 in blocks, a Qwen3 in F16."""
    made = []
    for kind, type in (("llama 3", "f32"), ("gpt2", "q8_0"), ("qwen3", "f16")):
        folder = tmp_path_factory.mktemp("gguf")
        directory(folder / "model", kind, **_SMALL[kind])
        export_gguf(folder / "model", folder / "model.gguf", type=type)  # type: ignore[arg-type]
        made.append(folder / "model.gguf")
    return made


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A file cut, lengthened, with flipped bytes, or with a number that is huge; mostly in what it says."""
    header = data.index(b"output_norm") + 64
    kind = draw.choice(("cut", "flip", "flip", "huge", "huge", "swap", "longer"))
    changed = bytearray(data)
    place = draw.randrange(header if draw.random() < 0.9 else len(data))
    if kind == "cut":
        return data[:place]
    if kind == "longer":
        return data[:place] + draw.randbytes(draw.randrange(1, 64)) + data[place:]
    if kind == "swap":
        other, size = draw.randrange(header), draw.randrange(1, 64)
        changed[place : place + size] = data[other : other + size]
    elif kind == "huge":
        code = draw.choice("QI")
        number = draw.choice(HUGE) % 256 ** struct.calcsize("<" + code)
        changed[place : place + struct.calcsize("<" + code)] = struct.pack("<" + code, number)
    else:
        for _ in range(draw.choice((1, 1, 1, 8))):
            changed[draw.randrange(header)] ^= 1 << draw.randrange(8)
    return bytes(changed)


@pytest.mark.promise("T24")
def test_mutated_files_are_our_error_at_once(files: list[Path], tmp_path: Path, lane: Lane, figure: Figure) -> None:
    """Header, tokenizer and model of each file are read, as every command does."""
    count, draw, path = lane(ci=600, nightly=10_000), random.Random(11), tmp_path / "mutated.gguf"
    contents = [file.read_bytes() for file in files]
    load_bundle(files[0])
    refused, slowest, before = 0, 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        path.write_bytes(mutated(contents[number % len(contents)], draw))
        start = time.process_time()
        try:
            load_bundle(path)
        except WenluError as error:
            refused += 1
            assert str(error)
        slowest = max(slowest, time.process_time() - start)
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert refused > count / 2 and slowest <= MOST_SECONDS and mib <= MOST_MIB
    figure(f"{count} mutated GGUF files: {refused} refused by our error, {slowest:.2f} s at most, {mib:.0f} MiB more")


def at(data: bytes, key: str) -> int:
    """Where the value of a key begins, behind its type."""
    name = len(key).to_bytes(8, "little") + key.encode()
    assert data.count(name) == 1
    return data.index(name) + len(name) + 4


def put(place: int, code: str, *values: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + struct.pack("<" + code, *values) + data[place + struct.calcsize("<" + code) :]


BROKEN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "empty": ("core.gguf_magic", lambda data: b""),
    "another format": ("core.gguf_magic", lambda data: b"PK" + data[2:]),
    "four bytes": ("core.gguf_damaged", lambda data: data[:4]),
    "the first version": ("core.gguf_version", put(4, "I", 1)),
    "big-endian": ("core.gguf_version", put(4, "I", 3 << 24)),
    "49 bytes that hang the gguf package": (
        "core.gguf_damaged",
        lambda data: b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 4, 2**62),
    ),
    "more tensors than bytes": ("core.gguf_damaged", put(8, "Q", 2**40)),
    "more keys than bytes": ("core.gguf_damaged", put(16, "Q", 2**63)),
    "a list of lists": ("core.gguf_damaged", lambda data: put(at(data, "tokenizer.ggml.tokens"), "I", 9)(data)),
    "an endless list": ("core.gguf_damaged", lambda data: put(at(data, "tokenizer.ggml.tokens") + 4, "Q", 2**60)(data)),
    "an endless word": ("core.gguf_damaged", lambda data: put(at(data, "tokenizer.ggml.pre"), "Q", 2**60)(data)),
    "a word that is no text": (
        "core.gguf_damaged",
        lambda data: put(at(data, "tokenizer.ggml.pre") + 8, "B", 255)(data),
    ),
    "an unknown kind of value": (
        "core.gguf_damaged",
        lambda data: put(at(data, "llama.block_count") - 4, "I", 13)(data),
    ),
    "one tensor over another": (
        "core.gguf_damaged",
        lambda data: put(data.index(b"blk.0.attn_k.weight") + 19 + 4 + 16 + 4, "Q", 64)(data),
    ),
    "no data": ("core.gguf_damaged", lambda data: data[:-4096]),
    "the same name twice": ("core.gguf_damaged", lambda data: data.replace(b"blk.1.attn_q.w", b"blk.1.attn_k.w")),
    "the same key twice": (
        "core.gguf_damaged",
        lambda data: data.replace(b"ggml.bos_token", b"ggml.eos_token"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(name: str, files: list[Path], tmp_path: Path) -> None:
    id, break_it = BROKEN[name]
    path = tmp_path / "broken.gguf"
    path.write_bytes(break_it(files[0].read_bytes()))
    with pytest.raises(WenluError) as caught:
        load_bundle(path)
    assert caught.value.id == id and str(path) in str(caught.value)


def _first(name: str, kind: str) -> Callable[[gguf.ReaderTensor], tuple[str, object, gguf.GGMLQuantizationType]]:
    """The file with one tensor in another type."""
    types = gguf.GGMLQuantizationType

    def change(tensor: gguf.ReaderTensor) -> tuple[str, object, gguf.GGMLQuantizationType]:
        if tensor.name != name:
            return tensor.name, tensor.data, tensor.tensor_type
        return tensor.name, gguf.quantize(tensor.data, types[kind]), types[kind]

    return change


def _without(name: str) -> Callable[[gguf.ReaderTensor], object]:
    return lambda tensor: None if tensor.name == name else (tensor.name, tensor.data, tensor.tensor_type)


def _named(name: str, other: str) -> Callable[[gguf.ReaderTensor], object]:
    return lambda tensor: (other if tensor.name == name else tensor.name, tensor.data, tensor.tensor_type)


def _doubled(name: str) -> Callable[[gguf.ReaderTensor], object]:
    return lambda tensor: (tensor.name, tensor.data * (1 + (tensor.name == name)), tensor.tensor_type)


STRANGE: dict[str, tuple[str, dict[str, object]]] = {
    "another architecture": ("models.unknown_type", {"keys": {"general.architecture": "mamba"}}),
    "a type that is not read": ("core.gguf_type", {"change": _first("blk.0.attn_v.weight", "Q5_0")}),
    "a choice that is not made here": ("models.config_unsupported", {"keys": {"llama.logit_scale": 2.0}}),
    "a scaling that is not made here": ("models.config_unsupported", {"keys": {"llama.rope.scaling.type": "yarn"}}),
    "other factors than Llama 3's": ("core.gguf_damaged", {"change": _doubled("rope_freqs.weight")}),
    "layers without tensors": ("core.gguf_damaged", {"keys": {"llama.block_count": 3}}),
    "layers beyond all bounds": ("core.gguf_damaged", {"keys": {"llama.block_count": 2**31}}),
    "heads beyond all bounds": ("core.gguf_damaged", {"keys": {"llama.attention.head_count": 2**30}}),
    "no heads": ("core.gguf_damaged", {"keys": {"llama.attention.head_count": 0}}),
    "a width that is text": ("core.gguf_damaged", {"keys": {"llama.embedding_length": None}}),
    "a part of each head that turns": ("core.gguf_damaged", {"keys": {"llama.rope.dimension_count": 4}}),
    "an epsilon that is no number": (
        "core.gguf_damaged",
        {"keys": {"llama.attention.layer_norm_rms_epsilon": float("nan")}},
    ),
    "a missing tensor": ("models.tensors_missing", {"change": _without("blk.1.ffn_up.weight")}),
    "a tensor that nobody uses": ("models.tensors_unused", {"change": _named("output.weight", "blk.0.more.weight")}),
    "no embedding": ("core.gguf_damaged", {"change": _without("token_embd.weight")}),
    "another width": ("models.tensor_shape", {"keys": {"llama.feed_forward_length": 31}}),
    "a kind of tokenizer": ("tokenization.gguf_unsupported", {"keys": {"tokenizer.ggml.model": "bert"}}),
    "rules of a tokenizer": ("tokenization.gguf_unsupported", {"keys": {"tokenizer.ggml.pre": "tekken"}}),
    "no end of text": ("tokenization.no_end_token", {"keys": {"tokenizer.ggml.eos_token_id": None}}),
    "an id beyond the tokens": ("core.gguf_damaged", {"keys": {"tokenizer.ggml.bos_token_id": 10**6}}),
    "merges of no tokens": ("core.gguf_damaged", {"keys": {"tokenizer.ggml.merges": ["x y", "never seen"]}}),
    "more tokens than embeddings": (
        "bundle.vocabulary",
        {"keys": {"tokenizer.ggml.tokens": [str(n) * 9 for n in range(999)], "tokenizer.ggml.token_type": None,
                  "tokenizer.ggml.merges": None}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_whole_files_that_are_not_read_are_named(name: str, files: list[Path], tmp_path: Path) -> None:
    id, changes = STRANGE[name]
    path = rewrite(files[0], tmp_path / "strange.gguf", **changes)  # type: ignore[arg-type]
    with pytest.raises(WenluError) as caught:
        load_bundle(path)
    assert caught.value.id == id


def test_what_changes_nothing_is_read(files: list[Path], tmp_path: Path) -> None:
    more = {"llama.expert_count": 0, "llama.rope.scale_linear": 1.0, "general.languages": ["zh", "en"]}
    path = rewrite(files[0], tmp_path / "more.gguf", keys=more)
    found, expected = load_bundle(path).model, load_bundle(files[0]).model
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))
    assert read_header(path).metadata["general.languages"] == ["zh", "en"]


def test_limits_hold_before_anything_is_made(tmp_path: Path) -> None:
    """A list that the file could hold and that is longer than any vocabulary."""
    path = tmp_path / "long.gguf"
    count = MAX_ELEMENTS + 1
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 0, count) + bytes(count))
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert caught.value.id == "core.gguf_damaged" and caught.value.values["possible"] == MAX_ELEMENTS


@pytest.mark.parametrize("words", [False, True])
def test_limits_hold_for_all_lists_together(words: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lists.gguf"
    one = (struct.pack("<Q", 6) + b"abcdef") * 60 if words else bytes(60)
    lists = [struct.pack("<Q1sIIQ", 1, name, 9, 8 if words else 0, 60) + one for name in (b"a", b"b")]
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + b"".join(lists))
    assert len(read_header(path).metadata) == 2
    monkeypatch.setattr("wenlu.core.gguf." + ("MAX_KEPT_BYTES" if words else "MAX_ELEMENTS"), 700 if words else 100)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert caught.value.id == "core.gguf_damaged" and caught.value.values["part"] == "b"


def test_lists_of_a_tokenizer_are_kept_for_the_tokenizer_alone(files: list[Path]) -> None:
    key = "tokenizer.ggml.token_type"
    assert key in read_header(files[0]).metadata and key not in read_header(files[0], vocabulary=False).metadata


def test_tensors_are_mapped_and_not_copied(files: list[Path]) -> None:
    """All float32 tensors but the turned ones are views of one map."""
    first, second = (load_model(files[0]).decoder.layers[0].ffn.up.weight for _ in range(2))  # type: ignore[union-attr,index]
    info = read_header(files[0]).tensors["blk.0.ffn_up.weight"]
    assert first.untyped_storage().nbytes() == info.num_bytes
    first.data.zero_()
    assert second.abs().sum() > 0 and load_model(files[0]).decoder.layers[0].ffn.up.weight.abs().sum() > 0  # type: ignore[union-attr,index]


def test_without_the_package_the_extra_is_named(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__
    refuse = lambda name, *rest: (_ for _ in ()).throw(ImportError(name)) if name == "gguf" else whole(name, *rest)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CheckpointError, match=r'pip install "wenlu\[export\]"'):
        load_model(files[0])


def refused(path: Path, target: Path, type: str = "f32") -> str:
    """The id of the error of an export, which leaves nothing behind."""
    before = sorted(target.parent.iterdir())
    with pytest.raises(WenluError) as caught:
        export_gguf(path, target, type=type)  # type: ignore[arg-type]
    assert sorted(target.parent.iterdir()) == before
    return caught.value.id


def test_models_that_llama_cpp_cannot_compute_are_not_exported(tmp_path: Path) -> None:
    directory(tmp_path / "exact", "gpt2", activation_function="gelu")
    assert refused(tmp_path / "exact", tmp_path / "x.gguf") == "models.config_unsupported"
    directory(tmp_path / "windowed", "mistral", sliding_window=8)
    assert refused(tmp_path / "windowed", tmp_path / "x.gguf") == "models.config_unsupported"
    scaling = {**KINDS["llama 3"]["rope_scaling"], "low_freq_factor": 2.0}  # type: ignore[dict-item]
    directory(tmp_path / "scaled", "llama 3", rope_scaling=scaling)
    assert refused(tmp_path / "scaled", tmp_path / "x.gguf") == "models.config_unsupported"
    model = directory(tmp_path / "large", "llama")
    model.decoder.layers[0].ffn.up.weight.data[0, 0] = 70_000.0
    save_model(model, tmp_path / "large")
    for type in get_args(GGUFType):
        path = tmp_path / f"{type}.gguf"
        if type in ("f16", "q8_0"):
            assert refused(tmp_path / "large", path, type) == "models.gguf_range"
        else:
            export_gguf(tmp_path / "large", path, type=type)


@pytest.mark.parametrize("kind", ["words", "wordpiece", "unigram"])
def test_tokenizers_that_llama_cpp_does_not_know_are_not_exported(kind: str, tmp_path: Path) -> None:
    directory(tmp_path / "model", "llama", tokenizer=tiny(kind))  # type: ignore[arg-type]
    assert refused(tmp_path / "model", tmp_path / "x.gguf") == "tokenization.gguf_unsupported"


def test_other_kinds_and_existing_files_are_left_alone(files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "model"
    directory(path, "llama")
    (tmp_path / "there.gguf").write_text("mine", encoding="utf-8")
    assert refused(path, tmp_path / "there.gguf") == "core.target_exists"
    assert (tmp_path / "there.gguf").read_text(encoding="utf-8") == "mine"
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"model_type": "wenlu_lstm"}), encoding="utf-8")
    assert refused(path, tmp_path / "x.gguf").startswith("models.")


def test_a_file_of_a_file_is_the_same(files: list[Path], tmp_path: Path) -> None:
    """A GGUF file is exported as a directory is; only its name differs, which is no key."""
    export_gguf(files[0], tmp_path / "again.gguf", type="f32")
    assert (tmp_path / "again.gguf").read_bytes() == files[0].read_bytes()


def test_chat_template_goes_along(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    directory(tmp_path / "model", "qwen2")
    config = tmp_path / "model" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"chat_template": template}), encoding="utf-8")
    export_gguf(tmp_path / "model", tmp_path / "model.gguf", type="f16")
    assert Tokenizer.load(tmp_path / "model.gguf").chat_template == template


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("old", encoding="utf-8")

    def fail(temporary: Path) -> None:
        temporary.write_text("half", encoding="utf-8")
        raise ValueError

    with pytest.raises(ValueError):
        publish_file(path, fail)
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"] and path.read_text(encoding="utf-8") == "old"
