"""What training reads: bounded, thinned evenly, cut at overlong runs; and what it refuses."""

from __future__ import annotations

import random

import pytest

from tiny_tokenizers import corpus
from wenlu.core.errors import SettingsError, TokenizerError
from wenlu.tokenization import training
from wenlu.tokenization.kinds import TokenizerSettings
from wenlu.tokenization.tokenizer import Tokenizer
from wenlu.tokenization.training import LONGEST_RUN, Sample, cut_long_runs


@pytest.mark.parametrize(
    "text", ["a" * 100_000, " " * 100_000, "的" * 100_000, "😀" * 100_000, "ab 的。\n" * 20_000, ""]
)
def test_pieces_are_the_whole_text_and_no_run_is_too_long(text: str) -> None:
    pieces = list(cut_long_runs(text))
    assert "".join(pieces) == text
    longest = LONGEST_RUN if len(set(text)) == 1 else 16 * LONGEST_RUN * LONGEST_RUN
    assert all(len(piece) <= longest for piece in pieces)


def test_ordinary_text_is_not_cut() -> None:
    text = "学而时习之，不亦说乎？The quick brown fox.\n" * 1000
    assert list(cut_long_runs(text)) == [text]


def test_everything_is_kept_up_to_the_limit() -> None:
    sample = Sample(10_000)
    texts = [f"text {number} 文本" for number in range(100)]
    for text in texts:
        sample.add(text, where="x")
    assert list(sample.chunks()) == texts
    assert sample.kept_bytes == sample.seen_bytes == sum(len(text.encode()) for text in texts)


def test_beyond_the_limit_texts_are_thinned_evenly_and_independently_of_their_order() -> None:
    texts = [f"text number {number} " * 5 for number in range(4000)]
    first, second = Sample(40_000), Sample(40_000)
    for text in texts:
        first.add(text, where="x")
    for text in random.Random(0).sample(texts, len(texts)):
        second.add(text, where="x")
    kept = list(first.chunks())
    assert sorted(kept) == sorted(second.chunks())
    assert 15_000 < first.kept_bytes <= 40_000 < first.seen_bytes
    places = [texts.index(text) for text in kept]
    quarters = [sum(place // 1000 == quarter for place in places) for quarter in range(4)]
    assert min(quarters) > len(kept) / 8, quarters


def test_one_huge_text_is_thinned_in_chunks() -> None:
    sample = Sample(100_000)
    sample.add(" ".join(str(number) for number in range(200_000)), where="x")
    assert 20_000 < sample.kept_bytes <= 100_000
    assert all(len(chunk) <= training.CHUNK_CHARACTERS for chunk in sample.chunks())


def test_thinning_equal_texts_leaves_one() -> None:
    sample = Sample(40_000)
    for number in range(3):
        sample.add("的" * 100_000, where=str(number))
    assert sample.seen_bytes == 900_000 and 0 < sample.kept_bytes <= 49_152
    assert set("".join(sample.chunks())) == {"的"}


def test_thinning_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="wenlu"):
        Tokenizer.train(
            [f"{text} {n}" for n in range(50) for text in corpus()], TokenizerSettings(max_training_bytes=9000)
        )
    assert any("thinned out evenly" in record.getMessage() for record in caplog.records)
    assert any("enough for" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_rare_characters_leave_room_for_pieces(kind: str) -> None:
    rare = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 3000))
    texts = ["the reader reads the text again and again, 读文本读文本。"] * 2000 + [rare]
    tokenizer = Tokenizer.train(texts, TokenizerSettings(kind=kind, vocab_size=200))  # type: ignore[arg-type]
    assert tokenizer.vocab_size <= 200
    assert tokenizer.unknown_id in tokenizer.encode(chr(0x4E00 + 2999))
    assert tokenizer.unknown_id not in tokenizer.encode("the reader 读文本")


def test_wordpiece_pieces_use_the_continuation_mark() -> None:
    tokenizer = Tokenizer.train(["reading reader reads"] * 30, TokenizerSettings(kind="wordpiece", vocab_size=32))
    tokens = [tokenizer.token(id) for id in tokenizer.encode("reading readers")]
    assert "".join(tokens).replace("##", "") == "readingreaders"
    assert tokenizer.decode(tokenizer.encode("reading reads")) == "reading reads"


@pytest.mark.parametrize(
    ("texts", "settings", "id"),
    [
        ([], TokenizerSettings(), "tokenization.no_text"),
        (["", ""], TokenizerSettings(kind="words"), "tokenization.no_text"),
        (["text"], TokenizerSettings(vocab_size=257), "tokenization.vocab_too_small"),
        (["text"], TokenizerSettings(kind="characters", vocab_size=3), "tokenization.vocab_too_small"),
        (["text"], TokenizerSettings(vocab_size=-5), "tokenization.vocab_too_small"),
        (["text"], TokenizerSettings(min_frequency=-1), "tokenization.training_failed"),
    ],
)
def test_what_cannot_be_trained_is_refused(texts: list[str], settings: TokenizerSettings, id: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.train(texts, settings)
    assert caught.value.id == id
    assert str(caught.value)


def test_a_setting_that_unigram_does_not_read_is_refused() -> None:
    with pytest.raises(SettingsError, match="min_frequency"):
        Tokenizer.train(corpus(), TokenizerSettings(kind="unigram", min_frequency=5))


def test_a_surrogate_is_refused_with_the_number_of_its_text() -> None:
    long = "a " * training.CHUNK_CHARACTERS
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.train(["good", f"{long}\udc00"], TokenizerSettings())
    assert caught.value.values == {"where": "2", "position": len(long), "found": "U+DC00"}
