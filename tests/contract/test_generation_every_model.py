"""Every kind of model that reads from left to right generates the same with a cache as when it reads everything again,
and is scored by the same rule; every other kind is refused wherever that is asked of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tiny_tokenizers import tiny
from wenlu.bundle import Bundle
from wenlu.core import plugins
from wenlu.core.errors import RequestError
from wenlu.data.store import TokenStore
from wenlu.evaluation.documents import store_documents
from wenlu.evaluation.evaluator import evaluate_split
from wenlu.evaluation.scoring import Windows, token_log_probs
from wenlu.generation.sampling import Sampler
from wenlu.generation.settings import GenerationSettings
from wenlu.models import ngram
from wenlu.models.build import FAMILIES, build_model
from wenlu.models.config import ModelSettings
from wenlu.models.mixture import Mixture
from wenlu.models.roles import Architecture, architecture
from wenlu.models.transformer import Transformer
from wenlu.training.settings import EvaluateSettings
from whole_sequences import generate

VOCAB, END, MAX_POSITIONS = 23, 0, 48
SIZES = {
    "lstm": ModelSettings(kind="lstm", num_layers=2, hidden_size=12, embedding_size=8),
}
PROMPT = [3, 7, 7, 1, 12]


def corpus() -> TokenStore:
    random = np.random.default_rng(0)
    documents = [[*random.integers(1, VOCAB, size=random.integers(1, 60)).tolist(), END] for _ in range(30)]
    return TokenStore.from_documents(documents, end_id=END, vocab_size=VOCAB)


@contextmanager
def quiet() -> Iterator[None]:
    logger = logging.getLogger("wenlu")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def new_model(kind: str) -> nn.Module:
    """A tiny model of this kind whose every parameter is random and large enough to matter."""
    if kind == "ngram":
        with quiet():
            return ngram.fit(corpus(), order=3, vocab_size=VOCAB, end_id=END).eval()
    if kind == "mixture":
        return Mixture([new_model("ngram"), new_model("gpt2")], [0.4, 0.6]).eval()
    settings = SIZES.get(kind, ModelSettings(kind=kind, num_layers=2, hidden_size=16, num_heads=2))
    model = build_model(settings, vocab_size=VOCAB, end_id=END, sequence_length=MAX_POSITIONS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator) + (parameter.mean() > 0.5))
    return model.eval()


def architecture_of(kind: str) -> Architecture:
    if kind in ("ngram", "mixture"):  # made of texts and of models
        return "decoder"
    with torch.device("meta"):
        return architecture(build_model(SIZES.get(kind, ModelSettings(kind=kind)), vocab_size=VOCAB, end_id=END,
                                        sequence_length=MAX_POSITIONS))  # fmt: skip


KINDS = [kind for kind in plugins.names(FAMILIES) if architecture_of(kind) == "decoder"]
OTHERS = [kind for kind in plugins.names(FAMILIES) if kind not in KINDS]


def read_again(model: nn.Module, settings: GenerationSettings) -> list[tuple[list[int], list[float]]]:
    """Generation that gives the model the whole text for each token, one sequence at a time."""
    results = []
    for number in range(settings.num_sequences):
        sampler = Sampler(settings, PROMPT, vocab_size=VOCAB, device=torch.device("cpu"))
        ids: list[int] = []
        log_probs: list[float] = []
        while len(ids) < (settings.max_new_tokens or 0) and (not ids or ids[-1] != END):
            with torch.no_grad():
                logits_BV = model(torch.tensor([[END, *PROMPT, *ids]]))[:, -1].float()
            [token_id] = sampler.choose(logits_BV, sequences=[number], position=len(ids)).tolist()
            ids.append(token_id)
            log_probs.append(logits_BV.log_softmax(-1)[0, token_id].item())
        results.append((ids, log_probs))
    return results


@pytest.mark.parametrize(
    "settings",
    [
        GenerationSettings(do_sample=False, max_new_tokens=30),
        GenerationSettings(temperature=1.0, top_p=0.95, num_sequences=4, max_new_tokens=30, repetition_penalty=1.2),
    ],
    ids=["greedy", "sampled"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_uncached(kind: str, settings: GenerationSettings) -> None:
    model = new_model(kind)
    expected = read_again(model, settings)
    sequences = generate(model, PROMPT, settings, start_id=END)
    assert [sequence.ids for sequence in sequences] == [ids for ids, _ in expected]
    for sequence, (_, log_probs) in zip(sequences, expected, strict=True):
        assert np.allclose(sequence.log_probs, log_probs, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_generation_up_to_the_last_position(kind: str) -> None:
    model = new_model(kind)
    settings = GenerationSettings(
        max_new_tokens=MAX_POSITIONS - len(PROMPT), min_new_tokens=MAX_POSITIONS - len(PROMPT)
    )
    [sequence] = generate(model, PROMPT, settings, start_id=END)
    assert (len(sequence.ids), sequence.finish_reason) == (MAX_POSITIONS - len(PROMPT), "length")


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_is_scored_by_the_same_windows(kind: str) -> None:
    """Against full softmaxes of one window at a time, without padding or batches."""
    model = new_model(kind)
    store = corpus()
    windows = Windows(16, 6)
    scored = token_log_probs(model, store_documents(store), context_id=END, windows=windows)
    for number, log_probs in zip(range(8), scored, strict=False):
        ids = store.document(number).astype(int).tolist()
        inputs = [END, *ids[:-1]]
        expected = []
        for start, first, end in windows.of(len(ids)):
            with torch.no_grad():
                table_SV = model(torch.tensor([inputs[start:end]]))[0].float().log_softmax(-1)
            expected += [table_SV[slot - start, ids[slot]].item() for slot in range(first, end)]
        assert np.allclose(log_probs, expected, atol=1e-4)


def test_every_architecture_is_found() -> None:
    assert {"gpt2", "llama", "lstm", "ngram", "mixture"} <= set(KINDS)
    assert {architecture_of(kind) for kind in OTHERS} == {"encoder", "encoder_decoder"}


LEFT_TO_RIGHT: dict[str, Callable[[nn.Module], object]] = {
    "bundle": lambda model: Bundle(model, tiny("bpe"), "", GenerationSettings(), Path()).language_model,
    "generation": lambda model: generate(model, PROMPT, GenerationSettings(), start_id=END),
    "scoring": lambda model: list(
        token_log_probs(model, store_documents(corpus()), context_id=END, windows=Windows(16, 6))
    ),
    "evaluation of a run": lambda model: evaluate_split(model, corpus(), EvaluateSettings(), context=16, max_tokens=0),
    "mixture": lambda model: Mixture([new_model("ngram"), model], [0.5, 0.5]),
}


@pytest.mark.parametrize("ask", LEFT_TO_RIGHT.values(), ids=LEFT_TO_RIGHT.keys())
@pytest.mark.parametrize("kind", OTHERS)
def test_what_does_not_read_from_left_to_right_is_refused(kind: str, ask: Callable[[nn.Module], object]) -> None:
    with pytest.raises(RequestError) as caught:
        ask(new_model(kind))
    expected = {"encoder": "models.encoder_not_causal", "encoder_decoder": "models.source_missing"}
    assert caught.value.id == expected[architecture_of(kind)]
    assert kind in str(caught.value) and "wenlu embed" in str(caught.value)


def test_a_decoder_without_an_output_for_words_is_refused() -> None:
    model = new_model("gpt2")
    assert isinstance(model, Transformer)
    judge = Transformer(replace(model.config, heads=frozenset({"sequence"}), labels=("no", "yes")))
    with pytest.raises(RequestError) as caught:
        generate(judge, PROMPT, GenerationSettings(), start_id=END)
    assert caught.value.id == "models.no_vocabulary_head"
