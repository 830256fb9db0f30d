"""First weights from pairs of tokens: counts by hand, the best that any such model can reach, equal bits."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_training import GPT2, LSTM, TRANSFORMER, losses, tiny_evaluate, tiny_settings, tiny_store
from wenlu.core.errors import SettingsError
from wenlu.models.build import build_model
from wenlu.models.transformer import Transformer
from wenlu.training import bigrams, preparation
from wenlu.training.bigrams import Pairs, fit_bigrams
from wenlu.training.preparation import decide_steps, prepare
from wenlu.training.run import train_run
from wenlu.training.verification import verify_run

VOCAB_SIZE = 24
T5 = ("model.kind=t5", "model.num_layers=2")
UNTIED = ("model.tie_embeddings=false", "model.initialization=wenlu")
ONE_SAVE = ("train.save_every=100", "evaluate.every=100")


def markov_text(count: int = 40_000) -> np.ndarray:
    """Tokens that depend on the one before; three of the vocabulary never come."""
    draw = np.random.Generator(np.random.PCG64(3))
    moves = draw.dirichlet(np.full(VOCAB_SIZE - 3, 0.1), size=VOCAB_SIZE - 3)
    tokens = [0]
    for chance in draw.random(count - 1):
        tokens.append(min(int(np.searchsorted(moves[tokens[-1]].cumsum(), chance)), VOCAB_SIZE - 4))
    return np.asarray(tokens, dtype=np.uint16)


def conditional_entropy(tokens: np.ndarray) -> float:
    """Nats a pair that the counts themselves leave open."""
    pairs = Counter(itertools.pairwise(tokens.tolist()))
    before = Counter(tokens[:-1].tolist())
    return -sum(n * math.log(n / before[a]) for (a, _), n in pairs.items()) / (len(tokens) - 1)


def new_model(tmp_path: Path, *settings: str, kind: tuple[str, ...] = TRANSFORMER) -> Transformer:
    """A model with the tiny corpus' vocabulary, which is larger than that of the made text."""
    sizes = ("model.hidden_size=48", "model.num_heads=2", "model.dropout=0")
    resolved = tiny_settings(*kind, *UNTIED, *sizes, *settings).value
    sizes_of_text = {"vocab_size": tiny_store(tmp_path).tokenizer.vocab_size, "end_id": 0, "sequence_length": 16}
    model = build_model(resolved.model, seed=0, **sizes_of_text)
    assert isinstance(model, Transformer)
    return model.eval()


def mean_loss(model: Transformer, tokens: np.ndarray) -> float:
    """Nats a token over rows of 16, the model's own way."""
    rows = torch.from_numpy(tokens[: len(tokens) // 16 * 16].astype(np.int64)).view(-1, 16)
    with torch.no_grad():
        memory = {} if model.encoder is None else {"memory": model.encode(rows)}
        return -model.target_log_probs(rows[:, :-1], rows[:, 1:], **memory).mean().item()


def test_pairs_are_counted() -> None:
    tokens = np.asarray([3, 1, 1, 4, 1, 1, 3], dtype=np.uint16)
    pairs = Pairs.of(tokens, 6)
    found = dict(zip(zip(pairs.contexts.tolist(), pairs.followers.tolist(), strict=True), pairs.counts, strict=True))
    assert found == {(3, 1): 1, (1, 1): 2, (1, 4): 1, (4, 1): 1, (1, 3): 1}
    chosen, rows = pairs.of_contexts(np.asarray([1, 4]))
    assert rows.tolist() == [0, 0, 0, 1]
    assert pairs.contexts[chosen].tolist() == [1, 1, 1, 4]


def test_a_document_begins_after_the_token_before_documents() -> None:
    tokens = np.asarray([3, 1, 0, 1, 3, 0, 4], dtype=np.uint16)  # of documents that end with 0
    pairs = Pairs.of(tokens, 6, borders=(0, 5))
    found = list(zip(pairs.contexts.tolist(), pairs.followers.tolist(), strict=True))
    assert sorted(found) == [(1, 0), (1, 3), (3, 0), (3, 1), (5, 1), (5, 4)]


def test_a_long_text_is_counted_in_blocks_from_all_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigrams, "_MOST_TOKENS", 32)
    monkeypatch.setattr(bigrams, "_BLOCK", 8)
    pairs = Pairs.of(np.arange(200, dtype=np.uint16), 200)
    assert pairs.counts.sum() == 31
    assert pairs.contexts.min() < 8 and pairs.contexts.max() > 190


@pytest.mark.parametrize("kind", [TRANSFORMER, GPT2, T5])
def test_the_fit_comes_near_the_entropy_of_the_pairs(tmp_path: Path, kind: tuple[str, ...]) -> None:
    """The width is twice the number of tokens, so every table of pairs can be written as embedding times output."""
    model, tokens = new_model(tmp_path, kind=kind), markov_text()
    before, floor = mean_loss(model, tokens), conditional_entropy(tokens)
    assert before > floor + 1.5, "the text must be one that has something to learn"
    assert fit_bigrams(model, tokens, steps=100, seed=1) == 100
    # Its start is 1.5 above; 0.05 is for what the discount keeps back, and for GPT-2's learned positions.
    assert floor <= mean_loss(model, tokens) < floor + 0.05


def test_drawn_contexts_give_the_loss_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over many draws is the loss of all contexts: two that are frequent and certain, the others neither."""
    rare = np.random.Generator(np.random.PCG64(3)).integers(2, VOCAB_SIZE - 3, 2000)
    tokens = np.concatenate((np.tile([0, 1], 1000), rare)).astype(np.uint16)
    model = new_model(tmp_path)
    fit_bigrams(model, tokens, steps=60, seed=1)
    assert model.head.output is not None
    embedding, output = model.decoder.embeddings.token.weight, model.head.output.weight
    found = {}
    for most, times in ((VOCAB_SIZE, 1), (7, 500)):
        monkeypatch.setattr(bigrams, "_MOST_CONTEXTS", most)
        fit = bigrams._Fit(Pairs.of(tokens, len(output)), embedding, output, model.decoder.final_norm)
        torch.manual_seed(1)
        found[most] = np.asarray([fit.step(0.0) for _ in range(times)])  # a rate of 0 leaves the matrices as they are
    exact, drawn = float(found[VOCAB_SIZE][0]), found[7]
    assert 1 < exact < 2 and drawn.std() > 0.05, "drawing must make a difference"
    # Weights that are made to add up to 1 bias the mean by 0.06 here; without weights it would be 0.9 less.
    assert drawn.mean() == pytest.approx(exact, abs=0.1)


def test_chances_add_up() -> None:
    frequencies = np.asarray([0.6, 0.2, 0.1, 0.06, 0.04, 0.0])
    chances = bigrams._chances(frequencies, 3)
    assert chances.sum() == pytest.approx(3)
    assert chances.max() <= 1 and chances[-1] == 0
    assert chances[2] / chances[3] == pytest.approx(0.1 / 0.06)
    assert bigrams._chances(frequencies, 5).tolist() == [1, 1, 1, 1, 1, 0]


def test_equal_seeds_give_equal_bits(tmp_path: Path) -> None:
    """Whatever was drawn before, whether a limit or the number itself ended it; another seed gives others."""
    tokens = markov_text()
    found: list[tuple[int, torch.Tensor]] = []
    for seed, steps, limit in ((1, 6, math.inf), (1, 6, math.inf), (1, 500, 1e-9), (2, 6, math.inf)):
        torch.rand(len(found) + 1)
        model = new_model(tmp_path)
        taken = fit_bigrams(model, tokens, steps=steps, seed=seed, limit=limit)
        found.append((taken, model.decoder.embeddings.token.weight.detach().clone()))
    assert found[0][0] == found[1][0] == 6 and torch.equal(found[0][1], found[1][1])
    assert found[2][0] == bigrams._LEAST_STEPS
    model = new_model(tmp_path)
    fit_bigrams(model, tokens, steps=bigrams._LEAST_STEPS, seed=1)
    assert torch.equal(model.decoder.embeddings.token.weight, found[2][1])
    assert not torch.equal(found[0][1], found[3][1])


def test_a_budget_in_time_holds_the_fit_too(tmp_path: Path) -> None:
    settings = tiny_settings(*TRANSFORMER, *UNTIED, "train.steps=none", "train.budget=2s", "train.bigram_steps=100000")
    prepared = prepare(settings, store=tiny_store(tmp_path))
    decide_steps(prepared)
    assert bigrams._LEAST_STEPS <= prepared.settings.train.bigram_steps < 100_000
    assert prepared.resolved.origins["train.bigram_steps"] == "budget 2s"


def test_a_run_with_it_starts_better_and_replays(tmp_path: Path) -> None:
    """The first logged loss is lower, and a verification from the start makes the same first weights."""
    store = tiny_store(tmp_path / "corpus")
    first = {}
    for steps in (0, 40):
        settings = tiny_settings(*TRANSFORMER, *UNTIED, f"train.bigram_steps={steps}", *ONE_SAVE)
        train_run(settings, tmp_path / str(steps), evaluate=tiny_evaluate, store=store)
        first[steps] = float.fromhex(losses(tmp_path / str(steps))[0][1])
    assert first[40] < first[0] - 0.5
    assert verify_run(tmp_path / "40", store=store).first == 0


@pytest.mark.parametrize(
    "settings", [(*LSTM, "train.bigram_steps=5"), (*GPT2, "model.tie_embeddings=true", "train.bigram_steps=5")]
)
def test_refused_where_nothing_would_read_it(tmp_path: Path, settings: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as caught:
        prepare(tiny_settings(*settings), store=tiny_store(tmp_path))
    assert caught.value.id == "core.setting_unused"
    assert "train.bigram_steps" in str(caught.value)


def test_too_few_pairs_are_not_learned_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tiny_store(tmp_path)
    prepared = prepare(tiny_settings(*TRANSFORMER, *UNTIED, "train.bigram_steps=5"), store=store)
    before = prepared.model.decoder.embeddings.token.weight.detach().clone()
    monkeypatch.setattr(preparation, "_LEAST_PAIRS", store.train.num_tokens // store.tokenizer.vocab_size + 1)
    assert preparation.fit_first_weights(prepared) == 0
    assert torch.equal(before, prepared.model.decoder.embeddings.token.weight)
