"""A document of a packed row never feels its neighbours: bit for bit, for each backend, precision and direction."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from wenlu.models.attention import Backend
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.models.positions import count_positions
from wenlu.models.transformer import Transformer

VOCAB = 61


def make_model(kind: str, backend: Backend, *, max_positions: int) -> Transformer:
    kv_heads = None if kind == "gpt2" else 2
    settings = ModelSettings(
        kind=kind, hidden_size=64, num_heads=4, num_kv_heads=kv_heads, num_layers=2, initialization="gpt2"
    )
    model = build_model(settings, vocab_size=VOCAB, end_id=0, sequence_length=max_positions)
    assert isinstance(model, Transformer)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.attention_backend = backend
    return model


def packed_row(length: int) -> tuple[Tensor, Tensor]:
    """Two rows of three documents and padding each, cut at different places."""
    document_ids = torch.zeros(2, length, dtype=torch.int64)
    for row, (first, second) in enumerate([(length // 3, length // 2), (length // 4, 4 * length // 5)]):
        document_ids[row, first:second], document_ids[row, second:] = 1, 2
        document_ids[row, length - max(1, length // 10) :] = -1
    input_ids = torch.randint(0, VOCAB, (2, length), generator=torch.Generator().manual_seed(1))
    return input_ids, document_ids


@pytest.mark.parametrize("with_gradient", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_changing_one_document_leaves_the_others_bit_equal(
    kind: str, backend: Backend, precision: str, with_gradient: bool
) -> None:
    for length in (9, 200, 530) if backend == "eager" else (9, 64, 200, 530, 1040):  # fused kernels have blocks of 512
        model = make_model(kind, backend, max_positions=length)
        input_ids, document_ids = packed_row(length)
        other = torch.randint(0, VOCAB, input_ids.shape, generator=torch.Generator().manual_seed(4))
        autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
        with autocast, torch.set_grad_enabled(with_gradient):
            before = model(input_ids, document_ids=document_ids)
            for changed in (0, 1, 2, -1):
                here = document_ids == changed
                after = model(torch.where(here, other, input_ids), document_ids=document_ids)
                assert torch.equal(after[~here], before[~here]), (length, changed)
                assert not torch.equal(after[here], before[here])


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_without_document_ids_the_neighbours_are_felt(backend: Backend) -> None:
    model = make_model("qwen3", backend, max_positions=64)
    input_ids, document_ids = packed_row(64)
    changed = torch.where(document_ids == 0, (input_ids + 1) % VOCAB, input_ids)
    here = document_ids == 1
    assert not torch.equal(model(changed)[here], model(input_ids)[here])


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_no_gradient_flows_into_another_document(kind: str, backend: Backend) -> None:
    model = make_model(kind, backend, max_positions=64)
    input_ids = torch.arange(60)[None]  # every token is another row of the embedding's gradient
    document_ids = (input_ids >= 20).long() + (input_ids >= 45).long()
    hidden = model.hidden(input_ids, document_ids=document_ids)
    (hidden[document_ids == 1] ** 2).sum().backward()
    gradient = model.decoder.embeddings.token.weight.grad
    assert gradient is not None
    felt = gradient.abs().sum(1) > 0
    assert felt[20:45].all()
    assert not felt[:20].any()
    assert not felt[45:].any()


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_a_packed_document_equals_the_document_alone(kind: str, backend: Backend) -> None:
    model = make_model(kind, backend, max_positions=200)
    input_ids, document_ids = packed_row(200)
    with torch.no_grad():
        packed = model(input_ids, document_ids=document_ids)
        for row in range(2):
            for document in (0, 1, 2):
                here = document_ids[row] == document
                alone = model(input_ids[row : row + 1, here])[0]
                torch.testing.assert_close(packed[row, here], alone, rtol=1e-5, atol=1e-5)


def test_rows_of_one_document_need_no_mask() -> None:
    from wenlu.models.attention import place

    input_ids, document_ids = packed_row(20)
    plain = {"mask": None, "positions": None, "cache": None}
    one = place(input_ids, document_ids=torch.tensor([[3], [5]]).expand(2, 20), **plain).visible
    assert one.allowed is None
    assert one.is_causal
    several = place(input_ids, document_ids=document_ids, **plain).visible
    assert several.allowed is not None
    assert several.allowed.any(-1).all(), "every position sees something, padding too"
    assert not several.is_causal


def test_positions_are_counted_within_documents() -> None:
    document_ids = torch.tensor([[0, 0, 0, 1, 2, 2, -1, -1], [-1, -1, 7, 7, 7, 7, 7, 8]])
    assert count_positions(document_ids).tolist() == [[0, 1, 2, 0, 0, 1, 0, 1], [0, 1, 0, 1, 2, 3, 4, 0]]


def test_eager_attention_shows_its_weights() -> None:
    model = make_model("qwen3", "eager", max_positions=64)
    input_ids, document_ids = packed_row(30)
    seen: list[Tensor] = []
    for layer in model.decoder.layers:
        layer.self_attention.attention_weights.register_forward_hook(lambda _m, _i, weights: seen.append(weights))
    model(input_ids, document_ids=document_ids)
    assert [weights.shape for weights in seen] == [(2, 4, 30, 30)] * 2
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(2, 4, 30))
    other = document_ids[:, None, :, None] != document_ids[:, None, None, :]
    assert (seen[0].masked_select(other.expand_as(seen[0])) == 0).all()
