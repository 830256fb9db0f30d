"""Comparing models: a real difference is found, none is not invented, different tokenizers meet in bits per byte."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tiny_language_model import ByteTokenizer, TinyModel
from wenlu.evaluation.compare import compare
from wenlu.evaluation.documents import EvaluationText, encode_texts
from wenlu.evaluation.evaluator import Evaluation, definition, evaluate_documents, summarize
from wenlu.evaluation.scoring import DocumentScore, Windows

WINDOWS = Windows(32, 16)


def evaluation(bits_per_byte: list[float], sizes: list[int], languages: list[str] | None = None) -> Evaluation:
    scores = tuple(
        DocumentScore(math.log(2) * bits * size, size // 3, size, size, language, True)
        for bits, size, language in zip(bits_per_byte, sizes, languages or ["en"] * len(sizes), strict=True)
    )
    return Evaluation(scores, summarize(scores), {}, definition(WINDOWS))


def test_a_steady_difference_is_found_among_unlike_documents() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(100, 2000, size=60).tolist()
    base = random.uniform(1, 4, size=60)
    scores = {
        "worst": base + 0.2,
        "better": base + random.normal(0.05, 0.02, size=60),
        "best": base,
    }
    result = compare({name: evaluation(bits.tolist(), sizes) for name, bits in scores.items()})
    assert result.ranking == ("best", "better", "worst")
    behind = result.between("worst", "best")
    assert behind.interval is not None and behind.p_value is not None
    assert behind.value == pytest.approx(0.2)
    assert behind.interval.low == pytest.approx(0.2)
    assert behind.p_value < 0.01
    better = result.between("worst", "better")
    assert better.interval is not None
    assert better.interval.low > 0
    assert len(result.pairs) == 6


def test_noise_alone_is_not_called_a_difference() -> None:
    random = np.random.default_rng(1)
    sizes = random.integers(100, 2000, size=60).tolist()
    base = random.uniform(1, 4, size=60)
    bits = base + random.normal(0, 0.3, size=60)
    bits += np.sum((base - bits) * sizes) / np.sum(sizes)  # the same in all, but not document by document
    result = compare({"one": evaluation(base.tolist(), sizes), "two": evaluation(bits.tolist(), sizes)})
    difference = result.between("one", "two")
    assert difference.interval is not None and difference.p_value is not None
    assert difference.interval.low < 0 < difference.interval.high
    assert difference.p_value > 0.5


def test_a_language_is_compared_alone() -> None:
    sizes, languages = [100] * 20, ["zh", "en"] * 10
    chinese = [1.0 if language == "zh" else 3.0 for language in languages]
    english = [2.0 if language == "zh" else 1.5 for language in languages]
    evaluations = {"zh-model": evaluation(chinese, sizes, languages), "en-model": evaluation(english, sizes, languages)}
    assert compare(evaluations).ranking[0] == "en-model"
    assert compare(evaluations, language="zh").ranking[0] == "zh-model"
    assert compare(evaluations, language="zh").between("en-model", "zh-model").value == pytest.approx(1.0)


def test_models_of_different_tokenizers_meet_in_bits_per_byte() -> None:
    """Uniform models over vocabularies of unlike size and token length: bits per byte are what can be worked out."""

    class PairTokenizer(ByteTokenizer):
        """Two characters a token, 300 tokens."""

        vocab_size = 300

        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[ord(text[start]) for start in range(0, len(text), 2)] for text in texts]

        def round_trips(self, text: str, ids: object = None) -> bool:
            return True

    texts = [EvaluationText("x" * number, number, "en") for number in range(40, 80, 2)]
    evaluations = {}
    for tokenizer in (ByteTokenizer(), PairTokenizer()):
        model = TinyModel(tokenizer.vocab_size, scale=0.0)
        evaluations[type(tokenizer).__name__] = evaluate_documents(
            model,
            encode_texts(texts, tokenizer),
            context_id=tokenizer.end_id,
            end_id=tokenizer.end_id,
            windows=WINDOWS,
        )
    size = sum(text.num_bytes for text in texts)
    expected = {
        "ByteTokenizer": (size + 20) * math.log2(259) / size,
        "PairTokenizer": (size // 2 + 20) * math.log2(300) / size,
    }
    for name, value in expected.items():
        assert evaluations[name].total.bits_per_byte == pytest.approx(value, rel=1e-6)
    assert compare(evaluations).ranking == ("PairTokenizer", "ByteTokenizer")
