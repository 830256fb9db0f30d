"""What tasks on labelled examples have alike: words that share a token, rows with and without answers, what is cut."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tiny_training import tiny_settings
from wenlu.core.errors import SettingsError
from wenlu.data.examples import Example
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tasks._labelled import Judged
from wenlu.tasks._predictions import encode_examples, predict_examples
from wenlu.tasks.classification import Classification, ClassificationSettings
from wenlu.tasks.tagging import Tagging, TaggingSettings
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training.resolution import resolve_settings

WORDS = list("我们于1998年12月训练模型")
TAGS = ["O", "O", "O", "B-T", *["I-T"] * 7, "B-X", "I-X", "B-Y", "I-Y"]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "words", "characters"])
def test_every_word_has_a_token_of_its_own(kind: str) -> None:
    """Tokens that reach over several characters would give the first of them the tag of the last."""
    tokenizer = Tokenizer.train(["".join(WORDS)] * 20, TokenizerSettings(kind=kind, vocab_size=300))
    task = Tagging(TaggingSettings(labels=tuple(sorted(set(TAGS))), max_length=64))
    example = Example({"tokens": WORDS, "tags": TAGS}, "file:1")
    [row] = task.encode(example, tokenizer)  # type: ignore[misc]
    learned = row.columns["labels"]
    assert [task.settings.labels[label] for label in learned[learned >= 0]] == TAGS
    certain = np.eye(len(task.settings.labels))[np.maximum(learned, 0)]
    answer = task.merge([Judged(certain, extra=row.extra)])
    assert answer["tags"] == TAGS
    assert task.metrics([answer], [example])["entity_f1"].value == 1.0


def test_held_out_sentences_without_entities_are_scored_too() -> None:
    task = Tagging(TaggingSettings(labels=("B-T", "I-T", "O")))
    gold = Example({"tokens": ["a", "b"], "tags": ["O", "O"]}, "file:1")
    assert task.metrics([{"tags": ["O", "O"]}], [gold])[task.best].value == 0.0


def test_the_labels_of_a_tagger_stay_with_their_words() -> None:
    """What is left of a cut sentence is its beginning: no other part is known to the places of words."""
    with pytest.raises(SettingsError, match="truncation"):
        resolve_settings(tiny_settings("task.name=tagging", "task.truncation=tail"))


def classifier() -> tuple[Classification, Tokenizer]:
    tokenizer = Tokenizer.train(["a b c d e"], TokenizerSettings(kind="characters", vocab_size=40))
    return Classification(ClassificationSettings(labels=("no", "yes"), max_length=8)), tokenizer


def test_answers_that_some_rows_have_or_nobody_knows_do_not_matter() -> None:
    task, tokenizer = classifier()
    rows = [Example({"text": "a b", "label": "yes"}, "1"), Example({"text": "c"}, "2")]
    features, _, _ = encode_examples(task, rows, tokenizer)
    assert "labels" not in task.collate(features)
    unheard = Example({"text": "a b", "label": "unheard"}, "3")
    assert task.unanswered(unheard).fields == {"text": "a b"}


def test_a_text_that_is_cut_for_an_answer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    task, tokenizer = classifier()
    settings = ModelSettings(kind="bert", num_layers=1, num_heads=2, hidden_size=16)
    model = build_model(settings, vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, sequence_length=8, seed=0)
    model = task.equip(model, tokenizer, seed=0)
    for text, warnings in (("a b c", 0), ("abcde" * 4, 1)):
        caplog.clear()  # of what was said while all was made, whatever the level
        with caplog.at_level(logging.WARNING, logger="wenlu"):
            predict_examples(task, model, [Example({"text": text}, "1")], tokenizer)
        assert sum(record.levelno == logging.WARNING for record in caplog.records) == warnings
