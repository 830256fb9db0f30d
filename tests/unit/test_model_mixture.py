"""The mixture: probabilities, cache, files and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from wenlu.core.errors import CheckpointError, SettingsError
from wenlu.data.store import TokenStore
from wenlu.models.build import build_model
from wenlu.models.checkpoint import load_model, save_model
from wenlu.models.config import ModelSettings
from wenlu.models.mixture import Mixture
from wenlu.models.ngram import fit

VOCAB_SIZE = 30
END = 0


def tokens(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(seed))


def make(kind: str, seed: int = 3) -> nn.Module:
    if kind == "ngram":
        documents = [[*row.tolist(), END] for row in tokens(50, 9) % 12 + 1]
        store = TokenStore.from_documents(documents, end_id=END, vocab_size=VOCAB_SIZE)
        return fit(store, order=3, vocab_size=VOCAB_SIZE, end_id=END)
    settings = {
        "lstm": ModelSettings(kind="lstm", hidden_size=8, embedding_size=6),
        "gpt2": ModelSettings(kind="gpt2", hidden_size=8, num_heads=2, num_layers=1, tie_embeddings=True),
    }[kind]
    model = build_model(settings, vocab_size=VOCAB_SIZE, end_id=END, sequence_length=16, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return model.eval()


@pytest.fixture(params=["ngram lstm", "gpt2 ngram", "lstm gpt2"])
def mixture(request: pytest.FixtureRequest) -> Mixture:
    return Mixture([make(kind) for kind in request.param.split()], [0.3, 0.7])


@torch.no_grad()
def test_its_probabilities_are_the_weighted_mean(mixture: Mixture) -> None:
    inputs = tokens(2, 10)
    first, second = (component(inputs).double().softmax(dim=-1) for component in mixture.components)
    logits = mixture(inputs)
    torch.testing.assert_close(logits.double().exp(), 0.3 * first + 0.7 * second, atol=1e-7, rtol=1e-5)
    assert (logits.double().exp().sum(dim=-1) - 1).abs().max() < 1e-6
    labels = tokens(2, 10, seed=2)
    labels[0, :3] = -100
    expected = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    expected[0, :3] = 0
    torch.testing.assert_close(mixture.target_log_probs(inputs, labels), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cached_equals_uncached_also_after_reordering(mixture: Mixture) -> None:
    inputs = tokens(2, 8)
    cache = mixture.new_cache(2, 10)
    parts = [mixture(part, cache=cache) for part in inputs.split([4, 1, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), mixture(inputs), atol=1e-5, rtol=1e-5)
    cache.reorder(torch.tensor([1, 1]))
    following = tokens(2, 1, seed=5)
    expected = mixture(torch.cat([inputs[[1, 1]], following], dim=1))[:, -1:]
    torch.testing.assert_close(mixture(following, cache=cache), expected, atol=1e-5, rtol=1e-5)
    assert cache.length == 9


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same_with_components_that_load_alone(mixture: Mixture, tmp_path: Path) -> None:
    save_model(mixture, tmp_path)
    inputs = tokens(2, 6)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Mixture)
    assert loaded.weights == mixture.weights
    assert torch.equal(loaded(inputs), mixture(inputs))
    assert torch.equal(load_model(tmp_path / "component_1")(inputs), mixture.components[1](inputs))
    (tmp_path / "config.json").write_text('{"model_type": "wenlu_mixture", "weights": "half"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="weights"):
        load_model(tmp_path)


@torch.no_grad()
def test_a_weight_of_zero_switches_a_component_off() -> None:
    first, second = make("ngram"), make("lstm")
    inputs = tokens(2, 6)
    mixed = Mixture([first, second], [1.0, 0.0])(inputs)
    torch.testing.assert_close(mixed, first(inputs), atol=1e-6, rtol=0)


def test_a_mixture_of_a_mixture_is_a_model_too() -> None:
    inner = Mixture([make("ngram"), make("lstm")], [0.5, 0.5])
    outer = Mixture([inner, make("gpt2")], [0.6, 0.4])
    assert (outer(tokens(1, 5)).double().exp().sum(dim=-1) - 1).abs().max() < 1e-6
    assert outer.max_positions == 16
    sizes = [model.statistics(sequence_length=8).parameters for model in (*inner.components, outer.components[1])]
    assert outer.statistics(sequence_length=8).parameters == sum(sizes)


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.6], [-0.5, 1.5]])
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(SettingsError, match="2 models"):
        Mixture([make("ngram"), make("lstm")], weights)


def test_different_vocabularies_are_refused() -> None:
    other = build_model(ModelSettings(kind="lstm", hidden_size=4), vocab_size=31, end_id=0, sequence_length=8)
    with pytest.raises(SettingsError, match="30, 31"):
        Mixture([make("ngram"), other], [0.5, 0.5])


def test_it_is_mixed_and_not_built() -> None:
    with pytest.raises(SettingsError, match="wenlu mix"):
        build_model(ModelSettings(kind="mixture"), vocab_size=9, end_id=0, sequence_length=8)
