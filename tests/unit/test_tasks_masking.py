"""What is masked: rates and shares on large samples, units, and what is never masked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as LibraryTokenizer

from tiny_training import tiny_texts
from wenlu.core.errors import SettingsError
from wenlu.core.setting_types import fields
from wenlu.data.store import TokenStore
from wenlu.tasks._vocabulary import MASK, Vocabulary
from wenlu.tasks.masked_lm import MaskedLM, MaskSettings, mask
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerKind, TokenizerSettings

MARKS = ("[MASK]", "[CLS]", "[SEP]")
ENGLISH = "the unbelievable quick brown foxes were jumping over extraordinarily lazy dogs because nobody stopped them "
CHINESE = "中文分词是自然语言处理的基础。我们在北京大学学习语言模型，今天天气很好。"
TOKENS = 60_000


def trained(kind: TokenizerKind, *, vocab_size: int = 330) -> Tokenizer:
    settings = TokenizerSettings(kind=kind, vocab_size=vocab_size, special_tokens=MARKS)
    return Tokenizer.train([ENGLISH * 3, CHINESE * 3, *tiny_texts()], settings)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return trained("bpe")


def large_sample(tokenizer: Tokenizer, count: int = TOKENS) -> np.ndarray:
    ids = tokenizer.encode((ENGLISH + CHINESE) * 50)
    return np.array((ids * (count // len(ids) + 1))[:count])


def within(hits: int, count: int, rate: float) -> bool:
    """Five standard deviations of a binomial distribution: one run in two million is outside by chance."""
    return abs(hits - count * rate) <= 5 * math.sqrt(count * rate * (1 - rate))


def masked(
    ids: np.ndarray, settings: MaskSettings, tokenizer: Tokenizer, *, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    vocabulary, generator = Vocabulary.of(tokenizer), np.random.default_rng(seed)
    documents = np.arange(len(ids)) // 500
    mask_id = vocabulary.mark(MASK)
    return mask(ids, documents, settings=settings, vocabulary=vocabulary, mask_id=mask_id, generator=generator)


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_single_tokens_keep_their_rate_and_shares(tokenizer: Tokenizer, rate: float) -> None:
    ids = large_sample(tokenizer)
    shown, labels = masked(ids, MaskSettings(mask_rate=rate), tokenizer)
    chosen = labels != -100
    count = int(chosen.sum())
    assert within(count, len(ids), rate)
    assert (labels[chosen] == ids[chosen]).all()
    assert (shown[~chosen] == ids[~chosen]).all()
    mask_id = Vocabulary.of(tokenizer).mark(MASK)
    is_mask = shown[chosen] == mask_id
    assert within(int(is_mask.sum()), count, 0.8)
    changed = ~is_mask & (shown[chosen] != ids[chosen])
    same_by_chance = 0.1 / len(Vocabulary.of(tokenizer).ordinary)
    assert within(int(changed.sum()), count, 0.1 - same_by_chance)
    assert not np.isin(shown[chosen][changed], list(tokenizer.special_ids)).any()
    assert len(np.unique(shown[chosen][changed])) > 0.8 * len(Vocabulary.of(tokenizer).ordinary)


@pytest.mark.parametrize("unit", ["word", "chinese_word", "span"])
def test_larger_units_keep_the_rate_of_tokens(tokenizer: Tokenizer, unit: str) -> None:
    """Units of up to 10 tokens a draw: the variance of a sum of n draws of blocks of b is at most b times as large."""
    ids = large_sample(tokenizer)
    settings = MaskSettings(unit=unit)  # type: ignore[arg-type]
    longest = 40 if unit == "span" else 12
    _, labels = masked(ids, settings, tokenizer)
    hits = int((labels != -100).sum())
    deviation = math.sqrt(longest * len(ids) * 0.15 * 0.85)
    assert abs(hits - 0.15 * len(ids)) <= 4 * deviation


def test_the_rate_of_spans_is_exact_for_every_word_of_a_document(tokenizer: Tokenizer) -> None:
    """Words at the start of a document are covered as often as those inside; the average of many draws."""
    ids = np.array(tokenizer.encode("a b c d e f g h i j k l"))
    vocabulary, settings = Vocabulary.of(tokenizer), MaskSettings(unit="span", mask_rate=0.3)
    times, hits = 4000, np.zeros(len(ids))
    for seed in range(times):
        generator = np.random.default_rng(seed)
        documents = np.zeros(len(ids), dtype=np.int64)
        _, labels = mask(ids, documents, settings=settings, vocabulary=vocabulary, mask_id=2, generator=generator)
        hits += labels != -100
    assert all(within(int(hit), times, 0.3) for hit in hits)


def test_words_are_those_of_the_library(tokenizer: Tokenizer) -> None:
    for one in (tokenizer, trained("wordpiece", vocab_size=120), trained("unigram", vocab_size=200)):
        text = ENGLISH.strip()
        library = LibraryTokenizer.from_str(one.encoder_json)
        encoding = library.encode(text, add_special_tokens=False)
        ours = Vocabulary.of(one).words(np.array(encoding.ids))
        theirs = np.array(encoding.word_ids)
        assert len(set(theirs)) == len(text.split()) < len(theirs)
        assert (np.diff(ours) == np.diff(theirs)).all(), one.kind


def test_whole_words_are_masked_or_not() -> None:
    tokenizer = trained("wordpiece", vocab_size=120)
    ids = large_sample(tokenizer, 5000)
    _, labels = masked(ids, MaskSettings(unit="word"), tokenizer)
    words = Vocabulary.of(tokenizer).words(ids)
    assert len(np.unique(words)) < len(ids)
    chosen = labels != -100
    for word in np.unique(words[chosen]):
        assert chosen[words == word].all()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "characters"])
def test_chinese_words_are_jiebas(kind: TokenizerKind) -> None:
    import rjieba

    tokenizer = trained(kind, vocab_size=300)
    text = CHINESE * 2
    ids = np.array(tokenizer.encode(text))
    words = Vocabulary.of(tokenizer).chinese_words(ids)
    borders, place = {0}, 0
    for word in rjieba.cut(text):
        borders.add(place := place + len(word))
    offsets = tokenizer.encode_with_offsets(text).offsets
    assert any(end - start > 1 for start, end in zip(sorted(borders)[:-1], sorted(borders)[1:], strict=True))
    for before, after, word, following in zip(offsets[:-1], offsets[1:], words[:-1], words[1:], strict=True):
        if before[1] <= after[0]:  # else both hold bytes of one character
            assert (following != word) == (after[0] in borders), text[before[0] : after[1]]


def test_special_tokens_are_never_chosen_nor_counted(tokenizer: Tokenizer) -> None:
    ids = large_sample(tokenizer, 20_000)
    ids[::7] = np.resize(sorted(tokenizer.special_ids), len(ids[::7]))
    for unit in ("token", "word", "chinese_word", "span"):
        shown, labels = masked(ids, MaskSettings(unit=unit, mask_rate=0.5), tokenizer)  # type: ignore[arg-type]
        special = np.isin(ids, list(tokenizer.special_ids))
        assert (labels[special] == -100).all()
        assert (shown[special] == ids[special]).all()
        assert (labels[~special] != -100).any()


def test_a_span_stays_in_its_document_and_shares_its_fate(tokenizer: Tokenizer) -> None:
    ids = large_sample(tokenizer, 20_000)
    vocabulary, generator = Vocabulary.of(tokenizer), np.random.default_rng(2)
    documents = np.arange(len(ids)) // 4
    settings = MaskSettings(unit="span", mask_rate=0.15, random_share=0.2)
    shown, labels = mask(ids, documents, settings=settings, vocabulary=vocabulary, mask_id=2, generator=generator)
    chosen = labels != -100
    last, first = chosen[3:-1:4], chosen[4::4]
    assert within(int((last & first).sum()), len(first), 0.15**2), "documents are masked independently of each other"
    inside = chosen[:-1] & chosen[1:] & (documents[:-1] == documents[1:])
    is_mask = shown == 2
    assert (is_mask[:-1] == is_mask[1:])[inside].all()


def test_spans_of_many_short_documents(tokenizer: Tokenizer) -> None:
    """Most spans that are drawn then lie between documents, and there are more of them than tokens."""
    ids = large_sample(tokenizer, 300)
    vocabulary, settings = Vocabulary.of(tokenizer), MaskSettings(unit="span", mask_rate=0.4)
    hits = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        given = {"settings": settings, "vocabulary": vocabulary, "mask_id": 2, "generator": generator}
        _, labels = mask(ids[:3], np.arange(3), **given)
        _, others = mask(ids, np.arange(300), **given)
        hits += int((labels != -100).sum() + (others != -100).sum())
    assert within(hits, 100 * 303, 0.4)


def test_lengths_of_spans_are_geometric() -> None:
    """SpanBERT's table for p = 0.2 and at most 10 words: the mean is 3.8; the first share is 0.224."""
    from wenlu.tasks.masked_lm import _lengths

    shares = np.diff(_lengths(0.2, 10), prepend=0)
    assert shares[0] == pytest.approx(0.2 / (1 - 0.8**10))
    assert shares[1:] / shares[:-1] == pytest.approx(0.8)
    assert float((shares * np.arange(1, 11)).sum()) == pytest.approx(3.797, abs=1e-3)


def test_against_the_collators_of_transformers(tokenizer: Tokenizer) -> None:
    """The same rates as transformers' collator on the same tokens, within what chance allows to both."""
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_object=LibraryTokenizer.from_str(tokenizer.encoder_json),
        mask_token="[MASK]",
        pad_token="<|pad|>",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    collator = DataCollatorForLanguageModeling(theirs, mlm_probability=0.15, seed=3)
    ids = large_sample(tokenizer, 20_000)
    rows = [{"input_ids": torch.from_numpy(row.copy())} for row in ids.reshape(-1, 500)]
    batch = collator(rows)
    shown, labels = masked(ids, MaskSettings(), tokenizer)
    pairs = [(batch["input_ids"].flatten().numpy(), batch["labels"].flatten().numpy()), (shown, labels)]
    figures = []
    for seen, targets in pairs:
        chosen = targets != -100
        assert (targets[chosen] == ids[chosen]).all()
        parts = [chosen.sum(), (seen[chosen] == theirs.mask_token_id).sum(), (seen[chosen] == ids[chosen]).sum()]
        figures.append(np.array(parts))
    spread = 7 * np.sqrt(figures[1])  # five deviations of a difference of two counts
    assert (np.abs(figures[0] - figures[1]) <= spread).all(), figures


def test_a_row_is_full_of_isolated_pieces(tokenizer: Tokenizer) -> None:
    draw = np.random.default_rng(0)
    ordinary = Vocabulary.of(tokenizer).ordinary
    documents = [[*draw.choice(ordinary, size=draw.integers(1, 60)).tolist(), tokenizer.end_id] for _ in range(80)]
    store = TokenStore.from_documents(documents, end_id=tokenizer.end_id, vocab_size=tokenizer.vocab_size)
    task = MaskedLM(MaskSettings(mask_rate=0.15))
    epoch = task.epoch(store, tokenizer, sequence_length=64, seed=1, epoch=0)
    start, separator = Vocabulary.of(tokenizer).mark(["[CLS]"]), Vocabulary.of(tokenizer).mark(["[SEP]"])
    found: dict[int, list[int]] = {}
    used = 0
    for number in range(len(epoch)):
        row = epoch.row(number)
        assert {len(column) for column in row.values()} == {64}
        original = np.where(row["labels"] != -100, row["labels"], row["input_ids"])
        [names] = epoch.documents(number)
        for piece, document in enumerate(names):
            columns = np.flatnonzero(row["document_ids"] == piece)
            ids = original[columns].tolist()
            assert (ids[0], ids[-1]) == (start, separator)
            assert row["position_ids"][columns].tolist() == list(range(len(ids)))
            found.setdefault(document, []).extend(ids[1:-1])
        used += int((row["document_ids"] >= 0).sum())
    assert {number: sorted(ids) for number, ids in found.items()} == {
        number: sorted(ids[:-1]) for number, ids in enumerate(documents)
    }, "every token of the text is seen once an epoch"
    assert used / (64 * len(epoch)) > 0.97


def test_rows_of_a_batch_are_masked_independently(tokenizer: Tokenizer) -> None:
    task = MaskedLM(MaskSettings(mask_rate=0.5))
    rows = [part for text in ("a" * 40, "b" * 40) for part in task.encode(text, tokenizer)]  # type: ignore[union-attr]
    first, second = task.collate(rows, torch.Generator().manual_seed(1))["labels"] != -100
    assert len(first) == len(second) > 20
    assert (first != second).any()


class Repeating(torch.nn.Module):
    """Guesses, everywhere, the token that it reads."""

    def hidden(self, input_ids: torch.Tensor, **reading: object) -> torch.Tensor:
        return torch.nn.functional.one_hot(input_ids, 400).float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return 20 * hidden


def test_accuracy_counts_no_token_that_was_not_hidden(tokenizer: Tokenizer) -> None:
    """Else repeating what stands there would look like a tenth of everything known."""
    task = MaskedLM()
    rows = [features for text in tiny_texts(60) for features in task.encode(text, tokenizer)]  # type: ignore[union-attr]
    batch = task.collate(rows, torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    chosen = batch["labels"] >= 0
    kept = int((batch["input_ids"] == batch["labels"])[chosen].sum())
    assert kept > 10
    found = task.scores(task.predict(Repeating(), batch))
    assert found["accuracy"].value == 0
    assert found["accuracy"].count == int(chosen.sum()) - kept
    assert found["loss"].count == int(chosen.sum())


def test_settings_that_nothing_reads_or_that_contradict() -> None:
    for wrong in ({"span_limit": 3}, {"mask_rate": 0.0}, {"mask_share": 0.8, "random_share": 0.3}, {"span_stop": 0.5}):
        with pytest.raises(SettingsError):
            MaskSettings(**wrong)  # type: ignore[arg-type]
    assert "mask_rate" in fields(MaskSettings)
