"""Every kind of tokenizer, and tokenizers of Hugging Face files, pass one battery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, pre_tokenizers

from tiny_sentencepiece import model
from tiny_tokenizers import KINDS, SENTENCES, corpus, tiny
from wenlu.core.errors import TokenizerError
from wenlu.tokenization.tokenizer import END_TOKEN, PAD_TOKEN, Tokenizer, TokenizerSettings

TEXTS = [
    *SENTENCES,
    "",
    " ",
    "\n\n  two blanks  between  ",
    "汉字𠀀𪚥e\u0301 👨‍👩‍👧‍👦 \u200f עברית",
    "\x00\ufeff\ufffd\x7f",
]


def sentencepiece_like(directory: Path) -> Path:
    """A foreign Unigram whose model lists its special tokens among its pieces, with a byte fallback, as T5's does."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("s", -4.0), ("<", -5.0)]
    vocab += [(letter, -6.0) for letter in "abcdefghijklmnopqrtuvwxyz>/|字"]
    vocab += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    library = LibraryTokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=True))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    library.add_special_tokens(["<pad>", "</s>", "<unk>"])
    library.enable_truncation(3)
    library.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    return directory


def bert_like(directory: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##es", "中", "文", "sep", "[", "]", ",", "."]
    (directory / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return directory


def sentencepiece_file(directory: Path, family: str, name: str) -> Path:
    (directory / name).write_bytes(model(family))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": f"{family}Tokenizer"}))
    return directory


FOREIGN = {
    "sentencepiece": sentencepiece_like,
    "bert": bert_like,
    "T5": lambda directory: sentencepiece_file(directory, "t5", "spiece.model"),
    "Llama": lambda directory: sentencepiece_file(directory, "llama", "tokenizer.model"),
}


@pytest.fixture(params=[*KINDS, *FOREIGN])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    if request.param in FOREIGN:
        return Tokenizer.load(FOREIGN[request.param](tmp_path))
    return tiny(request.param)


@pytest.mark.parametrize("text", TEXTS)
def test_streaming_gives_what_decoding_gives(tokenizer: Tokenizer, text: str) -> None:
    ids = [*tokenizer.encode(text), tokenizer.end_id, *tokenizer.encode(text)]
    stream = tokenizer.stream()
    pieces = [stream.push(id) for id in ids]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


def test_special_tokens_inside_a_text_are_text(tokenizer: Tokenizer) -> None:
    for special in sorted(tokenizer.special_ids - {tokenizer.unknown_id}):
        token = tokenizer.token(special)
        for text in (token, f"a{token}b", f" {token} ", f"字{token}", token * 3, token.upper(), f"the\n{token}\n"):
            assert not tokenizer.special_ids - {tokenizer.unknown_id} & set(tokenizer.encode(text)), text
            assert special not in tokenizer.encode(text), text
            assert special not in tokenizer.encode_batch([text, "x"])[0], text
            assert special not in tokenizer.encode_with_offsets(text).ids, text


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "saved")
    loaded = Tokenizer.load(tmp_path / "saved")
    assert loaded.fingerprint == tokenizer.fingerprint
    same = ("kind", "vocab_size", "end_id", "pad_id", "unknown_id", "special_ids")
    assert {name: getattr(loaded, name) for name in same} == {name: getattr(tokenizer, name) for name in same}
    for text in [*TEXTS, END_TOKEN, "</s>", "[SEP]"]:
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.encode_with_offsets(text) == tokenizer.encode_with_offsets(text)


def test_batches_single_texts_and_offsets_have_the_same_ids(tokenizer: Tokenizer) -> None:
    singles = [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS) == singles
    assert [tokenizer.encode_with_offsets(text).ids for text in TEXTS] == singles
    assert max(max(ids, default=0) for ids in singles) < tokenizer.vocab_size


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_lie_in_the_text_and_do_not_go_back(tokenizer: Tokenizer, text: str) -> None:
    encoding = tokenizer.encode_with_offsets(text)
    starts = [start for start, _ in encoding.offsets]
    assert all(0 <= start <= end <= len(text) for start, end in encoding.offsets)
    assert starts == sorted(starts)
    assert len(encoding.ids) == len(encoding.tokens) == len(encoding.offsets)


def test_a_lone_surrogate_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError) as caught:
        tokenizer.encode_batch(["good", "ba\ud800d"], where=["a.txt:1", "a.txt:7"])
    assert caught.value.id == "tokenization.surrogate"
    assert caught.value.values == {"where": "a.txt:7", "position": 2, "found": "U+D800"}
    for call in (tokenizer.encode, tokenizer.encode_with_offsets):
        with pytest.raises(TokenizerError, match="lone surrogate"):
            call("\udfff")


def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    for wrong in (-1, tokenizer.vocab_size, 2**40):
        with pytest.raises(TokenizerError, match="no token with this id"):
            tokenizer.decode([tokenizer.end_id, wrong])
        with pytest.raises(TokenizerError, match="no token with this id"):
            tokenizer.stream().push(wrong)


def test_special_tokens_are_hidden_unless_kept_and_the_unknown_is_shown(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the")
    end = tokenizer.token(tokenizer.end_id)
    assert tokenizer.decode([*ids, tokenizer.end_id]) == tokenizer.decode(ids)
    assert end in tokenizer.decode([*ids, tokenizer.end_id], keep_special=True)
    stream = tokenizer.stream(keep_special=True)
    shown = "".join(stream.push(id) for id in [*ids, tokenizer.end_id]) + stream.finish()
    assert shown == tokenizer.decode([*ids, tokenizer.end_id], keep_special=True)
    if tokenizer.unknown_id is not None:
        assert tokenizer.token(tokenizer.unknown_id) in tokenizer.decode([*ids, tokenizer.unknown_id])


def test_token_bytes_are_what_a_token_adds_to_a_text(tokenizer: Tokenizer) -> None:
    for text in ("the quick", "字 the"):
        ids = tokenizer.encode(text)
        parts = [tokenizer.token_bytes(id) for id in ids]
        if all(part is not None for part in parts):
            found = b"".join(part for part in parts if part is not None)
            assert found.removeprefix(b" ") == text.encode()  # SentencePiece begins a text with a space
    assert tokenizer.token_bytes(tokenizer.end_id) is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unigram"])
def test_the_same_texts_give_the_same_tokenizer(kind: str) -> None:
    settings = TokenizerSettings(kind=kind, vocab_size=420)  # type: ignore[arg-type]
    assert len({Tokenizer.train(corpus(), settings).fingerprint for _ in range(3)}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_keeps_its_size_and_its_special_tokens(kind: str) -> None:
    settings = TokenizerSettings(kind=kind, vocab_size=400, special_tokens=("[MASK]", "<|user|>"))  # type: ignore[arg-type]
    tokenizer = Tokenizer.train(corpus(), settings)
    assert tokenizer.vocab_size <= 400
    assert (tokenizer.token(tokenizer.end_id), tokenizer.token(tokenizer.pad_id)) == (END_TOKEN, PAD_TOKEN)
    unknown = () if kind == "bpe" else ("[UNK]",)
    names = [tokenizer.token(id) for id in sorted(tokenizer.special_ids)]
    assert names == [END_TOKEN, PAD_TOKEN, *unknown, "[MASK]", "<|user|>"]
    assert not {"[MASK]", "<|user|>"} & {tokenizer.token(id) for id in tokenizer.encode("[MASK] a<|user|>b")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_that_text_can_become_is_refused(kind: str) -> None:
    settings = TokenizerSettings(kind=kind, vocab_size=420, special_tokens=("the",))  # type: ignore[arg-type]
    if kind == "characters":
        settings = TokenizerSettings(kind="characters", vocab_size=420, special_tokens=("t",))
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.train([*corpus(), *["the"] * 50], settings)
    assert caught.value.id == "tokenization.special_is_text"
