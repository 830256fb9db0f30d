"""The n-gram model against an independent, dictionary-based implementation of the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from kneser_ney_reference import START, Reference

from wenlu.data.store import TokenStore
from wenlu.models.ngram import NGramModel, fit

VOCAB_SIZE = 600
END = 0


def zipf_documents(seed: int, *, count: int = 150, size: int = 12) -> list[list[int]]:
    """Random documents of phrases and single tokens, frequencies falling like 1/rank; the last tokens never occur."""
    phrases = np.random.default_rng(0).integers(1, VOCAB_SIZE - 5, size=(400, 7)).tolist()
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        document: list[int] = []
        for _ in range(int(generator.integers(0, size))):
            phrase = phrases[min(int(generator.zipf(1.2)), 400) - 1]
            document += phrase[: int(generator.integers(2, 8))]
            document.append(min(int(generator.zipf(1.3)), VOCAB_SIZE - 6))
        documents.append([*document, END])
    return documents


def model_of(documents: list[list[int]], order: int, *, before: int = END) -> NGramModel:
    store = TokenStore.from_documents(documents, end_id=END, vocab_size=VOCAB_SIZE)
    return fit(store, order=order, vocab_size=VOCAB_SIZE, end_id=END, context_id=before)


@pytest.mark.parametrize("before", [END, VOCAB_SIZE - 1], ids=["end", "start"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_log_probabilities_equal_the_reference(order: int, before: int) -> None:
    """Also where a token of its own stands before documents, which never comes inside."""
    training, unseen = zipf_documents(1), zipf_documents(2, count=20)
    model = model_of(training, order, before=before)
    reference = Reference(training, order=order, vocab_size=VOCAB_SIZE)
    for document in [*training[:20], *unseen]:
        inputs = torch.tensor([[before, *document[:-1]]])
        found = model.target_log_probs(inputs, torch.tensor([document]))[0]
        expected = [
            math.log(reference.probability(token, [START, *document[:slot]])) for slot, token in enumerate(document)
        ]
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-6)


def test_the_whole_distribution_equals_the_reference_in_seen_and_unseen_contexts() -> None:
    training = zipf_documents(3)
    model = model_of(training, 4)
    reference = Reference(training, order=4, vocab_size=VOCAB_SIZE)
    generator = np.random.default_rng(4)
    for _ in range(30):
        context = generator.integers(1, VOCAB_SIZE, size=3).tolist()
        logits = model(torch.tensor([context]), positions=torch.tensor([[5, 6, 7]]))[0, -1]
        expected = [math.log(reference.probability(token, context)) for token in range(VOCAB_SIZE)]
        torch.testing.assert_close(logits, torch.tensor(expected), atol=1e-5, rtol=1e-6)


def test_a_changed_discount_or_count_breaks_the_parity() -> None:
    """The comparison above can fail: plain counts in the lower orders give other probabilities."""
    training = zipf_documents(1)
    model = model_of(training, 3)
    reference = Reference(training, order=3, vocab_size=VOCAB_SIZE)
    document = zipf_documents(2)[1]
    reference.tables[1] = {gram: count for gram, count in reference.plain.items() if len(gram) == 2}
    expected = [
        math.log(reference.probability(token, [START, *document[:slot]])) for slot, token in enumerate(document)
    ]
    found = model.target_log_probs(torch.tensor([[END, *document[:-1]]]), torch.tensor([document]))[0]
    assert (found - torch.tensor(expected)).abs().max() > 1e-2
