"""Every task of the folder learns eight examples, and cares neither for padding nor for the order of a batch."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from torch import nn

from tiny_training import tiny_store, tiny_texts
from wenlu.core import plugins
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tasks._base import Skip, TaskSettings
from wenlu.tasks.causal_lm import CausalLM, Features
from wenlu.tokenization.tokenizer import Tokenizer
from wenlu.training.optimizers import Optimizer, OptimizerSettings

TASKS = plugins.names("wenlu.tasks")


def task_of(name: str) -> CausalLM:
    return cast(CausalLM, plugins.load("wenlu.tasks", name).create(TaskSettings(name=name)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny_store(tmp_path_factory.mktemp("corpus")).tokenizer


def model_of(tokenizer: Tokenizer, kind: str = "qwen3") -> nn.Module:
    settings = ModelSettings(kind=kind, num_layers=2, hidden_size=64, num_heads=2, initialization="gpt2")
    return build_model(settings, vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, sequence_length=128, seed=1)


def encoded(task: CausalLM, tokenizer: Tokenizer) -> list[Features]:
    rows = []
    for text in tiny_texts(8):
        features = task.encode(text, tokenizer)
        assert not isinstance(features, Skip)
        rows += features
    return rows


@pytest.mark.parametrize("name", TASKS)
def test_overfits_eight_examples(name: str, tokenizer: Tokenizer) -> None:
    task, model = task_of(name), model_of(tokenizer)
    texts = tiny_texts(8)
    batch = task.collate(encoded(task, tokenizer), torch.Generator())
    optimizer = Optimizer(model, OptimizerSettings(learning_rate=1e-2))
    for _ in range(120):
        terms = task.loss(model, batch)
        sum(term.total / term.count for term in terms.values()).backward()  # type: ignore[union-attr,no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    predictions = [task.merge([part]) for part in task.predict(model, batch)]
    scores = task.metrics(predictions, texts)
    assert scores["loss"].value < 0.5 < math.log(tokenizer.vocab_size)
    assert scores["loss"].count == task.counts(batch)["cross_entropy"]


@pytest.mark.parametrize("name", TASKS)
def test_padding_and_order_do_not_matter(name: str, tokenizer: Tokenizer) -> None:
    task, model = task_of(name), model_of(tokenizer)
    rows = encoded(task, tokenizer)
    generator = torch.Generator()
    whole = task.loss(model, task.collate(rows, generator))["cross_entropy"]
    turned = task.loss(model, task.collate(rows[::-1], generator))["cross_entropy"]
    alone = [task.loss(model, task.collate([row], generator))["cross_entropy"] for row in rows]
    assert turned.count == whole.count == sum(term.count for term in alone)
    total = whole.total.item()
    assert turned.total.item() == pytest.approx(total, rel=1e-6)
    assert sum(term.total.item() for term in alone) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_counts_are_known_from_the_batch_alone(name: str, tokenizer: Tokenizer) -> None:
    task, model = task_of(name), model_of(tokenizer)
    batch = task.collate(encoded(task, tokenizer), torch.Generator())
    assert dict(task.counts(batch)) == {key: term.count for key, term in task.loss(model, batch).items()}


@pytest.mark.parametrize("name", TASKS)
def test_examples_are_drawn_from_the_generator_only(name: str) -> None:
    task = task_of(name)
    texts = tiny_texts(8)
    first, again, other = (list(task.examples(texts, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(texts)


def test_an_empty_text_is_skipped_and_found(tokenizer: Tokenizer) -> None:
    task = CausalLM()
    assert task.encode("", tokenizer) == Skip("empty")
    assert [finding.where for finding in task.check(["a", " ", "b", ""])] == ["2", "4"]


def test_the_end_token_is_the_start_and_the_last_label(tokenizer: Tokenizer) -> None:
    features = CausalLM().encode("the fox", tokenizer)
    assert not isinstance(features, Skip)
    ids = tokenizer.encode("the fox")
    assert features == [Features([tokenizer.end_id, *ids], [*ids, tokenizer.end_id])]
