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
from wenlu.models.transformer import Stack, Transformer

TRANSFORMERS = [kind for kind in plugins.names(FAMILIES) if isinstance(family(kind), TransformerFamily)]

WITH_NEIGHBOURS = (
    "bart",
    "bert",
    "distilbert",
    "gpt2",
    "roberta",
    "whisper",
)  # learned positions as wide as the states


def make_model(kind: str = "qwen3", scheme: Scheme = "wenlu", *, seed: int = 0, **changes: object) -> Transformer:
    settings = ModelSettings(
        **{"kind": kind, "hidden_size": 128, "num_heads": 2, "num_layers": 3, "initialization": scheme} | changes
    )
    model = build_model(settings, vocab_size=500, end_id=0, sequence_length=64, seed=seed)
    assert isinstance(model, Transformer)
    return model


def memory(model: Transformer, length: int = 12) -> dict[str, torch.Tensor]:
    """What a decoder reads of an encoder, which has read something; nothing where there is one stack."""
    if len(model.config.stacks) == 1:
        return {}
    draws = torch.Generator().manual_seed(0)
    sounds = [stack.mel_bins for stack in model.config.stacks if stack.mel_bins is not None]
    sources = torch.randn(1, sounds[0], 2 * length, generator=draws) if sounds else torch.arange(length)[None]
    return {"memory": model.encode(sources)}


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

        def loss(model: Transformer = model) -> torch.Tensor:
            return -model.target_log_probs(input_ids, torch.full_like(input_ids, 7), **memory(model)).mean()

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


def attention_weights(model: Transformer, stack: Stack, input_ids: torch.Tensor) -> torch.Tensor:
    """Those (H, S, S) of the first layer."""
    found: list[torch.Tensor] = []
    model.attention_backend = "eager"
    hook = stack.layers[0].self_attention.attention_weights.register_forward_hook(
        lambda _module, _inputs, weights: found.append(weights[0])
    )
    model.hidden(input_ids, **memory(model, input_ids.shape[1]))
    hook.remove()
    return found[0]


@pytest.mark.parametrize(("hidden_size", "num_heads"), [(192, 3), (256, 16), (768, 12)])
@pytest.mark.parametrize("kind", WITH_NEIGHBOURS)
@torch.no_grad()
def test_neighbours_scheme(kind: str, hidden_size: int, num_heads: int) -> None:
    sizes = {"hidden_size": hidden_size, "num_heads": num_heads, "num_layers": 2, "max_positions": 512}
    model, plain = (make_model(kind, scheme, **sizes) for scheme in ("neighbours", "gpt2"))
    input_ids = torch.randint(500, (1, 500), generator=torch.Generator().manual_seed(0))
    stacks = {"encoder": model.encoder, "decoder": model.decoder}
    for stack in stacks.values():
        if stack is None or stack.config.mel_bins is not None:
            continue
        weights_HST = attention_weights(model.eval(), stack, input_ids)
        for head, distance in enumerate((-1, 1) if stack.config.attention == "bidirectional" else (-1,)):
            assert weights_HST[head].diagonal(distance).mean() > 0.9, (head, distance)
        assert weights_HST[-1].diagonal(-1).mean() < 0.02, "no other head"
    told = plain.state_dict()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, told[name])}
    assert changed == {
        f"{name}.{tensor}.weight"
        for name, stack in stacks.items()
        if stack is not None and stack.config.mel_bins is None
        for tensor in ("embeddings.position", "layers.0.self_attention.q", "layers.0.self_attention.k")
    }, "all others are those of gpt2"


@pytest.mark.parametrize("kind", [kind for kind in TRANSFORMERS if kind not in WITH_NEIGHBOURS])
def test_neighbours_scheme_needs_learned_positions(kind: str) -> None:
    with pytest.raises(SettingsError) as refused:
        make_model(kind, "neighbours")
    assert refused.value.id == "models.no_neighbours"


def test_neighbours_scheme_needs_a_head_for_each() -> None:
    make_model("gpt2", "neighbours", num_heads=1)
    with pytest.raises(SettingsError) as refused:
        make_model("bert", "neighbours", num_heads=1)
    assert refused.value.id == "models.no_neighbours"


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
