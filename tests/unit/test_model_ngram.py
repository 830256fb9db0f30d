"""The n-gram model: distributions, documents, cache, files and refusals; parity is in tests/parity."""

from __future__ import annotations

import logging
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from wenlu.core import machine
from wenlu.core.errors import CheckpointError, RunError, SettingsError
from wenlu.data.store import TokenStore
from wenlu.models.build import build_model
from wenlu.models.checkpoint import load_model, save_model
from wenlu.models.config import ModelSettings
from wenlu.models.ngram import NGramModel, fit

VOCAB_SIZE = 50
END = 0


def documents(seed: int = 0, *, count: int = 80) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [[*(generator.zipf(1.3, size=generator.integers(1, 60)) % 45 + 1).tolist(), END] for _ in range(count)]


@pytest.fixture(scope="module")
def model() -> NGramModel:
    store = TokenStore.from_documents(documents(), end_id=END, vocab_size=VOCAB_SIZE)
    return fit(store, order=5, vocab_size=VOCAB_SIZE, end_id=END)


def test_a_bigram_model_by_hand() -> None:
    # Documents "1 1 2" and "2": bigrams (E 1) (1 1) (1 2) (2 E) (E 2) (2 E). Too few for discounts: 0.5, 1, 1.5.
    store = TokenStore.from_documents([[1, 1, 2, END], [2, END]], end_id=END, vocab_size=4)
    model = fit(store, order=2, vocab_size=4, end_id=END)
    # Order 1 counts different tokens before: END after {2} = 1, 1 after {E, 1} = 2, 2 after {1, E} = 2; total 5.
    held_back = (0.5 + 1.0 + 1.0) / 5
    unigram = {END: 0.5 / 5 + held_back / 4, 1: 1 / 5 + held_back / 4, 2: 1 / 5 + held_back / 4, 3: held_back / 4}
    # After 2 only the end came, twice: discount 1 of 2. After E: 1 and 2 once each: discount 0.5 each of 2.
    after_2 = {token: (1 / 2 if token == END else 0) + 1 / 2 * p for token, p in unigram.items()}
    after_start = {token: (0.5 / 2 if token in (1, 2) else 0) + 1 / 2 * p for token, p in unigram.items()}
    found = model(torch.tensor([[END, 2]]), positions=torch.tensor([[0, 1]]))[0].exp()
    torch.testing.assert_close(found[1], torch.tensor([after_2[token] for token in range(4)]))
    torch.testing.assert_close(found[0], torch.tensor([after_start[token] for token in range(4)]))


def test_every_distribution_sums_to_one_and_has_no_zero(model: NGramModel) -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.tensor([[END, *document[:12]] for document in documents() if len(document) > 13])
    unseen = torch.randint(0, VOCAB_SIZE, (50, 13), generator=generator)
    for inputs in (seen, unseen):
        logits = model(inputs)
        assert torch.isfinite(logits).all()
        sums = logits.double().exp().sum(dim=-1)
        assert (sums - 1).abs().max() < 1e-6
        torch.testing.assert_close(logits.log_softmax(dim=-1), logits, atol=1e-6, rtol=0)


def test_target_log_probs_are_those_of_the_distribution(model: NGramModel) -> None:
    inputs = torch.randint(0, VOCAB_SIZE, (4, 30), generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, VOCAB_SIZE, (4, 30), generator=torch.Generator().manual_seed(2))
    labels[1, 5:9] = -100
    expected = model(inputs).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    expected[1, 5:9] = 0
    torch.testing.assert_close(model.target_log_probs(inputs, labels), expected, atol=1e-6, rtol=0)


def test_documents_of_a_row_do_not_see_each_other(model: NGramModel) -> None:
    first, second = documents(5)[0][:9], documents(5)[1][:9]
    inputs = torch.tensor([[END, *first, END, *second]])
    ids = torch.tensor([[0] * 10 + [1] * 10])
    together = model(inputs, document_ids=ids)
    alone = model(inputs[:, 10:])
    assert torch.equal(together[:, 10:], alone)
    changed = inputs.clone()
    changed[0, 1:10] = 7
    assert torch.equal(model(changed, document_ids=ids)[:, 10:], alone)
    positions = torch.tensor([[*range(10), *range(10)]])
    assert torch.equal(model(inputs, positions=positions), together)


def test_no_ngram_crosses_documents() -> None:
    store = TokenStore.from_documents([[1, 2, END], [3, END]], end_id=END, vocab_size=5)
    model = fit(store, order=3, vocab_size=5, end_id=END)
    assert model.config.num_ngrams == (5, 5, 3)  # (E 1) (1 2) (2 E) (E 3) (3 E) and (E 1 2) (1 2 E) (E 3 E)


@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 1, 5], [2, 10]])
def test_cached_equals_uncached(model: NGramModel, pieces: list[int]) -> None:
    inputs = torch.tensor([[END, *documents(0)[number][:11]] for number in range(80) if len(documents(0)[number]) > 12])
    expected = model(inputs)
    cache = model.new_cache(len(inputs), 12)
    parts = [model(part, cache=cache) for part in inputs.split(pieces, dim=1)]
    assert torch.equal(torch.cat(parts, dim=1), expected)
    assert cache.length == 12


def test_a_cache_is_reordered_and_cut(model: NGramModel) -> None:
    inputs = torch.tensor([[END, 1, 2, 3, 4], [END, 5, 1, 1, 2]])
    cache = model.new_cache(2, 8)
    model(inputs, cache=cache)
    cache.truncate(3)
    cache.reorder(torch.tensor([1, 1, 0]))
    following = model(torch.tensor([[3], [4], [5]]), cache=cache)[:, 0]
    rows = torch.tensor([[END, 5, 1, 3], [END, 5, 1, 4], [END, 1, 2, 5]])
    assert torch.equal(following, model(rows)[:, -1])


def test_saved_and_loaded_it_is_the_same(model: NGramModel, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, dtype=torch.bfloat16)  # the counts are integers: the type does not touch them
    inputs = torch.randint(0, VOCAB_SIZE, (3, 20), generator=torch.Generator().manual_seed(3))
    assert torch.equal(loaded(inputs), model(inputs))
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config.replace('"discounts": [', '"discounts": [1,'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="discounts"):
        load_model(tmp_path)


def test_a_copy_in_another_process_is_the_same(model: NGramModel) -> None:
    tokens = torch.tensor([[1, 2, 3, 1]])
    assert torch.equal(pickle.loads(pickle.dumps(model))(tokens), model(tokens))


def test_a_lower_type_or_new_counts_do_not_leave_old_tables(model: NGramModel) -> None:
    inputs = torch.tensor([[END, 1, 2, 3]])
    other = fit(
        TokenStore.from_documents(documents(9), end_id=END, vocab_size=VOCAB_SIZE),
        order=1,
        vocab_size=VOCAB_SIZE,
        end_id=END,
    )
    expected = other(inputs)
    assert torch.equal(other.to(torch.bfloat16)(inputs), expected)
    state = {
        name: torch.full_like(value, 3) if "counts" in name else value for name, value in other.state_dict().items()
    }
    other.load_state_dict(state)
    torch.testing.assert_close(other(inputs), torch.full_like(expected, -math.log(VOCAB_SIZE)))


def test_few_ngrams_fall_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    store = TokenStore.from_documents([[1, 2, 1, END]], end_id=END, vocab_size=4)
    with caplog.at_level(logging.INFO, logger="wenlu"):
        model = fit(store, order=2, vocab_size=4, end_id=END)
    messages = [record.getMessage() for record in caplog.records]
    assert sum("too few n-grams" in message for message in messages) == 2
    assert any("4 tokens" in message and "order 2" in message for message in messages)
    assert model.config.discounts == ((0.5, 1.0, 1.5), (0.5, 1.0, 1.5))


@pytest.mark.parametrize("order", [0, 6])
def test_an_order_outside_1_to_5_is_refused(order: int) -> None:
    store = TokenStore.from_documents([[1, END]], end_id=END, vocab_size=4)
    with pytest.raises(SettingsError, match="from 1 to 5"):
        fit(store, order=order, vocab_size=4, end_id=END)


def test_too_little_memory_is_said_before_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    store = TokenStore.from_documents([[1, 2, 3, END]], end_id=END, vocab_size=4)
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(None, None, 100))
    with pytest.raises(RunError, match="more memory"):
        fit(store, order=2, vocab_size=4, end_id=END)


def test_it_is_fitted_and_not_built() -> None:
    with pytest.raises(SettingsError, match="takes no steps"):
        build_model(ModelSettings(kind="ngram", order=3), vocab_size=10, end_id=0, sequence_length=8)


def test_an_empty_document_and_an_empty_corpus() -> None:
    empty = TokenStore.from_documents([[END], [1, END]], end_id=END, vocab_size=3)
    logits = fit(empty, order=3, vocab_size=3, end_id=END)(torch.tensor([[END]]))
    assert logits[0, 0].argmax() in (END, 1)
    nothing = TokenStore.from_documents([], end_id=END, vocab_size=3)
    flat = fit(nothing, order=3, vocab_size=3, end_id=END)(torch.tensor([[END, 1]]))
    torch.testing.assert_close(flat, torch.full((1, 2, 3), -math.log(3)))
