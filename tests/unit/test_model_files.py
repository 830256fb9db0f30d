"""Model directories: what is accepted, what is refused and how the refusal reads, in both languages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wenlu.core import plugins
from wenlu.core.errors import CheckpointError
from wenlu.models.build import FAMILIES, build_model, family
from wenlu.models.checkpoint import load_model, save_model
from wenlu.models.config import ModelSettings, RopeScaling, StackConfig, TransformerConfig
from wenlu.models.families._files import HFConfig, Weights
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.mapped import Pages
from wenlu.models.meta import meta_device
from wenlu.models.transformer import Transformer

VOCAB = 31
TRANSFORMERS = [kind for kind in plugins.names(FAMILIES) if isinstance(family(kind), TransformerFamily)]


def make_model(kind: str = "llama", *, tied: bool = False) -> Transformer:
    settings = ModelSettings(
        kind=kind, hidden_size=16, num_heads=2, num_layers=2, tie_embeddings=tied, initialization="gpt2"
    )
    model = build_model(settings, vocab_size=VOCAB, end_id=3, sequence_length=12, seed=1)
    assert isinstance(model, Transformer)
    return model


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_model(make_model(), tmp_path)
    return tmp_path


def edit_config(directory: Path, **values: object) -> None:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(config | values), encoding="utf-8")


def weights(directory: Path) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in load_file(directory / "model.safetensors").items()}


def write_weights(directory: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def loaded(directory: Path) -> Transformer:
    model = load_model(directory)
    assert isinstance(model, Transformer)
    return model


def equal(found: Transformer, expected: Transformer) -> bool:
    state, other = found.state_dict(), expected.state_dict()
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in other)


def refusal(directory: Path, id: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The message of the refusal in English; the Chinese one is made too, and names the same file."""
    with pytest.raises(CheckpointError) as refused:
        load_model(directory)
    assert refused.value.id == id
    monkeypatch.setenv("WENLU_LANG", "zh")
    assert str(directory) in str(refused.value)
    monkeypatch.setenv("WENLU_LANG", "en")
    assert str(directory) in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("kind", TRANSFORMERS)
@pytest.mark.parametrize("tied", [False, True])
def test_saved_and_loaded_bit_by_bit(kind: str, tied: bool, tmp_path: Path) -> None:
    model = make_model(kind, tied=tied)
    save_model(model, tmp_path)
    assert equal(loaded(tmp_path), model)
    assert loaded(tmp_path).config.tie_embeddings is tied
    assert loaded(tmp_path).config.end_token_id == 3
    assert not loaded(tmp_path).training
    assert all(parameter.requires_grad for parameter in loaded(tmp_path).parameters())
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path).values())


def test_other_types_on_request_and_from_the_file(directory: Path) -> None:
    assert {p.dtype for p in load_model(directory, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    write_weights(directory, {name: tensor.bfloat16() for name, tensor in weights(directory).items()})
    assert {p.dtype for p in load_model(directory).parameters()} == {torch.float32}


def test_training_a_loaded_model_leaves_its_file_alone(directory: Path) -> None:
    before = (directory / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in load_model(directory).parameters():
            parameter.add_(1)
    assert (directory / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(("kind", "prefix"), [("llama", "model."), ("gpt2", "transformer.")])
def test_names_without_the_prefix(kind: str, prefix: str, tmp_path: Path) -> None:
    model = make_model(kind, tied=True)
    save_model(model, tmp_path)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in weights(tmp_path).items()}
    if kind == "gpt2":
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 12, 12)  # the causal mask in old files
    else:
        tensors["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    write_weights(tmp_path, tensors)
    assert equal(loaded(tmp_path), model)


def test_shards(directory: Path) -> None:
    model, tensors = loaded(directory), weights(directory)
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    (directory / "model.safetensors").unlink()
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert equal(loaded(directory), model)
    del index["weight_map"]["lm_head.weight"]
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert equal(loaded(directory), model), "what lies in a shard is used, whether the index names it or not"


def test_a_missing_shard(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = {"weight_map": dict.fromkeys(weights(directory), "model-1.safetensors")}
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "model-1.safetensors" in refusal(directory, "models.weights_missing", monkeypatch)


def test_a_shard_outside_the_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "model.safetensors").unlink()
    index = json.dumps({"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}})
    (directory / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    assert "elsewhere" in refusal(directory, "models.weights_damaged", monkeypatch)


def test_tied_or_not_is_decided_by_the_tensors(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = weights(directory)
    edit_config(directory, tie_word_embeddings=True)
    assert loaded(directory).config.tie_embeddings is False  # there is another output matrix
    del tensors["lm_head.weight"]
    write_weights(directory, tensors)
    assert loaded(directory).config.tie_embeddings is True  # there is none
    edit_config(directory, tie_word_embeddings=None)
    assert loaded(directory).config.tie_embeddings is True
    edit_config(directory, tie_word_embeddings=False)
    assert "lm_head.weight" in refusal(directory, "models.tensors_missing", monkeypatch)
    edit_config(directory, architectures=None)
    assert "lm_head.weight" in refusal(directory, "models.tensors_missing", monkeypatch)
    edit_config(directory, architectures=["LlamaModel"])  # a class that never has one
    assert loaded(directory).config.tie_embeddings is True


def test_layers_that_no_file_holds_are_refused_before_they_are_built(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    whole = Transformer.__init__
    monkeypatch.setattr(
        Transformer, "__init__", lambda self, config: (built.append(config.main.num_layers), whole(self, config))[1]
    )
    edit_config(directory, num_hidden_layers=200)
    message = refusal(directory, "models.tensors_missing", monkeypatch)
    assert "model.layers.2.input_layernorm.weight" in message
    assert set(built) == {1}


@pytest.mark.parametrize("declared", [False, True])
def test_an_equal_output_matrix_is_what_the_config_says(declared: bool, directory: Path) -> None:
    tensors = weights(directory)
    write_weights(directory, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    edit_config(directory, tie_word_embeddings=declared)
    assert loaded(directory).config.tie_embeddings is declared


SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 7e5, "rope_scaling": {"rope_type": "llama3", **SCALING}},
        {"rope_theta": 7e5, "rope_scaling": {"type": "llama3", **SCALING}},
        {"rope_theta": None, "rope_parameters": {"rope_type": "llama3", "rope_theta": 7e5, **SCALING}},
        {"rope_theta": 7e5, "rope_parameters": {"rope_type": "llama3", **SCALING}},
    ],
)
def test_both_formats_of_rotary_settings(rope: dict[str, object], directory: Path) -> None:
    edit_config(directory, **rope)
    stack = loaded(directory).config.decoder
    assert stack.rope_theta == 7e5
    assert stack.rope_scaling == RopeScaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_positions=64
    )


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"hidden_act": "relu"}, "relu"),
    ],
)
def test_what_is_not_computed_is_refused(
    values: dict[str, object], named: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_config(directory, **values)
    assert named in refusal(directory, "models.config_unsupported", monkeypatch)


@pytest.mark.parametrize("key", ["scale_attn_by_inverse_layer_idx", "add_cross_attention"])
def test_what_gpt2_configs_may_ask_and_we_do_not_compute(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(make_model("gpt2"), tmp_path)
    edit_config(tmp_path, **{key: True})
    assert key in refusal(tmp_path, "models.config_unsupported", monkeypatch)


def test_a_pickle_is_refused_with_the_remedy(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    message = refusal(directory, "models.pickle_refused", monkeypatch)
    assert "pytorch_model.bin" in message
    assert "save_pretrained" in message


def test_no_weights_and_no_config(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "model.safetensors").unlink()
    refusal(directory, "models.weights_missing", monkeypatch)
    (directory / "config.json").unlink()
    refusal(directory, "models.no_config", monkeypatch)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_damaged_config(text: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refusal(directory, "models.config_damaged", monkeypatch)


def test_damaged_weights(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    refusal(directory, "models.weights_damaged", monkeypatch)


def test_config_values_of_a_wrong_type_and_missing_ones(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_config(directory, hidden_size="16")
    assert "'16'" in refusal(directory, "models.config_type", monkeypatch)
    edit_config(directory, hidden_size=True)
    assert "True" in refusal(directory, "models.config_type", monkeypatch)
    edit_config(directory, hidden_size=None)
    assert "hidden_size" in refusal(directory, "models.config_missing", monkeypatch)


def test_an_unknown_model_type(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_config(directory, model_type="mamba")
    message = refusal(directory, "models.unknown_type", monkeypatch)
    assert "mamba" in message
    assert "llama" in message


def test_a_tensor_too_many(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(directory, weights(directory) | {"odd.weight": torch.ones(2, 16)})
    assert "odd.weight" in refusal(directory, "models.tensors_unused", monkeypatch)


def test_a_tensor_too_few(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = weights(directory)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    write_weights(directory, tensors)
    assert "model.layers.1.mlp.up_proj.weight" in refusal(directory, "models.tensors_missing", monkeypatch)


@pytest.mark.parametrize("shape", [(17,), (16, 1), ()])
def test_a_tensor_of_another_shape(shape: tuple[int, ...], directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(directory, weights(directory) | {"model.norm.weight": torch.ones(shape)})
    message = refusal(directory, "models.tensor_shape", monkeypatch)
    assert "model.norm.weight" in message
    assert "(16,)" in message


def test_a_model_that_no_format_can_express(tmp_path: Path) -> None:
    stack = StackConfig(
        hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, max_positions=8, norm="rms_norm"
    )
    model = Transformer(TransformerConfig(vocab_size=VOCAB, decoder=stack, tie_embeddings=True))
    with pytest.raises(CheckpointError) as refused:
        save_model(model, tmp_path / "model")
    assert refused.value.id == "models.no_family"
    assert "qwen3" in str(refused.value)
    assert not (tmp_path / "model").exists()


def test_heads_that_another_family_could_not_split_are_saved(tmp_path: Path) -> None:
    settings = ModelSettings(kind="qwen3", hidden_size=16, num_heads=3, head_dim=8, num_layers=1)
    model = build_model(settings, vocab_size=VOCAB, end_id=3, sequence_length=12, seed=1)
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["model_type"] == "qwen3"
    assert isinstance(load_model(tmp_path), Transformer)


def resident_pages(path: Path) -> int:
    """Bytes of a file that this process has in memory through its maps."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        if not line[0].isupper():
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_what_was_copied_of_a_file_does_not_stay_resident(tmp_path: Path) -> None:
    linux = sys.platform == "linux"  # elsewhere pages stay, and the tensors are the same
    path, size = tmp_path / "model.safetensors", 4_000_000
    tensors = {name: torch.full((size // 4,), float(number)) for number, name in enumerate("abc", start=1)}
    save_file(tensors, path)
    with Weights(tmp_path) as weights:
        first = weights.read("a")
        assert first.sum().item() == size // 4
        assert not linux or resident_pages(path) >= size
        second = weights.read("b")
        assert not linux or resident_pages(path) < size / 10
        assert second.sum().item() == 2 * (size // 4)
        assert first.sum().item() == size // 4  # read from the file again
        own = torch.ones(size)
        Pages(path).forget(own)
        assert own.sum().item() == size
    assert torch.equal(first, tensors["a"])
    assert torch.equal(second, tensors["b"])


def test_keys_that_were_asked_for_are_known(directory: Path) -> None:
    values = json.loads((directory / "config.json").read_text(encoding="utf-8")) | {"initializer_range": 0.02}
    config = HFConfig(values, directory / "config.json")
    family("llama").config(config)
    assert {"hidden_size", "rope_theta", "head_dim", "rms_norm_eps"} <= config.used
    assert "initializer_range" not in config.used


def test_a_model_without_memory_draws_no_weights() -> None:
    with meta_device():
        layer = torch.nn.Linear(3, 4)
    assert (layer.weight.device.type, tuple(layer.weight.shape)) == ("meta", (4, 3))
    program = "import sys, torch; from wenlu.models.meta import meta_device\n"
    program += "with meta_device(): torch.nn.Embedding(3, 4), torch.nn.Linear(3, 4), torch.nn.LayerNorm(3)\n"
    program += "sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
