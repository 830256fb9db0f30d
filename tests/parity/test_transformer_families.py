"""Our Transformer against transformers: every family and head, on outputs, gradients, dropout, precision and files.

The reference is built from its own config class, saved by its own ``save_pretrained`` and read by our ``load_model``.
Two thirds of the rows are padded, and rows are longer than every threshold: windows, the original length of stretched
rotary frequencies, T5's largest distance. Largest differences of the largest value: 1e-5 in float32, 1e-9 in float64.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from reference_models import (
    CASES,
    LENGTH,
    ONE_EACH,
    VOCAB,
    Pair,
    Pairs,
    difference,
    largest_difference,
    our_outputs,
    reference_outputs,
)
from wenlu.models import attention
from wenlu.models.build import build_model
from wenlu.models.checkpoint import load_model, save_model
from wenlu.models.config import ModelSettings
from wenlu.models.families._transformer import resolved
from wenlu.models.transformer import Transformer

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
BACKENDS = ["eager", "sdpa"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return Pairs(tmp_path_factory.mktemp("references"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_the_reference(case: str, dtype: torch.dtype, pairs: Pairs, tmp_path: Path) -> None:
    pair = pairs(case, dtype=dtype)
    ours, batch = pair.ours(), pair.batch()
    expected = reference_outputs(pair.reference, batch)
    found = our_outputs(ours, batch, set(expected))
    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(value.shape, generator=generator, dtype=dtype) for name, value in expected.items()}
    for name, value in expected.items():
        assert found[name].dtype == dtype
        assert difference(found[name], value) <= TOLERANCE[dtype], name

    theirs = gradients(pair.reference, expected, weights)
    if (bias := "final_logits_bias") in dict(pair.reference.named_buffers()):  # a buffer, which they do not train
        theirs[bias] = weights["language_model"].sum(0, keepdim=True)
    mine, expected_mine = gradients(ours, found, weights), under_our_names(pair, theirs, tmp_path)
    largest = max(gradient.abs().max() for gradient in expected_mine.values())
    assert mine.keys() == expected_mine.keys()
    for name, gradient in expected_mine.items():
        assert ((mine[name] - gradient).abs().max() / largest).item() <= TOLERANCE[dtype], name


def gradients(model: nn.Module, outputs: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    loss = sum((outputs[name] * weights[name]).sum() for name in sorted(outputs))
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    assert all(gradient is not None for gradient in found), "each parameter has its part in the outputs"
    return {name: gradient.contiguous() for name, gradient in zip(parameters, found, strict=True)}


def under_our_names(pair: Pair, gradients: dict[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """Written as if they were weights, and read by the same table."""
    (directory / "config.json").write_bytes((pair.directory / "config.json").read_bytes())
    save_file(gradients, directory / "model.safetensors")
    return dict(Pair(pair.reference, directory).ours().named_parameters())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ONE_EACH)
def test_beyond_the_blocks_of_the_fused_kernels(case: str, backend: attention.Backend, pairs: Pairs) -> None:
    """Their blocks are of 512."""
    pair = pairs(case)
    ours = pair.ours()
    ours.attention_backend = backend
    batch = pair.batch(rows=1, length=600)
    with torch.no_grad():
        expected = reference_outputs(pair.reference, batch)
    assert largest_difference(ours, expected, batch) <= 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ONE_EACH)
def test_left_padding_equals_the_reference(case: str, backend: attention.Backend, pairs: Pairs) -> None:
    pair = pairs(case)
    ours, batch = pair.ours(), pair.batch(padding="left", length=60)
    ours.attention_backend = backend
    with torch.no_grad():
        expected = reference_outputs(pair.reference, batch)
    assert largest_difference(ours, expected, batch) <= 1e-5


DROPPED = [
    *("gpt2", "llama multi-query", "bert", "bert pre-training", "bert sequence", "bert token", "bert answer"),
    *("roberta", "t5", "t5 v1.1", "bart", "marian", "whisper"),
]
"""ALBERT, DistilBERT and the classifiers of RoBERTa and BART draw elsewhere: see the docstrings of their files."""


@pytest.mark.parametrize("case", DROPPED)
def test_dropout_draws_where_the_reference_does(case: str, pairs: Pairs) -> None:
    pair = pairs(case, backend="eager")
    dropped, plain = pair.expected(training=True), pair.expected()
    assert largest_difference(pair.ours(), dropped, pair.batch(), training=True) <= 1e-5
    assert all(difference(dropped[name], plain[name]) > 1e-2 for name in plain)


@pytest.mark.parametrize("case", ONE_EACH)
def test_half_precision_is_as_good_as_the_reference(case: str, pairs: Pairs) -> None:
    """Both are held against the reference in float32, over all values: ours may be off by a half more than theirs."""
    exact, half = pairs(case), pairs(case, dtype=torch.bfloat16)
    with torch.no_grad():
        expected, theirs = exact.expected(), half.expected()
        found = our_outputs(half.ours(), half.batch(), set(expected))
    for name, value in expected.items():
        assert found[name].dtype == torch.bfloat16
        off, tolerated = ((x[name].float() - value).norm() / value.norm() for x in (found, theirs))
        assert off <= min(0.05, 1.5 * tolerated), name


@pytest.mark.parametrize("case", CASES)
def test_what_we_export_is_bit_for_bit_what_we_read(case: str, pairs: Pairs, tmp_path: Path) -> None:
    pair = pairs(case)
    ours = pair.ours()
    save_model(ours, tmp_path)
    again, theirs = load_model(tmp_path), type(pair.reference).from_pretrained(tmp_path).eval()
    assert isinstance(again, Transformer)
    assert resolved(again.config) == resolved(ours.config)
    assert ours.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in ours.state_dict().items())
    save_model(again, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes(), name

    assert theirs.config.architectures == [type(pair.reference).__name__]
    state = theirs.state_dict()
    assert all(torch.equal(state[name], value) for name, value in pair.reference.state_dict().items())
    with torch.no_grad():
        after = reference_outputs(theirs, pair.batch())
    assert all(torch.equal(after[name], value) for name, value in pair.expected().items())
    assert ours.statistics(sequence_length=LENGTH).parameters == sum(p.numel() for p in ours.parameters())


KINDS = [
    *(("gpt2", None), ("gpt2", False), ("llama", None), ("llama", True), ("qwen2", None), ("qwen3", None)),
    *(("mistral", None), ("gemma2", None), ("gemma3_text", None), ("gemma2", False), ("bert", None), ("bert", False)),
    *(("roberta", None), ("albert", None), ("distilbert", None), ("t5", None), ("t5", True), ("mt5", None)),
    *(("bart", None), ("bart", False), ("marian", None), ("whisper", None)),
]


@pytest.mark.parametrize(("kind", "tied"), KINDS)
def test_the_reference_loads_what_we_train(kind: str, tied: bool | None, tmp_path: Path) -> None:
    settings = ModelSettings(
        kind=kind, hidden_size=48, num_heads=4, num_layers=2, tie_embeddings=tied, dropout=0.1, initialization="gpt2"
    )
    model = build_model(settings, vocab_size=VOCAB, end_id=2, sequence_length=64, seed=1)
    assert isinstance(model, Transformer)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    save_model(model, tmp_path)
    architecture = getattr(transformers, load_architecture(tmp_path))
    reference = architecture.from_pretrained(tmp_path).eval()
    again = load_model(tmp_path)
    assert isinstance(again, Transformer)
    assert reference.config.model_type == kind
    assert resolved(again.config) == resolved(replace(model.config, pad_token_id=again.config.pad_token_id))
    batch = Pair(reference, tmp_path).batch(length=60)
    with torch.no_grad():
        expected = reference_outputs(reference, batch)
        mine, read = (our_outputs(one.eval(), batch, set(expected)) for one in (model, again))
    for name, value in expected.items():
        assert torch.equal(read[name], mine[name])
        assert difference(mine[name], value) <= 1e-5
    save_model(again, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes(), name


def load_architecture(directory: Path) -> str:
    return transformers.AutoConfig.from_pretrained(directory).architectures[0]
