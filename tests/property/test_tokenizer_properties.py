"""What holds for any text: losslessness, offsets, streaming, long texts in pieces."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_tokenizers import KINDS, tiny
from wenlu.tokenization import longtext
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings

PARTS = st.sampled_from(
    [
        *"the fox 学而时习之，。？！ab12 \n\t",
        "  ",
        "don't",
        "👨‍👩‍👧‍👦",
        "👍🏽",
        "🇨🇳",
        "e\u0301",
        "ﬁ",
        "Å",
        "ㄱ\u1161",
        "１２",
        "㍿",
        "\u200d",
        "\ufe0f",
        "𠀀",
        "<|endoftext|>",
        "[UNK]",
        "##",
        "▁",
        "Ġ",
        "\r\n",
        "\u3000",
        "\x1c",
        "\u0338",
    ]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(PARTS, max_size=40).map("".join))
MANY = settings(max_examples=300, deadline=None)
SOME = settings(max_examples=60, deadline=None)


@MANY
@given(TEXTS)
def test_byte_level_bpe_loses_nothing(text: str) -> None:
    tokenizer = tiny("bpe")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.round_trips(text, ids)
    assert b"".join(tokenizer.token_bytes(id) or b"" for id in ids) == text.encode("utf-8")


@MANY
@given(TEXTS)
def test_byte_level_offsets_are_the_characters_whose_bytes_a_token_holds(text: str) -> None:
    tokenizer = tiny("bpe")
    encoding = tokenizer.encode_with_offsets(text)
    character_of_byte = [number for number, character in enumerate(text) for _ in character.encode("utf-8")]
    place = 0
    for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        size = len(tokenizer.token_bytes(id) or b"")
        assert (start, end) == (character_of_byte[place], character_of_byte[place + size - 1] + 1)
        place += size
    assert place == len(character_of_byte)


@SOME
@pytest.mark.parametrize("kind", ["words", "characters", "unigram"])
@given(text=TEXTS)
def test_offsets_cut_the_text_without_gap_or_overlap(kind: str, text: str) -> None:
    offsets = tiny(kind).encode_with_offsets(text).offsets  # type: ignore[arg-type]
    assert "".join(text[start:end] for start, end in offsets) == text


@MANY
@given(TEXTS)
def test_under_nfkc_offsets_still_count_the_original_characters(text: str) -> None:
    tokenizer = tiny("bpe", TokenizerSettings(vocab_size=420, normalization="nfkc"))
    encoding = tokenizer.encode_with_offsets(text)
    assert tokenizer.decode(encoding.ids) == unicodedata.normalize("NFKC", text) or _newer_unicode(text)
    reached = 0
    for start, end in encoding.offsets:
        assert reached >= start or not unicodedata.normalize("NFKC", text[reached:start])
        assert 0 <= start < end <= len(text)
        reached = max(reached, end)
    assert reached == len(text) or not unicodedata.normalize("NFKC", text[reached:])


def test_nfkc_offsets_of_known_texts() -> None:
    tokenizer = tiny("bpe", TokenizerSettings(vocab_size=420, normalization="nfkc"))
    assert set(tokenizer.encode_with_offsets("ﬁ").offsets) == {(0, 1)}
    assert set(tokenizer.encode_with_offsets("e\u0301").offsets) == {(0, 2)}  # one composed character
    assert set(tokenizer.encode_with_offsets("\u1100\u1161字").offsets) == {(0, 2), (2, 3)}  # Hangul parts
    assert set(tokenizer.encode_with_offsets("，ﬁ汉").offsets) == {(0, 1), (1, 2), (2, 3)}


@SOME
@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
def test_streamed_text_is_the_decoded_text(kind: str, text: str) -> None:
    tokenizer = tiny(kind)  # type: ignore[arg-type]
    assert _streamed(tokenizer, ids := tokenizer.encode(text)) == tokenizer.decode(ids)


@SOME
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_ids_stream_as_they_decode(kind: str, data: st.DataObject) -> None:
    tokenizer = tiny(kind)  # type: ignore[arg-type]
    ids = data.draw(st.lists(st.sampled_from(tokenizer.ids()), max_size=40))
    assert _streamed(tokenizer, ids) == tokenizer.decode(ids)


@MANY
@given(TEXTS)
def test_no_piece_of_a_stream_ends_in_half_a_character(text: str) -> None:
    tokenizer = tiny("bpe")
    stream = tokenizer.stream()
    so_far = ""
    for id in tokenizer.encode(text):
        so_far += stream.push(id)
        assert text.startswith(so_far)
    assert so_far == text
    assert stream.finish() == ""


@SOME
@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
def test_a_text_in_pieces_has_the_ids_of_the_whole(kind: str, text: str) -> None:
    tokenizer = tiny(kind)  # type: ignore[arg-type]
    repeated = text * 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longtext, "PIECE_CHARACTERS", 5)
        patch.setattr(longtext, "LONGEST_BLANKS", 1)
        in_pieces = tokenizer.encode(repeated)
    assert in_pieces == tokenizer.encode_with_offsets(repeated).ids


def _streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    stream = tokenizer.stream()
    return "".join([stream.push(id) for id in ids]) + stream.finish()


def _newer_unicode(text: str) -> bool:
    """Whether Python's Unicode tables may be newer than the library's, which knows version 9."""
    return any(ord(character) > 0xFFFF or unicodedata.ucd_3_2_0.category(character) == "Cn" for character in text)
