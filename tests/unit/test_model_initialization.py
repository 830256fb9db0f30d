"""First weights: the table of wenlu.models.initialization, held against the weights."""

from __future__ import annotations

import math

import pytest
import torch

from wenlu.core import plugins
from wenlu.core.errors import SettingsError
from wenlu.models.build import FAMILIES, build_model, family
from wenlu.models.config import ModelSettings, Scheme
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.transformer import Transformer

TRANSFORMERS = [kind for kind in plugins.names(FAMILIES) if isinstance(family(kind), TransformerFamily)]


def make_model(kind: str = "qwen3", scheme: Scheme = "wenlu", *, seed: int = 0, **changes: object) -> Transformer:
    settings = ModelSettings(
        **{"kind": kind, "hidden_size": 128, "num_heads": 2, "num_layers": 3, "initialization": scheme} | changes
    )
    model = build_model(settings, vocab_size=500, end_id=0, sequence_length=64, seed=seed)
    assert isinstance(model, Transformer)
    return model


def near(found: float, expected: float, *, tolerance: float = 0.05) -> bool:
    return abs(found - expected) < tolerance * expected


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_gpt2_scheme(kind: str) -> None:
    model = make_model(kind, "gpt2", tie_embeddings=False)
    num_layers = 3 * len(model.config.stacks)
    for name, parameter in model.named_parameters():
        few = parameter.numel() <= 1500  # drawn so seldom, a deviation has a standard error: four of them
        tolerance = 4 / math.sqrt(2 * parameter.numel()) if few else 0.05
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:  # a weight of Gemma's is added to 1
            assert (parameter == (0 if "gemma" in kind else 1)).all(), name
        elif name.endswith(("attention.o.weight", "ffn.down.weight")):
            assert near(parameter.std().item(), 0.02 / math.sqrt(2 * num_layers), tolerance=tolerance), name
        else:
            assert near(parameter.std().item(), 0.02, tolerance=tolerance), name


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_every_kind_learns_to_say_one_word(kind: str) -> None:
    """Each parameter of a new model has a gradient, in both schemes, and a step along it makes the loss smaller."""
    input_ids = torch.arange(12)[None]
    for scheme in ("gpt2", "wenlu"):
        model = make_model(kind, scheme, tie_embeddings=False, num_layers=1, max_positions=16)
        sounds = [stack.mel_bins for stack in model.config.stacks if stack.mel_bins is not None]
        sources = torch.randn(1, sounds[0], 24, generator=torch.Generator().manual_seed(0)) if sounds else input_ids

        def loss(model: Transformer = model, sources: torch.Tensor = sources) -> torch.Tensor:
            memory = {"memory": model.encode(sources)} if len(model.config.stacks) > 1 else {}
            return -model.target_log_probs(input_ids, torch.full_like(input_ids, 7), **memory).mean()

        before = loss()
        assert near(before.item(), math.log(500), tolerance=0.05), scheme
        for _ in range(4):  # what stands behind matrices that begin at 0 hears of it later
            model.zero_grad()
            loss().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(0.5 * parameter.grad)
        assert loss() < before - 0.1
        still = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
        assert not still, scheme


def test_wenlu_scheme() -> None:
    model = make_model()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
        elif name.endswith(("attention.o.weight", "ffn.down.weight", "head.output.weight")):
            assert (parameter == 0).all(), name
        elif name == "decoder.embeddings.token.weight":
            assert near(parameter.std().item(), 0.5)
        else:
            bound = 0.7 * math.sqrt(3 / 128)
            assert near(parameter.abs().max().item(), bound), name
            assert near(parameter.std().item(), bound / math.sqrt(3)), name
    assert torch.equal(model(torch.arange(10)[None]), torch.zeros(1, 10, 500)), "the first loss is that of a guess"


def test_wenlu_scheme_needs_an_untied_head() -> None:
    with pytest.raises(SettingsError, match="tie_embeddings") as refused:
        make_model(tie_embeddings=True)
    assert refused.value.id == "models.wenlu_needs_untied"
    assert "initialization" in str(refused.value)


def test_draws_depend_on_seed_and_name_alone() -> None:
    first = make_model().state_dict()
    torch.rand(3)
    state = torch.get_rng_state()
    again, deeper, other = make_model().state_dict(), make_model(num_layers=4).state_dict(), make_model(seed=1)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not touched"
    for name, tensor in first.items():
        assert torch.equal(again[name], tensor)
        assert torch.equal(deeper[name], tensor), "another layer does not change the draws of the others"
    name = "decoder.layers.0.ffn.up.weight"
    assert not torch.equal(other.state_dict()[name], first[name])
    assert not torch.equal(first[name], first["decoder.layers.1.ffn.up.weight"])
