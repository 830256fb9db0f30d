"""Optimizers against torch's own and against the formulas written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tiny_training import tiny_settings
from wenlu.core.errors import CheckpointError, SettingsError
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.training.optimizers import (
    COEFFICIENTS,
    Muon,
    Optimizer,
    OptimizerName,
    OptimizerSettings,
    layer_depths,
    orthogonalize,
    parameter_roles,
    refuse_layers,
)
from wenlu.training.resolution import resolve_settings

SHAPES = [(8, 8), (24, 8), (8, 24), (8, 8), (5, 7), (24, 8)]


def small_model(kind: str = "qwen3", *, tie: bool = False) -> nn.Module:
    settings = ModelSettings(kind=kind, num_layers=1, hidden_size=8, num_heads=2, tie_embeddings=tie)
    return build_model(settings, vocab_size=32, end_id=0, sequence_length=32, seed=1)


def gradients_for(parameters: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def test_roles_of_a_transformer() -> None:
    roles = parameter_roles(small_model())
    assert roles["decoder.embeddings.token.weight"] == "embedding"
    assert roles["head.output.weight"] == "head"
    assert roles["decoder.final_norm.weight"] == "vector"
    assert roles["decoder.layers.0.self_attention.q.weight"] == "matrix"
    assert set(roles.values()) == {"embedding", "head", "vector", "matrix"}


def test_a_learned_position_table_as_wide_as_the_vocabulary_is_no_head() -> None:
    roles = parameter_roles(small_model("gpt2"))
    assert roles["decoder.embeddings.position.weight"] == "embedding"
    assert [name for name, role in roles.items() if role == "head"] == ["head.output.weight"]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_lower_layers_learn_more_slowly_or_not_at_all(name: OptimizerName) -> None:
    """Of three layers the lowest is frozen: the rates of the others are 1/2 and 1/4, that of the head is whole."""
    settings = ModelSettings(kind="bert", num_layers=3, hidden_size=8, num_heads=2, initialization="gpt2", dropout=0.0)
    model = build_model(settings, vocab_size=32, end_id=0, sequence_length=32, seed=1)
    rates = OptimizerSettings(name=name, learning_rate=0.01, vector_rate=0.03, layer_decay=0.5, frozen_layers=1)
    optimizer = Optimizer(model, rates)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    optimizer.set_rates(1.0, index=0)
    optimizer.step()
    assert not any(key.startswith(("encoder.embeddings.", "encoder.layers.0.")) for key in optimizer.parameters)
    moved = {key: float((parameter.detach() - before[key]).abs().max()) for key, parameter in model.named_parameters()}
    still = {key for key, distance in moved.items() if not distance}
    assert still == {key for key in moved if key.startswith(("encoder.embeddings.", "encoder.layers.0."))}
    for key, factor in (("encoder.layers.1.ffn.up.bias", 0.25), ("encoder.layers.2.ffn.up.bias", 0.5),
                        ("head.transform.dense.bias", 1.0)):  # fmt: skip
        assert moved[key] == pytest.approx(0.03 * factor, rel=1e-4), "Adam's first step is the rate"
    low, high = (moved[f"encoder.layers.{layer}.ffn.up.weight"] for layer in (1, 2))
    assert high == pytest.approx(2 * low, rel=1e-4)


def test_depths_are_counted_from_each_stack_s_top() -> None:
    settings = ModelSettings(kind="t5", num_layers=2, hidden_size=8, num_heads=2)
    depths = layer_depths(build_model(settings, vocab_size=32, end_id=0, sequence_length=32, seed=1))
    expected = {"encoder.layers.1": 1, "decoder.layers.0": 2, "encoder.embeddings": 3, "encoder.relative": 3,
                "decoder.final_norm": 0, "head": 0}  # fmt: skip
    for start, depth in expected.items():
        assert {found for name, found in depths.items() if name.startswith(start)} == {depth}


@pytest.mark.parametrize(
    ("overrides", "id"),
    [
        (["optimizer.frozen_layers=3"], "training.range"),
        (["model.kind=lstm", "optimizer.layer_decay=0.9"], "core.setting_unused"),
        (["optimizer.layer_decay=1.1"], "training.range"),
    ],
)
def test_settings_of_layers_that_nothing_reads_are_refused(overrides: list[str], id: str) -> None:
    with pytest.raises(SettingsError) as error:
        resolve_settings(tiny_settings(*overrides))
    assert error.value.id == id


def test_lora_freezes_all_layers_already() -> None:
    with pytest.raises(SettingsError, match=r"optimizer\.frozen_layers"):
        refuse_layers(small_model(), tiny_settings("lora.rank=2", "optimizer.frozen_layers=1").value)


def test_a_tied_head_is_moved_once() -> None:
    roles = parameter_roles(small_model("gpt2", tie=True))
    assert "head" not in roles.values()
    assert sum(role == "embedding" for role in roles.values()) == 2


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_adam_equals_torch(name: str) -> None:
    """Ours with decay groups and two rates against torch's plain loops, over 20 steps."""
    settings = OptimizerSettings(name=name, learning_rate=1e-2, vector_rate=3e-2, weight_decay=0.1, eps=1e-8)  # type: ignore[arg-type]
    ours, theirs = small_model(), small_model()
    optimizer = Optimizer(ours, settings)
    roles = parameter_roles(theirs)
    groups = [
        {
            "params": [parameter],
            "lr": 3e-2 if roles[key] == "vector" else 1e-2,
            "weight_decay": 0.1 if roles[key] in ("matrix", "head") else 0.0,
        }
        for key, parameter in theirs.named_parameters()
    ]
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    reference = kind(groups, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    for step in range(20):
        for model in (ours, theirs):
            gradients_for(list(model.parameters()), step)
        optimizer.set_rates(1.0, index=step)
        optimizer.step()
        reference.step()
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def reference_muon(weights: list[Tensor], *, steps: int, lr: float, momentum: float, decay: float) -> list[Tensor]:
    """The published formula, one matrix after another, in float64."""
    a, b, c = COEFFICIENTS
    weights = [weight.clone() for weight in weights]
    averages = [torch.zeros_like(weight) for weight in weights]
    for step in range(steps):
        gradients_for(weights, step)
        for weight, average in zip(weights, averages, strict=True):
            gradient = weight.grad
            assert gradient is not None
            average += (1 - momentum) * (gradient - average)
            x = (1 - momentum) * gradient + momentum * average
            x = x / x.norm()
            transposed = x.shape[0] > x.shape[1]
            x = x.T if transposed else x
            for _ in range(5):
                gram = x @ x.T
                x = a * x + (b * gram + c * gram @ gram) @ x
            x = x.T if transposed else x
            rows, columns = weight.shape
            weight *= 1 - lr * decay
            weight -= lr * max(1, rows / columns) ** 0.5 * x
    return weights


def test_muon_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    expected = reference_muon(weights, steps=5, lr=0.02, momentum=0.95, decay=0.1)
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    optimizer = Muon(parameters, lr=0.02, momentum=0.95, weight_decay=0.1)
    for step in range(5):
        gradients_for(list(parameters), step)
        optimizer.step()
    for parameter, weight in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-9, atol=1e-12)


def test_muon_agrees_with_torch_in_bfloat16() -> None:
    """torch's iteration is always bfloat16, so they agree as far as that goes."""
    weights = [torch.randn(shape, generator=torch.Generator().manual_seed(2)) for shape in SHAPES]
    ours = [nn.Parameter(weight.clone()) for weight in weights]
    theirs = [nn.Parameter(weight.clone()) for weight in weights]
    optimizer = Muon(ours, lr=0.02, momentum=0.95, dtype=torch.bfloat16)
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.0)
    for parameters, moved in ((ours, optimizer), (theirs, reference)):
        gradients_for(list(parameters), 0)
        moved.step()
    for left, right, start in zip(ours, theirs, weights, strict=True):
        update, expected = left.detach() - start, right.detach() - start
        assert (update - expected).norm() / expected.norm() < 0.02


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 16, 48, generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_momentum_warms_up_and_rates_follow_their_peaks() -> None:
    model = small_model()
    optimizer = Optimizer(model, OptimizerSettings(name="muon", learning_rate=0.02, embedding_rate=0.03))
    optimizer.set_rates(0.5, index=50)
    muon, adam = optimizer._parts
    assert muon.param_groups[0]["momentum"] == pytest.approx(0.9)
    assert muon.param_groups[0]["lr"] == pytest.approx(0.01)
    assert {group["lr"] for group in adam.param_groups} == {0.015, 0.01}


@pytest.mark.parametrize("name", ["muon", "adamw", "adam"])
def test_state_goes_to_tensors_and_back_to_the_same_next_step(name: str) -> None:
    settings = OptimizerSettings(name=name)  # type: ignore[arg-type]
    left, right = small_model(), small_model()
    first, second = Optimizer(left, settings), Optimizer(right, settings)
    for step in range(3):
        gradients_for(list(left.parameters()), step)
        first.set_rates(1.0, index=step)
        first.step()
    right.load_state_dict(left.state_dict())
    second.load_tensors(first.tensors())
    assert first.tensors().keys() == second.tensors().keys()
    for model, optimizer in ((left, first), (right, second)):
        gradients_for(list(model.parameters()), 9)
        optimizer.set_rates(0.7, index=3)
        optimizer.step()
    for ours, theirs in zip(left.parameters(), right.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_state_of_another_model_is_refused() -> None:
    optimizer = Optimizer(small_model(), OptimizerSettings())
    with pytest.raises(CheckpointError, match="nowhere"):
        optimizer.load_tensors({"nowhere/exp_avg": torch.zeros(3)})


def test_a_setting_of_muon_is_refused_elsewhere() -> None:
    with pytest.raises(SettingsError, match=r"optimizer\.momentum"):
        OptimizerSettings(name="adamw", momentum=0.9)


@pytest.mark.parametrize(
    ("key", "value"), [("learning_rate", 0.0), ("learning_rate", math.inf), ("eps", -1.0), ("beta1", 1.0)]
)
def test_ranges(key: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"optimizer.{key}"):
        OptimizerSettings(**{key: value})  # type: ignore[arg-type]
