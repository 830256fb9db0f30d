"""Reading in pieces with a cache gives what reading at once gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wenlu.core.errors import RequestError
from wenlu.models.attention import Backend, KeyValueCache
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.models.transformer import Transformer

VOCAB = 61
PIECES = (7, 1, 1, 5, 1, 20, 1)


def make_model(kind: str, backend: Backend = "sdpa") -> Transformer:
    settings = ModelSettings(kind=kind, hidden_size=48, num_heads=4, num_layers=2, initialization="gpt2")
    model = build_model(settings, vocab_size=VOCAB, end_id=0, sequence_length=64)
    assert isinstance(model, Transformer)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.2)
    model.attention_backend = backend
    return model.eval()


def tokens(batch: int, length: int = sum(PIECES)) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(9))


def in_pieces(model: Transformer, cache: KeyValueCache, input_ids: Tensor, **arguments: Tensor) -> Tensor:
    """Logits of all pieces; of the arguments each piece gets its own columns."""
    logits, start = [], cache.length
    offset = start
    for piece in PIECES:
        end = start + piece
        here = slice(start - offset, end - offset)
        logits.append(model(input_ids[:, here], cache=cache, **{k: v[:, here] for k, v in arguments.items()}))
        assert cache.length == end
        start = end
    return torch.cat(logits, dim=1)


@pytest.fixture(autouse=True)
def without_gradients() -> object:
    with torch.inference_mode():
        yield


def close(found: Tensor, expected: Tensor) -> None:
    assert ((found - expected).abs().max() / expected.abs().max()).item() <= 1e-5


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"])
def test_pieces_equal_the_whole(kind: str, backend: Backend) -> None:
    model = make_model(kind, backend)
    close(in_pieces(model, model.new_cache(2, 50), tokens(2)), model(tokens(2)))


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("full_every", [None, 2])
def test_windows_hold_across_pieces_and_documents(full_every: int | None, backend: Backend) -> None:
    plain, input_ids = make_model("gemma3_text"), tokens(2)
    stack = replace(plain.config.decoder, window=6, full_every=full_every, window_rope_theta=50.0)
    model = Transformer(replace(plain.config, decoder=stack)).eval()
    model.load_state_dict(plain.state_dict())
    model.attention_backend = backend
    document_ids = torch.zeros_like(input_ids)
    document_ids[0, 10:], document_ids[1, 7:], document_ids[1, 33:] = 1, 1, -1
    for arguments in ({}, {"document_ids": document_ids}):
        whole = model(input_ids, **arguments)
        close(in_pieces(model, model.new_cache(2, 50), input_ids, **arguments), whole)
        assert not torch.allclose(plain(input_ids, **arguments), whole, atol=1e-2)
    close(whole[0, 10:], model(input_ids[:1, 10:])[0])
    far = torch.where(torch.arange(input_ids.shape[1]) < 10, 1 + input_ids % (VOCAB - 1), input_ids)
    seen = model(far)[:, 10 + 2 * 5 :] != model(input_ids)[:, 10 + 2 * 5 :]  # two layers see ten tokens back
    assert bool(seen.any()) is (full_every is not None)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_left_padding_is_remembered(kind: str) -> None:
    model, input_ids = make_model(kind), tokens(3)
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    mask[0, :4], mask[1, :6] = False, False
    whole = model(input_ids, mask=mask)
    close(in_pieces(model, model.new_cache(3, 36), input_ids, mask=mask)[mask], whole[mask])
    cache = model.new_cache(3, 36)  # after the prompt nothing needs to be said any more
    model(input_ids[:, :7], mask=mask[:, :7], cache=cache)
    close(torch.cat([model(input_ids[:, i : i + 1], cache=cache) for i in range(7, 36)], dim=1), whole[:, 7:])


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_documents_are_isolated_across_pieces(kind: str) -> None:
    model, input_ids = make_model(kind), tokens(2)
    document_ids = torch.zeros_like(input_ids)
    document_ids[0, 10:], document_ids[0, 30:], document_ids[1, 7:] = 1, 2, 1
    whole = model(input_ids, document_ids=document_ids)
    close(in_pieces(model, model.new_cache(2, 36), input_ids, document_ids=document_ids), whole)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_documents_may_begin_after_a_plain_start(kind: str) -> None:
    model, input_ids = make_model(kind), tokens(2)
    document_ids = torch.zeros_like(input_ids)
    document_ids[0, 9:], document_ids[1, 20:] = 1, 1
    cache = model.new_cache(2, 40)
    found = [model(input_ids[:, :5], cache=cache), model(input_ids[:, 5:6], cache=cache)]
    found.append(model(input_ids[:, 6:25], document_ids=document_ids[:, 6:25], cache=cache))
    found += [model(input_ids[:, i : i + 1], cache=cache) for i in range(25, 36)]
    close(torch.cat(found, dim=1), model(input_ids, document_ids=document_ids))


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_reorder_and_truncate(kind: str) -> None:
    model, input_ids = make_model(kind), tokens(2)
    cache = model.new_cache(2, 40)
    model(input_ids[:, :10], cache=cache)
    cache.reorder(torch.tensor([1, 1, 0]))
    cache.truncate(6)
    assert cache.length == 6
    again = input_ids[[1, 1, 0]]
    close(model(again[:, 6:20], cache=cache), model(again[:, :20])[:, 6:])


def test_an_emptied_cache_is_as_new() -> None:
    model, input_ids = make_model("gpt2"), tokens(2)
    cache = model.new_cache(2, 40)
    model(input_ids[:, :10], cache=cache)
    cache.truncate(0)
    close(model(input_ids, cache=cache), model(input_ids))


def test_a_memory_is_forgotten_and_its_documents_go_on() -> None:
    model, input_ids = make_model("bart"), tokens(1)
    first, second = model.encode(input_ids[:, :6]), model.encode(input_ids[:, 6:12])
    cache = model.new_cache(1, 40)
    model(input_ids[:, :10], memory=first, cache=cache)
    cache.truncate(0)
    close(model(input_ids, memory=second, cache=cache), model(input_ids, memory=second))

    documents = {"memory": first, "memory_document_ids": torch.tensor([[0, 0, 0, 1, 1, 1]])}
    ones, cache = torch.ones(1, 20, dtype=torch.int64), model.new_cache(1, 40)
    model(input_ids[:, :10], document_ids=ones[:, :10], cache=cache, **documents)
    found = model(input_ids[:, 10:20], cache=cache, **documents)
    close(found, model(input_ids[:, :20], document_ids=ones, **documents)[:, 10:])


def test_given_positions_go_on() -> None:
    model, input_ids = make_model("gpt2"), tokens(1)
    positions = torch.arange(5, 5 + input_ids.shape[1])[None]
    cache = model.new_cache(1, 40)
    first = model(input_ids[:, :9], positions=positions[:, :9], cache=cache)
    close(torch.cat([first, model(input_ids[:, 9:], cache=cache)], dim=1), model(input_ids, positions=positions))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_full_cache_is_refused(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENLU_LANG", language)
    model = make_model("qwen3")
    cache = model.new_cache(1, 8)
    with pytest.raises(RequestError) as refused:
        model(tokens(1, 9), cache=cache)
    assert refused.value.id == "models.cache_full"
    assert "9" in str(refused.value)
    assert "8" in str(refused.value)
    assert cache.length == 0


@pytest.mark.parametrize("cached", [False, True])
def test_positions_beyond_the_table_are_refused(cached: bool) -> None:
    model = make_model("gpt2")
    cache = model.new_cache(1, 100) if cached else None
    with pytest.raises(RequestError) as refused:
        model(tokens(1, 65), cache=cache)
    assert refused.value.id == "models.too_long"
    assert "65" in str(refused.value)
    assert "64" in str(refused.value)


def test_the_cache_is_allocated_once() -> None:
    model = make_model("qwen3")
    cache = model.new_cache(1, 32)
    model(tokens(1, 4), cache=cache)
    memory = list(cache.layers[0].memory)
    assert len(memory) == 2
    model(tokens(1, 4), cache=cache)
    assert all(tensor is before for tensor, before in zip(cache.layers[0].memory, memory, strict=True))


def test_a_cache_refuses_gradients() -> None:
    with torch.inference_mode(False), torch.enable_grad():
        model = make_model("qwen3")
        with pytest.raises(RuntimeError, match="inference"):
            model(tokens(1, 4).clone(), cache=model.new_cache(1, 8))
