"""Sizes and costs as they are told, held against what the model has, computes and keeps."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wenlu.models.build import build_model
from wenlu.models.config import Cache, ModelSettings
from wenlu.models.recurrent import RecurrentModel
from wenlu.models.transformer import Transformer

B, S = 2, 32
SETTINGS = {
    "gpt2": ModelSettings(kind="gpt2", hidden_size=64, num_heads=4, num_layers=3),
    "gpt2 untied": ModelSettings(kind="gpt2", hidden_size=64, num_heads=4, num_layers=3, tie_embeddings=False),
    "llama grouped": ModelSettings(kind="llama", hidden_size=64, num_heads=4, num_kv_heads=2, num_layers=3),
    "qwen2 tied": ModelSettings(kind="qwen2", hidden_size=64, num_heads=4, num_layers=2, tie_embeddings=True),
    "qwen3": ModelSettings(kind="qwen3", hidden_size=64, num_heads=4, num_kv_heads=1, head_dim=24, num_layers=2),
    "gemma3": ModelSettings(kind="gemma3_text", hidden_size=64, num_heads=4, head_dim=24, num_layers=2),
    "bert": ModelSettings(kind="bert", hidden_size=64, num_heads=4, num_layers=3),
    "albert": ModelSettings(kind="albert", hidden_size=64, num_heads=4, num_layers=3, embedding_size=24),
    "t5": ModelSettings(kind="t5", hidden_size=64, num_heads=4, num_layers=2),
    "bart": ModelSettings(kind="bart", hidden_size=64, num_heads=4, num_layers=2),
    "marian untied": ModelSettings(kind="marian", hidden_size=64, num_heads=4, num_layers=2, tie_embeddings=False),
    "whisper": ModelSettings(kind="whisper", hidden_size=64, num_heads=4, num_layers=2),
}


@pytest.fixture(params=SETTINGS)
def model(request: pytest.FixtureRequest) -> Transformer:
    model = build_model(SETTINGS[request.param], vocab_size=100, end_id=0, sequence_length=S)
    assert isinstance(model, Transformer)
    return model


def tokens() -> Tensor:
    return torch.randint(0, 100, (B, S), generator=torch.Generator().manual_seed(0))


def hidden(model: nn.Module, cache: Cache | None = None) -> Tensor:
    """The states of as many tokens in each stack."""
    if not isinstance(model, Transformer) or model.encoder is None or model.decoder is None:
        return model.hidden(tokens(), cache=cache)
    sounds = model.config.encoder.mel_bins
    memory = model.encode(tokens() if sounds is None else torch.randn(B, sounds, 2 * S))
    return model.hidden(tokens(), memory=memory, cache=cache)


def test_parameters(model: Transformer) -> None:
    statistics = model.statistics(sequence_length=S)
    incoming = re.compile(r"embeddings|\.relative")
    embeddings = sum(p.numel() for name, p in model.named_parameters() if incoming.search(name))
    assert statistics.parameters == sum(p.numel() for p in model.parameters())
    assert statistics.embedding_parameters == embeddings
    assert statistics.non_embedding_parameters == statistics.parameters - embeddings


def test_flops(model: Transformer) -> None:
    model.attention_backend = "eager"
    statistics = model.statistics(sequence_length=S)
    with FlopCounterMode(display=False) as forward:
        logits = model.logits(hidden(model))
    assert forward.get_total_flops() == statistics.forward_flops_per_token * B * S
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    expected = statistics.backward_flops_per_token * B * S
    if model.encoder is not None and (reader := model.encoder.embeddings.spectrogram) is not None:
        expected -= 2 * 2 * reader.first.weight.numel() * B * S  # sounds have no gradient; two frames a state
    assert backward.get_total_flops() == expected


def test_cache_bytes(model: Transformer) -> None:
    """Of a memory as much is kept as it has, of the decoder's own tokens what was asked for."""
    per_token = model.statistics(sequence_length=S).cache_bytes_per_token
    if model.decoder is None:
        assert per_token == 0
        return
    cache = model.new_cache(B, 40)
    with torch.no_grad():
        hidden(model, cache=cache)
    stacks = len(model.config.stacks)
    held = sum(tensor.nbytes for layer in (*cache.layers, *cache.memories) for tensor in layer.memory)
    assert held == per_token / stacks * B * (40 + (stacks - 1) * S)


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
        states = hidden(model)
    assert states.shape[:2] == (B, S)
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
