"""The LSTM: isolation of documents, carried state, cache, gradient, sizes, files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wenlu.core.errors import CheckpointError, SettingsError
from wenlu.models.build import build_model
from wenlu.models.checkpoint import load_model, save_model
from wenlu.models.config import ModelSettings
from wenlu.models.recurrent import LSTMCache, LSTMConfig, RecurrentModel

VOCAB_SIZE = 37


def random_model(*, tied: bool = False, dropout: float = 0.0) -> RecurrentModel:
    config = LSTMConfig(
        vocab_size=VOCAB_SIZE,
        end_token_id=0,
        embedding_size=10,
        hidden_size=16,
        num_layers=2,
        tie_embeddings=tied,
        dropout=dropout,
    )
    model = RecurrentModel(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def tokens(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tied", [False, True])
def test_it_computes_the_equations_of_the_lstm(tied: bool) -> None:
    model = random_model(tied=tied).double()
    inputs = tokens(2, 7)
    state = dict(model.named_parameters())
    x_BSE = state["embedding.weight"][inputs]
    for layer in range(2):
        h_BH = c_BH = torch.zeros(2, 16, dtype=torch.float64)
        outputs = []
        for step in range(7):
            gates = (
                x_BSE[:, step] @ state[f"lstm.weight_ih_l{layer}"].T
                + h_BH @ state[f"lstm.weight_hh_l{layer}"].T
                + state[f"lstm.bias_ih_l{layer}"]
                + state[f"lstm.bias_hh_l{layer}"]
            )
            i, f, g, o = gates.chunk(4, dim=1)
            c_BH = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(g)
            h_BH = torch.sigmoid(o) * torch.tanh(c_BH)
            outputs.append(h_BH)
        x_BSE = torch.stack(outputs, dim=1)
    if tied:
        projected = x_BSE @ state["projection.weight"].T + state["projection.bias"]
        expected = projected @ state["embedding.weight"].T + state["bias"]
    else:
        expected = x_BSE @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(model(inputs), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("by", ["document_ids", "positions"])
def test_a_document_in_the_middle_of_a_window_starts_from_nothing(by: str) -> None:
    model = random_model()
    inputs = tokens(3, 12)
    cuts = (5, 8, 12)  # where each row's second document begins; 12: nowhere
    ids, positions = torch.zeros(3, 12, dtype=torch.int64), torch.arange(12).repeat(3, 1)
    for row, cut in enumerate(cuts):
        ids[row, cut:] = 1
        positions[row, cut:] -= cut
    given = {"document_ids": ids} if by == "document_ids" else {"positions": positions}
    together = model(inputs, **given)
    changed = inputs.clone()
    for row, cut in enumerate(cuts[:2]):
        changed[row, :cut] = (changed[row, :cut] + 1) % VOCAB_SIZE
    after = model(changed, **given)
    for row, cut in enumerate(cuts):
        assert torch.equal(after[row, cut:], together[row, cut:])
        alone = model(inputs[row : row + 1, cut:]) if cut < 12 else together[row : row + 1, 12:]
        torch.testing.assert_close(together[row : row + 1, cut:], alone, atol=1e-6, rtol=1e-5)
    assert not torch.equal(after[0, :5], together[0, :5])


def test_windows_with_a_carried_state_equal_the_whole_stream() -> None:
    model = random_model()
    inputs = tokens(4, 24)
    positions = torch.arange(24).repeat(4, 1)
    positions[1, 10:] -= 10
    positions[2, 16:] -= 16  # a document that begins with a window
    whole = model(inputs, positions=positions)
    cache = model.new_cache(4, 24)
    parts = [
        model(inputs[:, start : start + 8], positions=positions[:, start : start + 8], cache=cache)
        for start in (0, 8, 16)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-6, rtol=1e-5)
    without = [model(inputs[:, s : s + 8], positions=positions[:, s : s + 8]) for s in (0, 8, 16)]
    assert not torch.allclose(torch.cat(without, dim=1)[0], whole[0], atol=1e-3)
    assert torch.allclose(without[2][2], whole[2, 16:], atol=1e-6)


def test_the_state_is_cut_off_from_the_gradient_and_survives_saving() -> None:
    model = random_model().train()
    first, second = tokens(2, 6, seed=1), tokens(2, 6, seed=2)
    cache = model.new_cache(2, 6)
    model.hidden(first, cache=cache).sum().backward()
    cache.detach_()
    saved = {name: tensor.clone() for name, tensor in cache.tensors().items()}
    assert not any(part.requires_grad for part in cache.state_LBH)
    model.zero_grad()
    model.hidden(second, positions=torch.arange(6, 12).repeat(2, 1), cache=cache).sum().backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    restored = model.new_cache(2, 6)
    restored.load_tensors(saved)
    assert restored.length == 6
    model.zero_grad()
    model.hidden(second, positions=torch.arange(6, 12).repeat(2, 1), cache=restored).sum().backward()
    for name, parameter in model.named_parameters():
        if expected[name] is not None:
            assert torch.equal(parameter.grad, expected[name]), name


@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 4], [2, 7]])
def test_cached_equals_uncached(pieces: list[int]) -> None:
    model = random_model()
    inputs = tokens(3, 9)
    cache = model.new_cache(3, 9)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in inputs.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(inputs), atol=1e-6, rtol=1e-5)
    assert cache.length == 9


@torch.no_grad()
def test_a_cache_is_reordered_and_begun_again() -> None:
    model = random_model()
    inputs = tokens(2, 5)
    cache = model.new_cache(2, 9)
    model(inputs, cache=cache)
    cache.reorder(torch.tensor([1, 0, 1]))
    following = tokens(3, 1, seed=9)
    expected = model(torch.cat([inputs[[1, 0, 1]], following], dim=1))[:, -1:]
    torch.testing.assert_close(model(following, cache=cache), expected, atol=1e-6, rtol=1e-5)
    cache.truncate(0)
    torch.testing.assert_close(model(following, cache=cache), model(following))
    with pytest.raises(ValueError, match="beginning only"):
        LSTMCache(cache.state_LBH).truncate(1)


@torch.no_grad()
def test_padding_in_front_changes_nothing() -> None:
    model = random_model()
    inputs = tokens(1, 5)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), inputs], dim=1)
    mask = torch.tensor([[False] * 3 + [True] * 5])
    torch.testing.assert_close(model(padded, mask=mask)[:, 3:], model(inputs))


@torch.no_grad()
def test_target_log_probs_are_those_of_the_logits() -> None:
    model = random_model(tied=True)
    inputs, labels = tokens(2, 8), tokens(2, 8, seed=5)
    labels[0, 3] = -100
    expected = model(inputs).log_softmax(dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    expected[0, 3] = 0
    torch.testing.assert_close(model.target_log_probs(inputs, labels), expected)


@pytest.mark.parametrize("tied", [False, True])
def test_statistics_count_the_real_model(tied: bool) -> None:
    model = random_model(tied=tied)
    statistics = model.statistics(sequence_length=32)
    assert statistics.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert statistics.embedding_parameters == model.embedding.weight.numel()
    cache = model.new_cache(1, 32)
    held = 4 * sum(part.numel() for part in cache.state_LBH)
    assert statistics.cache_bytes_per_token == held / 32


def test_equal_seeds_give_equal_weights_and_the_forget_gate_is_open() -> None:
    settings = ModelSettings(kind="lstm", hidden_size=8, embedding_size=6, num_layers=1)
    first, second, other = (
        build_model(settings, vocab_size=20, end_id=0, sequence_length=16, seed=seed) for seed in (1, 1, 2)
    )
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert isinstance(first, RecurrentModel)
    assert isinstance(other, RecurrentModel)
    assert not torch.equal(first.lstm.weight_ih_l0, other.lstm.weight_ih_l0)
    assert first.lstm.bias_ih_l0.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    gate = first.lstm.weight_hh_l0[8:16]
    torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)


def test_the_defaults_are_those_of_lstm_base() -> None:
    model = build_model(ModelSettings(kind="lstm"), vocab_size=10_000, end_id=0, sequence_length=16)
    assert isinstance(model, RecurrentModel)
    assert model.embedding.weight.shape == (10_000, 50)
    assert model.lstm.weight_hh_l1.shape == (1024, 256)


def test_settings_of_other_kinds_and_wrong_sizes_are_refused() -> None:
    with pytest.raises(SettingsError, match="num_heads"):
        build_model(ModelSettings(kind="lstm", num_heads=2), vocab_size=9, end_id=0, sequence_length=8)
    with pytest.raises(SettingsError, match="hidden_size"):
        build_model(ModelSettings(kind="lstm", hidden_size=0), vocab_size=9, end_id=0, sequence_length=8)
    with pytest.raises(SettingsError, match="dropout"):
        build_model(ModelSettings(kind="lstm", dropout=1.0), vocab_size=9, end_id=0, sequence_length=8)


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tied: bool, tmp_path: Path) -> None:
    model = random_model(tied=tied)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    inputs = tokens(2, 6)
    assert torch.equal(loaded(inputs), model(inputs))
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config.replace('"hidden_size": 16', '"hidden_size": 8'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="shape"):
        load_model(tmp_path)


def test_bfloat16_is_for_the_output_layer_only() -> None:
    model = random_model(tied=True)
    inputs = tokens(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden(inputs)
        assert model.logits(hidden).dtype == torch.bfloat16
    assert hidden.dtype == torch.float32
    assert torch.equal(hidden, model.hidden(inputs))
