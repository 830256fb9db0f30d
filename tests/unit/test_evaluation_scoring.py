"""The evaluator against a loop that computes every softmax, and the rules of windows, samples and charges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.processors import TemplateProcessing

from tiny_language_model import ByteTokenizer, TinyModel
from tiny_tokenizers import KINDS, tiny, tiny_with_start
from wenlu.core.errors import DataError, NotFiniteError, RequestError, SettingsError
from wenlu.data.store import TokenStore
from wenlu.evaluation.documents import (
    EvaluationText,
    TokenizedDocument,
    encode_texts,
    sample_documents,
    store_documents,
)
from wenlu.evaluation.evaluator import evaluate_documents, evaluate_split, summarize
from wenlu.evaluation.scoring import DocumentScore, Windows, score_documents, score_text, token_log_probs
from wenlu.generation.settings import GenerationSettings
from wenlu.generation.text import complete, prepare
from wenlu.tokenization.hf import Files
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerKind
from wenlu.training.settings import EvaluateSettings

END = 0
VOCAB = 30
LENGTHS = [1, 2, 5, 6, 7, 12, 13, 40, 3, 25]


def documents() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [[*random.integers(1, VOCAB, size=length - 1).tolist(), END] for length in LENGTHS]


def store() -> TokenStore:
    return TokenStore.from_documents(
        documents(), end_id=END, vocab_size=VOCAB, original_bytes=[2 * length for length in LENGTHS]
    )


def naive(model: TinyModel, ids: list[int], *, context: int, stride: int) -> list[float]:
    """Each token's log-probability from its own full softmax over its own window."""
    log_probs = []
    for slot, target in enumerate(ids):
        window = 0 if slot < context else (slot - context) // stride + 1
        inputs = [END, *ids][window * stride : slot + 1]
        logits = model(torch.tensor([inputs]))[0, -1]
        log_probs.append((logits[target] - torch.logsumexp(logits, dim=0)).item())
    return log_probs


@pytest.mark.parametrize(("context", "stride"), [(1, 1), (6, 3), (6, 6), (6, 1), (7, 5), (100, 50)])
def test_log_probs_equal_the_naive_loop(context: int, stride: int) -> None:
    model = TinyModel(VOCAB, max_positions=context)
    free = TinyModel(VOCAB)
    scored = list(token_log_probs(model, store_documents(store()), context_id=END, windows=Windows(context, stride)))
    assert len(scored) == len(LENGTHS)
    for ids, log_probs in zip(documents(), scored, strict=True):
        expected = naive(free, ids, context=context, stride=stride)
        assert np.allclose(log_probs, expected, atol=1e-5)


@pytest.mark.parametrize("slots", [1, 13, 64, 10_000])
def test_the_sums_do_not_depend_on_the_batch_size(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyModel(VOCAB)
    found = []
    for number in (slots, 4096):
        monkeypatch.setattr("wenlu.evaluation.scoring.SLOTS_PER_BATCH_ON_CPU", number)
        found.append(list(score_documents(model, store_documents(store()), context_id=END, windows=Windows(6, 3))))
    scores, others = found
    assert [score.tokens for score in scores] == LENGTHS
    for score, other in zip(scores, others, strict=True):
        assert score.nats == pytest.approx(other.nats, rel=1e-6)


def test_windows_score_every_slot_once() -> None:
    assert list(Windows(6, 3).of(10)) == [(0, 0, 6), (3, 6, 9), (6, 9, 10)]
    assert list(Windows(6, 3).of(6)) == [(0, 0, 6)]
    for number in range(1, 40):
        scored = [slot for _, first, end in Windows(7, 2).of(number) for slot in range(first, end)]
        assert scored == list(range(number))


@pytest.mark.parametrize(("context", "stride"), [(4, 5), (4, 0), (0, 0)])
def test_wrong_windows_are_refused(context: int, stride: int) -> None:
    with pytest.raises(SettingsError) as caught:
        Windows(context, stride)
    assert caught.value.id == "evaluation.window"


def test_a_context_that_the_model_cannot_read_is_refused() -> None:
    with pytest.raises(RequestError, match="8"):
        list(score_documents(TinyModel(VOCAB, max_positions=7), [], context_id=END, windows=Windows(8, 4)))


def test_not_a_number_is_refused() -> None:
    model = TinyModel(VOCAB)
    with torch.no_grad():
        model.output[0, 0] = torch.nan
    with pytest.raises(NotFiniteError):
        list(score_documents(model, store_documents(store()), context_id=END, windows=Windows(8, 4)))


def test_the_mode_of_the_model_is_restored() -> None:
    model = TinyModel(VOCAB).train()
    list(score_documents(model, store_documents(store()), context_id=END, windows=Windows(8, 4)))
    assert model.training


def test_summary_follows_the_definitions() -> None:
    scores = [
        DocumentScore(6.0, 3, 10, 4, "en", True),
        DocumentScore(2.0, 2, 6, 6, "zh", False),
    ]
    summary = summarize(scores)
    assert summary.loss == pytest.approx(8 / 5)
    assert summary.perplexity == pytest.approx(math.exp(8 / 5))
    assert summary.bits_per_byte == pytest.approx((6 / math.log(2) + 48) / 16)
    assert summary.bits_per_character == pytest.approx((6 / math.log(2) + 48) / 10)
    assert (summary.documents, summary.tokens, summary.num_bytes, summary.charged_documents) == (2, 5, 16, 1)


def test_evaluation_by_language_adds_up() -> None:
    chosen = [
        TokenizedDocument(np.array(ids), 2 * len(ids), len(ids), "zh" if number % 2 else "en", True)
        for number, ids in enumerate(documents())
    ]
    evaluation = evaluate_documents(TinyModel(VOCAB), chosen, context_id=END, end_id=END, windows=Windows(6, 3))
    assert set(evaluation.by_language) == {"en", "zh"}
    assert sum(part.tokens for part in evaluation.by_language.values()) == evaluation.total.tokens == sum(LENGTHS)
    assert "context:6|stride:3" in evaluation.definition
    interval = evaluation.total.bits_per_byte_interval
    assert interval is not None
    assert interval.low < evaluation.total.bits_per_byte < interval.high
    assert evaluation.total.as_record()["bits_per_byte_interval"] == [interval.low, interval.high]


@pytest.mark.parametrize("limit", [0, 50, 114, 1000])
def test_the_log_of_a_run_and_evaluate_give_the_same_number(limit: int) -> None:
    model = TinyModel(VOCAB)
    logged = evaluate_split(model, store(), EvaluateSettings(), context=6, max_tokens=limit)
    evaluation = evaluate_documents(
        model,
        store_documents(store()),
        context_id=END,
        end_id=END,
        windows=Windows(6, 3),
        max_tokens=limit,
        total_tokens=114,
    )
    assert evaluation.total.loss == logged["loss"]
    assert evaluation.total.bits_per_byte == logged["bits_per_byte"]
    assert evaluation.total.tokens == (limit if 0 < limit < 114 else 114)


def test_a_sample_is_the_same_in_any_order_and_exact() -> None:
    chosen = list(store_documents(store()))
    sample, other = sample_documents(chosen, 47), sample_documents(reversed(chosen), 47)
    assert [document.ids.tolist() for document in sample] == [document.ids.tolist() for document in other]
    assert sum(len(document.ids) for document in sample) == 47
    assert [document.cut for document in sample[:-1]] == [False] * (len(sample) - 1)
    last = sample[-1]
    assert last.cut
    assert last.num_bytes == pytest.approx(2 * len(last.ids))
    assert len(sample_documents(chosen, 10_000)) == len(LENGTHS)


def test_one_long_document_does_not_break_the_limit() -> None:
    [only] = sample_documents([TokenizedDocument(np.arange(1000), 3000, 2000, "en", True)], 10)
    assert (len(only.ids), only.num_bytes, only.num_characters, only.cut) == (10, 30, 20, True)


def test_texts_are_sampled_by_bytes() -> None:
    texts = [EvaluationText(f"{number} 汉字" * 5, len((f"{number} 汉字" * 5).encode()), "zh") for number in range(20)]
    sample = sample_documents(texts, 200)
    assert sample == sample_documents(reversed(texts), 200)
    assert 190 <= sum(text.num_bytes for text in sample) <= 200
    assert sample[-1].num_bytes == len(sample[-1].text.encode())


def test_texts_that_do_not_round_trip_are_marked() -> None:
    tokenizer = ByteTokenizer()
    fine, lossy = encode_texts([EvaluationText("汉", 3, "zh"), EvaluationText("a\x07", 2, "en")], tokenizer)
    assert (fine.lossless, lossy.lossless) == (True, False)
    assert fine.ids.tolist() == [*"汉".encode(), tokenizer.end_id]


def test_no_document_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        evaluate_documents(TinyModel(VOCAB), [], context_id=END, end_id=END, windows=Windows(6, 3))
    assert caught.value.id == "evaluation.no_documents"


@pytest.mark.parametrize("written", [True, False])
def test_a_text_is_read_after_the_start_token_that_its_tokenizer_puts_first(
    written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_with_start(written=written)
    model = TinyModel(tokenizer.vocab_size)
    hidden, read = model.hidden, list[list[int]]()
    monkeypatch.setattr(model, "hidden", lambda ids, **options: read.append(ids[0].tolist()) or hidden(ids, **options))
    score_text(model, tokenizer, "The dog", windows=Windows(64, 32))
    settings = GenerationSettings(do_sample=False, max_new_tokens=1)
    complete(model, tokenizer, prepare(tokenizer, "The dog", settings, max_positions=None), settings)
    assert tokenizer.start_id is not None and tokenizer.start_id != tokenizer.end_id
    expected = [tokenizer.start_id if written else tokenizer.end_id, *tokenizer.encode("The dog")]
    assert read == [expected, expected]


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_tokenizers_read_a_text_after_the_end_token(kind: TokenizerKind) -> None:
    assert tiny(kind).context_id == tiny(kind).end_id


@pytest.mark.parametrize(("single", "first"), [("[CLS] $A [SEP]", "[CLS]"), ("$A [SEP]", "[SEP]"), ("$A", "[SEP]")])
def test_the_first_token_of_bert_stands_before_a_text(single: str, first: str) -> None:
    library = LibraryTokenizer.from_str(tiny("wordpiece").serialized)
    library.add_special_tokens(["[CLS]", "[SEP]"])
    marks = [(name, library.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    library.post_processor = TemplateProcessing(single=single, pair=f"{single} $B:1", special_tokens=marks)
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(Files(library, "[SEP]", "<|pad|>", "[UNK]", roles))
    assert tokenizer.token(tokenizer.context_id) == first


def test_score_of_a_text_is_that_of_its_document() -> None:
    tokenizer = ByteTokenizer()
    model = TinyModel(tokenizer.vocab_size)
    windows = Windows(6, 3)
    [document] = score_documents(
        model,
        encode_texts([EvaluationText("汉字 ok", 9, "zh")], tokenizer),
        context_id=tokenizer.end_id,
        windows=windows,
    )
    whole = score_text(model, tokenizer, "汉字 ok", windows=windows)
    start = score_text(model, tokenizer, "汉字 ok", windows=windows, count_end=False)
    assert whole.log_prob == pytest.approx(-document.nats)
    assert whole.bits_per_byte == pytest.approx(document.nats / math.log(2) / 9)
    assert start.log_prob == pytest.approx(whole.log_prob - whole.tokens[-1].log_prob)
    assert start.bits_per_character == pytest.approx(-start.log_prob / math.log(2) / 5)
    assert [(token.start, token.end) for token in start.tokens] == [(0, 1)] * 3 + [(1, 2)] * 3 + [
        (2, 3),
        (3, 4),
        (4, 5),
    ]
    assert sum(token.log_prob for token in whole.tokens) == pytest.approx(whole.log_prob)


def test_score_of_an_empty_text() -> None:
    tokenizer = ByteTokenizer()
    model = TinyModel(tokenizer.vocab_size)
    assert score_text(model, tokenizer, "", windows=Windows(6, 3)).bits_per_byte is None
    with pytest.raises(RequestError) as caught:
        score_text(model, tokenizer, "", windows=Windows(6, 3), count_end=False)
    assert caught.value.id == "evaluation.empty_text"


def test_score_of_a_lossy_text_says_so() -> None:
    tokenizer = ByteTokenizer()
    score = score_text(TinyModel(tokenizer.vocab_size), tokenizer, "a\x07", windows=Windows(6, 3))
    assert not score.lossless
    assert score.bits_per_byte == pytest.approx(8.0)
