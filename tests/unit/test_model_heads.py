"""Log-probabilities of targets: right, only where there is one, and never all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.models.heads import CHUNK_ROWS, IGNORE_INDEX, log_probs_of_targets
from wenlu.models.transformer import Transformer

VOCAB = 40


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request: pytest.FixtureRequest) -> Transformer:
    settings = ModelSettings(
        hidden_size=32, num_heads=2, num_layers=1, tie_embeddings=request.param, initialization="gpt2"
    )
    model = build_model(settings, vocab_size=VOCAB, end_id=0, sequence_length=700)
    assert isinstance(model, Transformer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    return model


def test_target_log_probs(model: Transformer) -> None:
    input_ids = torch.randint(0, VOCAB, (2, 700), generator=torch.Generator().manual_seed(0))
    labels = input_ids.roll(-1, dims=1)
    labels[0, :50], labels[1, 3], labels[1, -1] = IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX
    document_ids = (torch.arange(700) > 300).long().expand(2, -1)
    with torch.no_grad():
        found = model.target_log_probs(input_ids, labels, document_ids=document_ids)
        everything = model(input_ids, document_ids=document_ids).log_softmax(-1)
    torch.testing.assert_close(everything.exp().sum(-1), torch.ones(2, 700), rtol=0, atol=1e-6)
    expected = everything.gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(labels == IGNORE_INDEX, 0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found[labels == IGNORE_INDEX] == 0).all()
    assert (found[labels != IGNORE_INDEX] < 0).all()


def test_no_targets(model: Transformer) -> None:
    labels = torch.full((2, 5), IGNORE_INDEX)
    assert torch.equal(model.target_log_probs(torch.ones_like(labels), labels), torch.zeros(2, 5))


def test_logits_are_made_in_chunks_and_for_targets_only() -> None:
    rows: list[int] = []

    def logits(hidden: Tensor) -> Tensor:
        rows.append(len(hidden))
        return hidden

    labels = torch.zeros(3, 900, dtype=torch.int64)
    labels[0] = IGNORE_INDEX
    log_probs_of_targets(torch.zeros(3, 900, 7), labels, logits)
    assert max(rows) <= CHUNK_ROWS
    assert sum(rows) == 1800


def test_half_precision_is_summed_in_float32(model: Transformer) -> None:
    input_ids = torch.arange(30)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.target_log_probs(input_ids, input_ids).dtype == torch.float32
