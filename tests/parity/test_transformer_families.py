"""Our Transformer against transformers, every parameter random, on logits and gradients; and proof that this test sees.

The reference is built from its own config class, saved by its own ``save_pretrained`` and read by our ``load_model``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from wenlu.core.errors import WenluError
from wenlu.models import attention
from wenlu.models.build import build_model, family
from wenlu.models.checkpoint import load_model, save_model
from wenlu.models.config import ALL_BIASES, ModelSettings, RopeScaling, StackConfig, TransformerConfig
from wenlu.models.families._files import read_config
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.positions import rotate
from wenlu.models.transformer import Transformer

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VOCAB = 97
LENGTH = 200  # far beyond LLAMA3's original_max_position_embeddings
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}

SMALL = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = SMALL | {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 640}
LLAMA = SMALL | {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 640,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 300.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PLAIN = {"rope_type": "default", "rope_theta": 500_000.0}

CASES: dict[str, tuple[type[transformers.PretrainedConfig], dict[str, object]]] = {
    "gpt2": (transformers.GPT2Config, GPT2),
    "gpt2 untied, odd width": (transformers.GPT2Config, GPT2 | {"tie_word_embeddings": False, "n_inner": 50}),
    "gpt2 exact gelu": (transformers.GPT2Config, GPT2 | {"activation_function": "gelu"}),
    "gpt2 unscaled": (transformers.GPT2Config, GPT2 | {"scale_attn_weights": False}),
    "llama": (transformers.LlamaConfig, LLAMA | {"rope_parameters": PLAIN, "rms_norm_eps": 1e-5}),
    "llama 3.1 tied": (transformers.LlamaConfig, LLAMA | {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama biases": (transformers.LlamaConfig, LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 10}),
    "llama multi-query": (transformers.LlamaConfig, LLAMA | {"num_key_value_heads": 1, "attention_dropout": 0.2}),
    "qwen2": (transformers.Qwen2Config, LLAMA),
    "qwen2 tied": (transformers.Qwen2Config, LLAMA | {"tie_word_embeddings": True, "rope_parameters": PLAIN}),
    "qwen3": (transformers.Qwen3Config, LLAMA | {"head_dim": 16}),
    "qwen3 tied": (transformers.Qwen3Config, LLAMA | {"head_dim": 12, "tie_word_embeddings": True}),
}


@dataclass
class Pair:
    """A reference model and the directory it was saved to."""

    reference: nn.Module
    directory: Path

    def ours(self, change: Callable[[StackConfig], StackConfig] | None = None) -> Transformer:
        """Our model of the directory, with its stack's config changed on the way."""
        hf = read_config(self.directory)
        kind = family(str(hf["model_type"]))
        assert isinstance(kind, TransformerFamily)
        if change is not None:
            read = kind.config
            kind = replace(kind, config=lambda hf: _changed(read(hf), change))
        dtype = next(self.reference.parameters()).dtype
        model = kind.load(hf, self.directory, dtype=dtype)
        assert isinstance(model, Transformer)
        return model.train(self.reference.training)


def _changed(config: TransformerConfig, change: Callable[[StackConfig], StackConfig]) -> TransformerConfig:
    return replace(config, decoder=change(config.main))


def make_pair(case: str, directory: Path, *, dtype: torch.dtype = torch.float32, backend: str = "sdpa") -> Pair:
    config_class, values = CASES[case]
    config = config_class(**values)
    torch.manual_seed(0)
    reference = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=backend).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3 if "embed" in name or "wte" in name or "wpe" in name else 0.2)
            else:  # norms and biases
                parameter.normal_(1.0 if "norm" in name or "ln_" in name else 0.0, 0.3)
            if "embed" in name or "wte" in name or "wpe" in name:
                parameter.mul_(0.1)  # small, so that the epsilon of the first norm matters
    if dtype is torch.float64:
        for module in reference.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = _rms_norm_without_cast(module)  # the reference casts to float32 inside
    reference.save_pretrained(directory)
    return Pair(reference, directory)


def _rms_norm_without_cast(module: nn.Module) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return module.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)

    return forward


def tokens(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(7))


def difference(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_the_reference(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    pair = make_pair(case, tmp_path, dtype=dtype)
    ours, input_ids = pair.ours(), tokens()
    expected = pair.reference(input_ids).logits
    found = ours(input_ids)
    assert found.dtype == dtype
    assert difference(found, expected) <= TOLERANCE[dtype]

    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    gradients = reference_gradients(pair, tmp_path / "gradients")
    largest = max(gradient.abs().max() for gradient in gradients.values())
    mine = dict(ours.named_parameters())
    assert mine.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert mine[name].grad is not None, name
        assert ((mine[name].grad - gradient).abs().max() / largest).item() <= TOLERANCE[dtype], name


def reference_gradients(pair: Pair, directory: Path) -> dict[str, Tensor]:
    """The reference's gradients under our names: written as if they were weights, and read by the same table."""
    directory.mkdir()
    (directory / "config.json").write_bytes((pair.directory / "config.json").read_bytes())
    gradients = {name: parameter.grad.contiguous() for name, parameter in pair.reference.named_parameters()}
    save_file(gradients, directory / "model.safetensors")
    return dict(Pair(pair.reference, directory).ours().named_parameters())


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("case", ["gpt2", "llama 3.1 tied", "qwen2", "qwen3"])
def test_beyond_the_blocks_of_the_fused_kernels(case: str, backend: attention.Backend, tmp_path: Path) -> None:
    pair = make_pair(case, tmp_path)
    ours = pair.ours()
    ours.attention_backend = backend
    with torch.no_grad():
        assert difference(ours(tokens(1, 600)), pair.reference(tokens(1, 600)).logits) <= 1e-5


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("case", ["gpt2", "llama 3.1 tied", "qwen2", "qwen3"])
def test_left_padding_equals_the_reference(case: str, backend: attention.Backend, tmp_path: Path) -> None:
    pair = make_pair(case, tmp_path)
    ours, input_ids = pair.ours(), tokens(3, 40)
    ours.attention_backend = backend
    mask = torch.ones(3, 40, dtype=torch.bool)
    mask[0, :17], mask[1, :3] = False, False
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = pair.reference(input_ids, attention_mask=mask.long(), position_ids=positions).logits
        assert difference(ours(input_ids, mask=mask)[mask], expected[mask]) <= 1e-5
        alone = ours(input_ids[:1, 17:])
    assert difference(alone[0], expected[0, 17:]) <= 1e-5


@pytest.mark.parametrize("case", ["gpt2", "llama multi-query"])
def test_dropout_draws_where_the_reference_does(case: str, tmp_path: Path) -> None:
    pair = make_pair(case, tmp_path, backend="eager")
    assert training_difference(pair, pair.ours) <= 1e-5


def training_difference(pair: Pair, load: Callable[[], Transformer]) -> float:
    """Both in training mode from one seed: equal when both drop at the same places at the same rates."""
    pair.reference.train()
    ours = load()
    ours.attention_backend = "eager"
    torch.manual_seed(5)
    expected = pair.reference(tokens()).logits
    torch.manual_seed(5)
    return difference(ours(tokens()), expected)


# One change a field of StackConfig, each broken in the case that can show it. Dropouts show in training only.
LLAMA3_OTHER = RopeScaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_positions=63)
MUTATIONS: dict[str, list[tuple[str, object]]] = {
    "hidden_size": [("gpt2", 52)],
    "num_layers": [("gpt2", 2), ("gpt2", 4)],
    "num_heads": [("gpt2", 2), ("gpt2", 8)],
    "intermediate_size": [("llama", 81)],
    "max_positions": [("gpt2", 641), ("gpt2", 639)],
    "num_kv_heads": [("llama", 3), ("llama", None)],
    "head_dim": [("qwen3", 8), ("qwen3", None)],
    "norm": [("gpt2", "rms_norm"), ("llama", "layer_norm")],
    "norm_eps": [("gpt2", 1e-6), ("llama", 1e-6), ("qwen3", 1e-5)],
    "qk_norm": [("qwen3", "none")],
    "position": [("gpt2", "rotary")],
    "rope_theta": [("llama", 10_000.0), ("llama 3.1 tied", 299.0)],
    "rope_scaling": [("llama 3.1 tied", None), ("llama 3.1 tied", LLAMA3_OTHER)],
    "ffn": [("llama", "dense")],
    "activation": [("gpt2", "gelu"), ("gpt2 exact gelu", "gelu_tanh"), ("llama", "gelu")],
    "biases": [("qwen2", frozenset()), ("qwen2", ALL_BIASES), ("gpt2", ALL_BIASES - {"ffn"})],
    "attention_scale": [("gpt2 unscaled", None), ("gpt2", 1.0), ("llama", 0.25)],
    "embedding_dropout": [("gpt2", 0.0), ("gpt2", 0.2)],
    "attention_dropout": [("gpt2", 0.0), ("llama multi-query", 0.1)],
    "residual_dropout": [("gpt2", 0.0), ("gpt2", 0.2)],
}


def test_every_field_has_a_mutation() -> None:
    assert set(MUTATIONS) == {field.name for field in fields(StackConfig)}


@pytest.mark.parametrize(
    ("field", "case", "value"),
    [(field, case, value) for field, cases in MUTATIONS.items() for case, value in cases],
    ids=lambda value: str(value)[:20],
)
def test_a_broken_choice_is_seen(field: str, case: str, value: object, tmp_path: Path) -> None:
    pair = make_pair(case, tmp_path, backend="eager")
    assert getattr(pair.ours().config.decoder, field) != value, "the mutation changes nothing"
    try:
        ours = pair.ours(lambda stack: replace(stack, **{field: value}))
    except WenluError:
        return  # refused with a message: seen
    if "dropout" in field:
        assert training_difference(pair, lambda: ours.train()) > 1e-5
    else:
        with torch.no_grad():
            assert difference(ours(tokens()), pair.reference(tokens()).logits) > 1e-5


@contextmanager
def patched(target: object, name: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, value)
        yield


def test_a_rotation_the_other_way_is_seen(tmp_path: Path) -> None:
    pair = make_pair("llama", tmp_path)
    backwards = lambda x, cos, sin: rotate(x, cos, -sin)
    with patched(attention, "rotate", backwards), torch.no_grad():
        # q and k turn alike, so the scores are those of the mirrored distance
        assert difference(pair.ours()(tokens()), pair.reference(tokens()).logits) > 1e-5


def test_exchanged_query_and_key_norms_are_seen(tmp_path: Path) -> None:
    pair = make_pair("qwen3", tmp_path)
    ours = pair.ours()
    for layer in ours.decoder.layers:
        block = layer.self_attention
        block.q_norm, block.k_norm = block.k_norm, block.q_norm
    with torch.no_grad():
        assert difference(ours(tokens()), pair.reference(tokens()).logits) > 1e-5


KINDS = [("gpt2", None), ("gpt2", False), ("llama", None), ("llama", True), ("qwen2", None), ("qwen3", None)]


@pytest.mark.parametrize(("kind", "tied"), KINDS)
def test_the_reference_loads_what_we_train(kind: str, tied: bool | None, tmp_path: Path) -> None:
    settings = ModelSettings(
        kind=kind, hidden_size=48, num_heads=4, num_layers=2, tie_embeddings=tied, dropout=0.1, initialization="gpt2"
    )
    model = build_model(settings, vocab_size=VOCAB, end_id=2, sequence_length=64, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_model(model, tmp_path)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    again = load_model(tmp_path)
    assert isinstance(again, Transformer)
    assert isinstance(model, Transformer)
    assert reference.config.model_type == kind
    assert again.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        expected = model.eval()(tokens(2, 60))
        assert torch.equal(again(tokens(2, 60)), expected)
        assert difference(reference(tokens(2, 60)).logits, expected) <= 1e-5
    save_model(again, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes(), name
