"""Encoder-decoders: reading in pieces, what is seen of the encoder's states, and packed pairs of documents."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from wenlu.models.attention import Attention, Backend
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.models.transformer import Transformer

VOCAB, MEL_BINS, FRAMES = 61, 80, 96
PIECES = (7, 1, 1, 5, 1, 20, 1)
TEXTS = ["t5", "mt5", "bart", "marian"]
KINDS = [*TEXTS, "whisper"]
BACKENDS = ["eager", "sdpa"]


@functools.cache
def make_model(kind: str, backend: Backend = "sdpa") -> Transformer:
    settings = ModelSettings(kind=kind, hidden_size=48, num_heads=4, num_layers=2, tie_embeddings=False)
    model = build_model(settings, vocab_size=VOCAB, end_id=0, sequence_length=FRAMES // 2)
    assert isinstance(model, Transformer)
    generator = torch.Generator().manual_seed(3)
    deviation = 0.1 if "t5" in kind else 0.2  # T5 does not scale its scores
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * deviation)
    model.attention_backend = backend
    return model.eval()


def tokens(batch: int, length: int = sum(PIECES), *, seed: int = 9) -> Tensor:
    return torch.randint(1, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def encoded(model: Transformer, batch: int) -> tuple[Tensor, Tensor]:
    """Memory of texts that are padded on the left or on the right, or of sounds, and where it is no padding."""
    if model.encoder.embeddings.spectrogram is not None:
        sounds = torch.randn(batch, MEL_BINS, FRAMES, generator=torch.Generator().manual_seed(5))
        return model.encode(sounds), torch.ones(batch, FRAMES // 2, dtype=torch.bool)
    mask = torch.ones(batch, 30, dtype=torch.bool)
    mask[0, :4], mask[-1, 21:] = False, False
    return model.encode(tokens(batch, 30, seed=2), mask=mask), mask


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def close(found: Tensor, expected: Tensor) -> None:
    assert ((found - expected).abs().max() / expected.abs().max()).item() <= 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_equal_the_whole_and_the_memory_is_read_once(kind: str, backend: Backend) -> None:
    model, input_ids = make_model(kind, backend), tokens(2)
    memory, memory_mask = encoded(model, 2)
    whole = model(input_ids, memory=memory, memory_mask=memory_mask)
    cache, found = model.new_cache(2, 40), []
    for number, piece in enumerate(input_ids.split(PIECES, dim=1)):
        read = memory if number == 0 else torch.full_like(memory, float("nan"))
        found.append(model(piece, memory=read, memory_mask=memory_mask if number == 0 else None, cache=cache))
    close(torch.cat(found, dim=1), whole)
    stored = [layer.memory[0] for layer in cache.memories]
    assert [tensor.shape[2] for tensor in stored] == [memory.shape[1]] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding_is_remembered(kind: str) -> None:
    model, input_ids = make_model(kind), tokens(3)
    memory, memory_mask = encoded(model, 3)
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    mask[0, :4], mask[1, :6] = False, False
    given = {"memory": memory, "memory_mask": memory_mask}
    whole = model(input_ids, mask=mask, **given)
    cache = model.new_cache(3, 36)
    found = [model(input_ids[:, :7], mask=mask[:, :7], cache=cache, **given)]
    found += [model(input_ids[:, i : i + 1], cache=cache, **given) for i in range(7, 36)]
    close(torch.cat(found, dim=1)[mask], whole[mask])
    alone = model(input_ids[:1, 4:], memory=memory[:1, memory_mask[0]])
    close(whole[0, 4:], alone[0])


@pytest.mark.parametrize("kind", KINDS)
def test_reorder_and_truncate(kind: str) -> None:
    model, input_ids, rows = make_model(kind), tokens(2), torch.tensor([1, 1, 0])
    memory, memory_mask = encoded(model, 2)
    cache = model.new_cache(2, 40)
    model(input_ids[:, :10], memory=memory, memory_mask=memory_mask, cache=cache)
    cache.reorder(rows)
    cache.truncate(6)
    again, given = input_ids[rows], {"memory": memory[rows], "memory_mask": memory_mask[rows]}
    close(model(again[:, 6:20], cache=cache, **given), model(again[:, :20], **given)[:, 6:])


def packed(lengths: list[tuple[int, int]], *, padding: int) -> tuple[Tensor, Tensor]:
    """Documents of the encoder's and of the decoder's row, with padding after the last."""
    sources, targets = zip(*lengths, strict=True)
    numbers = torch.arange(len(lengths))
    rows = [numbers.repeat_interleave(torch.tensor(row)) for row in (sources, targets)]
    return tuple(torch.cat((row, torch.full((padding,), -1)))[None] for row in rows)


LENGTHS = [(9, 4), (1, 7), (12, 12)]


def read_packed(model: Transformer, sources: Tensor, targets: Tensor, ids: tuple[Tensor, Tensor]) -> Tensor:
    memory = model.encode(sources, document_ids=ids[0])
    return model(targets, document_ids=ids[1], memory=memory, memory_document_ids=ids[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", TEXTS)
def test_a_packed_pair_equals_the_pair_alone(kind: str, backend: Backend) -> None:
    model, ids = make_model(kind, backend), packed(LENGTHS, padding=3)
    sources, targets = (tokens(1, row.shape[1], seed=seed) for seed, row in enumerate(ids))
    together = read_packed(model, sources, targets, ids)
    for number in range(len(LENGTHS)):
        source, target = sources[ids[0] == number][None], targets[ids[1] == number][None]
        close(together[ids[1] == number], model(target, memory=model.encode(source))[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", TEXTS)
def test_changing_one_pair_leaves_the_others_bit_equal(kind: str, backend: Backend) -> None:
    model, ids = make_model(kind, backend), packed(LENGTHS, padding=3)
    sources, targets = (tokens(1, row.shape[1], seed=seed) for seed, row in enumerate(ids))
    before = read_packed(model, sources, targets, ids)
    for number in (0, 1, 2, -1):
        for changed in (0, 1):  # the source, the target
            rows = [sources, targets]
            rows[changed] = torch.where(ids[changed] == number, 1 + rows[changed] % (VOCAB - 1), rows[changed])
            after, here = read_packed(model, *rows, ids), ids[1] == number
            assert torch.equal(after[~here], before[~here])
            assert not torch.equal(after[here], before[here])


@pytest.mark.parametrize("kind", TEXTS)
def test_packed_pairs_are_read_in_pieces(kind: str) -> None:
    model, ids = make_model(kind), packed(LENGTHS, padding=3)
    sources, targets = (tokens(1, row.shape[1], seed=seed) for seed, row in enumerate(ids))
    memory = model.encode(sources, document_ids=ids[0])
    cache, found = model.new_cache(1, targets.shape[1]), []
    for piece in torch.arange(targets.shape[1]).split((3, 1, 10, 12)):
        found.append(
            model(
                targets[:, piece], document_ids=ids[1][:, piece], memory=memory, memory_document_ids=ids[0], cache=cache
            )
        )
    close(torch.cat(found, dim=1), read_packed(model, sources, targets, ids))


@pytest.mark.parametrize("kind", ["bert", "albert", "distilbert", "roberta"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_packed_document_of_an_encoder_equals_the_document_alone(kind: str, backend: Backend) -> None:
    model, (_, ids) = make_model(kind, backend), packed(LENGTHS, padding=3)
    rows = tokens(1, ids.shape[1])
    together = model(rows, document_ids=ids)
    other = torch.where(ids == 1, 1 + rows % (VOCAB - 1), rows)
    changed = model(other, document_ids=ids)
    assert torch.equal(changed[ids != 1], together[ids != 1])
    assert not torch.equal(changed[ids == 1], together[ids == 1])
    for number in range(len(LENGTHS)):
        close(together[ids == number], model(rows[ids == number][None])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_cross_attention_shows_its_weights(kind: str) -> None:
    model, input_ids = make_model(kind, "eager"), tokens(2, 12)
    memory, memory_mask = encoded(model, 2)
    seen: list[Tensor] = []
    hooks = [
        layer.cross_attention.attention_weights.register_forward_hook(lambda _m, _i, weights: seen.append(weights))
        for layer in model.decoder.layers
        if isinstance(layer.cross_attention, Attention)
    ]
    model(input_ids, memory=memory, memory_mask=memory_mask)
    for hook in hooks:
        hook.remove()
    assert [weights.shape for weights in seen] == [(2, 4, 12, memory.shape[1])] * 2
    assert (seen[0].masked_select(~memory_mask[:, None, None].expand_as(seen[0])) == 0).all()
