"""Every task on plain text learns eight examples, and cares neither for padding nor for the order of a batch."""

from __future__ import annotations

import math
import re
from typing import Any, cast

import pytest
import torch
from torch import nn

from tiny_tokenizers import tiny, tiny_with_start
from tiny_training import tiny_texts
from wenlu.core import plugins
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tasks._base import CorpusObjective, Skip, Task
from wenlu.tasks._labelled import LabelledTask
from wenlu.tasks.causal_lm import CausalLM, Features
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training.optimizers import Optimizer, OptimizerSettings

AnyTask = Task[str, Any, Any, Any]


def task_of(name: str) -> AnyTask:
    module = plugins.load("wenlu.tasks", name)
    return cast(AnyTask, module.create(module.SETTINGS()))


TASKS = [name for name in plugins.names("wenlu.tasks") if not isinstance(task_of(name), LabelledTask)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One that has the special tokens of every task."""
    tasks = [task for name in TASKS if isinstance(task := task_of(name), CorpusObjective)]
    tokens = dict.fromkeys(token for task in tasks for token in task.special_tokens())
    settings = TokenizerSettings(kind="characters", vocab_size=300, special_tokens=tuple(tokens))
    return Tokenizer.train(sentences(60), settings)


def model_of(tokenizer: Tokenizer, task: AnyTask) -> nn.Module:
    """The smallest model of the task's architecture, with its heads."""
    architecture = task.architecture if isinstance(task, CorpusObjective) else "decoder"
    kind = {"decoder": "qwen3", "encoder": "bert", "encoder_decoder": "bart"}[architecture]
    settings = ModelSettings(kind=kind, num_layers=2, hidden_size=64, num_heads=2, initialization="gpt2")
    sizes = {"vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id, "sequence_length": 128}
    model = build_model(settings, **sizes, seed=1)
    return task.equip(model, tokenizer, seed=1) if isinstance(task, CorpusObjective) else model


def sentences(count: int) -> list[str]:
    """Texts of sentences of four words, so that there are pairs to be made."""
    return [re.sub(r"(\S+ \S+ \S+ \S+) ", r"\1. ", text) for text in tiny_texts(count)]


def encoded(task: AnyTask, tokenizer: Tokenizer) -> list[Any]:
    rows = []
    for text in sentences(8):
        features = task.encode(text, tokenizer)
        assert not isinstance(features, Skip)
        rows += features
    return rows


def drawn() -> torch.Generator:
    """The same draws every time."""
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("name", TASKS)
def test_overfits_eight_examples(name: str, tokenizer: Tokenizer) -> None:
    task = task_of(name)
    model = task.build(model_of(tokenizer, task))
    texts = sentences(8)
    batch = task.collate(encoded(task, tokenizer), drawn())
    optimizer = Optimizer(model, OptimizerSettings(learning_rate=1e-2))
    for _ in range(120):
        terms = task.loss(model, batch)
        sum(term.total / max(term.count, 1) for term in terms.values()).backward()  # type: ignore[union-attr,no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    predictions = [task.merge([part]) for part in task.predict(model, batch)]
    scores = task.metrics(predictions, texts)
    assert scores["loss"].value < 0.5 < math.log(tokenizer.vocab_size)
    assert all(score.count > 0 for score in scores.values())
    assert scores["loss"].count == next(iter(task.counts(batch).values()))


@pytest.mark.parametrize("name", TASKS)
def test_padding_and_order_do_not_matter(name: str, tokenizer: Tokenizer) -> None:
    task = task_of(name)
    model = task.build(model_of(tokenizer, task))
    rows = encoded(task, tokenizer)
    whole = task.loss(model, task.collate(rows, drawn()))
    turned = task.loss(model, task.collate(rows[::-1], drawn()))
    alone = [task.loss(model, task.collate([row], drawn())) for row in rows]
    for term in whole:
        assert turned[term].count == whole[term].count == sum(one[term].count for one in alone)
        total = whole[term].total.item()
        assert turned[term].total.item() == pytest.approx(total, rel=1e-6)
        assert sum(one[term].total.item() for one in alone) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_counts_are_known_from_the_batch_alone(name: str, tokenizer: Tokenizer) -> None:
    task = task_of(name)
    model = task.build(model_of(tokenizer, task))
    batch = task.collate(encoded(task, tokenizer), drawn())
    assert dict(task.counts(batch)) == {key: term.count for key, term in task.loss(model, batch).items()}


@pytest.mark.parametrize("name", TASKS)
def test_examples_are_drawn_from_the_generator_only(name: str) -> None:
    task = task_of(name)
    texts = tiny_texts(8)
    first, again, other = (list(task.examples(texts, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(texts)


@pytest.mark.parametrize("name", TASKS)
def test_an_empty_text_is_skipped_and_found(name: str, tokenizer: Tokenizer) -> None:
    task = task_of(name)
    assert task.encode("", tokenizer) == Skip("empty")
    assert [finding.where for finding in task.check(["a", " ", "b", ""])] == ["2", "4"]


def test_the_start_token_is_read_first_and_the_end_token_is_the_last_label(tokenizer: Tokenizer) -> None:
    """A tokenizer that puts no start token before texts has the end token in its place."""
    own, llama = tiny("characters"), tiny_with_start(written=True)
    for words, first in ((own, own.end_id), (llama, llama.start_id), (tokenizer, tokenizer.cls_id)):
        ids = words.encode("the fox")
        assert CausalLM().encode("the fox", words) == [Features([first, *ids], [*ids, words.end_id])]
