"""Sizes and costs that are computed from the config, held against the real model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.models.recurrent import RecurrentModel
from wenlu.models.transformer import Transformer

B, S = 2, 32
SETTINGS = {
    "gpt2": ModelSettings(kind="gpt2", hidden_size=64, num_heads=4, num_layers=3),
    "gpt2 untied": ModelSettings(kind="gpt2", hidden_size=64, num_heads=4, num_layers=3, tie_embeddings=False),
    "llama grouped": ModelSettings(kind="llama", hidden_size=64, num_heads=4, num_kv_heads=2, num_layers=3),
    "qwen2 tied": ModelSettings(kind="qwen2", hidden_size=64, num_heads=4, num_layers=2, tie_embeddings=True),
    "qwen3": ModelSettings(kind="qwen3", hidden_size=64, num_heads=4, num_kv_heads=1, head_dim=24, num_layers=2),
}


@pytest.fixture(params=SETTINGS)
def model(request: pytest.FixtureRequest) -> Transformer:
    model = build_model(SETTINGS[request.param], vocab_size=100, end_id=0, sequence_length=S)
    assert isinstance(model, Transformer)
    return model


def tokens() -> Tensor:
    return torch.randint(0, 100, (B, S), generator=torch.Generator().manual_seed(0))


def test_parameters(model: Transformer) -> None:
    statistics = model.statistics(sequence_length=S)
    embeddings = sum(p.numel() for name, p in model.named_parameters() if "embeddings" in name)
    assert statistics.parameters == sum(p.numel() for p in model.parameters())
    assert statistics.embedding_parameters == embeddings
    assert statistics.non_embedding_parameters == statistics.parameters - embeddings


def test_flops(model: Transformer) -> None:
    model.attention_backend = "eager"
    statistics = model.statistics(sequence_length=S)
    with FlopCounterMode(display=False) as forward:
        logits = model(tokens())
    assert forward.get_total_flops() == statistics.forward_flops_per_token * B * S
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert backward.get_total_flops() == statistics.backward_flops_per_token * B * S


def test_cache_bytes(model: Transformer) -> None:
    cache = model.new_cache(B, 40)
    with torch.no_grad():
        model(tokens(), cache=cache)
    assert cache.num_bytes == model.statistics(sequence_length=S).cache_bytes_per_token * B * 40


def kept_bytes(model: nn.Module) -> int:
    """What autograd keeps of a forward pass, without the weights."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden(tokens())
    assert hidden.shape[:2] == (B, S)
    return sum(kept.values())


def test_activation_bytes_within_a_fifth(model: Transformer) -> None:
    expected = model.statistics(sequence_length=S).activation_bytes_per_token * B * S
    assert abs(kept_bytes(model) / expected - 1) < 0.2


@pytest.mark.parametrize(("hidden_size", "num_layers"), [(64, 2), (96, 1), (32, 3)])
def test_activation_bytes_of_an_lstm_within_a_fifth(hidden_size: int, num_layers: int) -> None:
    settings = ModelSettings(kind="lstm", hidden_size=hidden_size, num_layers=num_layers, embedding_size=24)
    model = build_model(settings, vocab_size=100, end_id=0, sequence_length=S)
    assert isinstance(model, RecurrentModel)
    expected = model.statistics(sequence_length=S).activation_bytes_per_token * B * S
    assert abs(kept_bytes(model) / expected - 1) < 0.2
