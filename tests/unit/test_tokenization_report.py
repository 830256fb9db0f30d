"""Comparison of tokenizers, against counts worked out by hand."""

from __future__ import annotations

from tiny_tokenizers import tiny
from wenlu.tokenization.report import ALL, compare, facts

TEXTS = ["学而时习之", "the fox and the dog", "学而 龘", "12 45"]


def test_counts_by_language() -> None:
    results = compare({"characters": tiny("characters"), "bytes": tiny("bpe")}, iter(TEXTS))
    tallies = results["characters"]
    assert list(tallies) == ["zh", "en", "other", ALL]
    chinese = tallies["zh"]
    assert (chinese.documents, chinese.characters, chinese.bytes, chinese.tokens) == (2, 9, 25, 9)
    assert (chinese.unknown_tokens, chinese.round_trip_failures) == (1, 1)
    assert chinese.first_failure == "学而 龘"
    assert chinese.characters_per_token == 1
    assert chinese.bytes_per_token == 25 / 9
    assert (tallies[ALL].documents, tallies[ALL].tokens) == (4, sum(map(len, TEXTS)))
    assert tallies[ALL].first_failure == "学而 龘"
    bytes_level = results["bytes"][ALL]
    assert (bytes_level.unknown_tokens, bytes_level.round_trip_failures, bytes_level.first_failure) == (0, 0, None)
    assert bytes_level.tokens == sum(len(tiny("bpe").encode(text)) for text in TEXTS)


def test_no_text_gives_empty_rows_and_not_an_error() -> None:
    results = compare({"a": tiny("bpe")}, [])
    assert results["a"][ALL].documents == 0
    assert results["a"][ALL].bytes_per_token == 0


def test_facts_of_a_vocabulary() -> None:
    found = facts(tiny("words"))
    assert (found.kind, found.vocab_size) == ("words", tiny("words").vocab_size)
    assert found.special_tokens == {"<|endoftext|>": 0, "<|pad|>": 1, "[UNK]": 2}
    assert sum(found.tokens_by_script.values()) == found.vocab_size - 3
    assert found.tokens_by_script["zh"] > 20
    assert len(found.longest_tokens) == 10
    assert len(found.longest_tokens[0]) == max(len(tiny("words").token(id)) for id in tiny("words").ids() if id > 2)
