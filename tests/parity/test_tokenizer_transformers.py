"""Ids and texts against transformers: our saved directories in its AutoTokenizer, its directories in ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, BertTokenizer, GPT2Tokenizer, Qwen2Tokenizer, RobertaTokenizer

from chat_templates import encode_marked
from tiny_tokenizers import KINDS, SENTENCES, corpus, tiny
from wenlu.tokenization.tokenizer import END_TOKEN, Tokenizer, TokenizerSettings

TEXTS = [
    *SENTENCES,
    "  blanks   at both ends  ",
    "A\u0300 ＡＢＣ ﬁ 👩‍💻 \n\n\tx",
    "it's 2026, we'LL see… “quotes” 、。",
    "a  \n b \r\n\r\n c",
]
SPECIALS = [f"one {END_TOKEN} two", "[UNK] [MASK]", f"{END_TOKEN}"]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_directories_give_transformers_the_same_ids_and_texts(kind: str, tmp_path: Path) -> None:
    ours = tiny(kind)  # type: ignore[arg-type]
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.end_id, ours.pad_id)
    assert theirs.unk_token_id == ours.unknown_id
    assert len(theirs) == ours.vocab_size
    for text in TEXTS:
        ids = ours.encode(text)
        encoded = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        assert encoded["input_ids"] == ids
        assert theirs.decode([*ids, ours.end_id]) == ours.decode([*ids, ours.end_id], keep_special=True)
        if kind != "wordpiece":  # there our spans take in the marks that belong to a letter
            assert encoded["offset_mapping"] == ours.encode_with_offsets(text).offsets
    for text in SPECIALS:
        assert theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ours.encode(text)


@pytest.mark.parametrize("normalization", ["nfc", "nfkc"])
def test_normalized_directories_give_transformers_the_same_ids(normalization: str, tmp_path: Path) -> None:
    settings = TokenizerSettings(vocab_size=420, normalization=normalization, lowercase=True)  # type: ignore[arg-type]
    ours = tiny("bpe", settings)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS] == ours.encode_batch(TEXTS)


def test_further_special_tokens_are_known_to_transformers(tmp_path: Path) -> None:
    ours = Tokenizer.train(corpus(), TokenizerSettings(vocab_size=420, special_tokens=("[MASK]", "<|user|>")))
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.mask_token == "[MASK]"
    assert set(theirs.all_special_ids) == ours.special_ids
    assert Tokenizer.load(tmp_path).special_ids == ours.special_ids


def _byte_level_files(directory: Path, *, end: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """vocab.json and merges.txt as GPT-2 and Qwen2 ship them."""
    trained = Tokenizer.train(corpus(), TokenizerSettings(vocab_size=420))
    trained.save(directory / "trained")
    model = json.loads((directory / "trained" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    pieces = [piece for piece in model["vocab"] if not piece.startswith("<|")]
    vocab = {piece: id for id, piece in enumerate([*pieces, end])}
    merges = [tuple(merge) for merge in model["merges"]]
    (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return vocab, merges


def test_gpt2_files_give_the_ids_of_transformers(tmp_path: Path) -> None:
    vocab, merges = _byte_level_files(tmp_path, end=END_TOKEN)
    theirs = GPT2Tokenizer(vocab=vocab, merges=merges)
    ours = Tokenizer.load(tmp_path)
    assert ours.kind == "bpe"
    assert ours.end_id == ours.pad_id == vocab[END_TOKEN]
    assert [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS] == ours.encode_batch(TEXTS)
    assert theirs("a<|endoftext|>b", split_special_tokens=True)["input_ids"] == ours.encode("a<|endoftext|>b")
    assert all(ours.round_trips(text) for text in TEXTS)


def test_qwen2_files_give_the_ids_of_transformers(tmp_path: Path) -> None:
    vocab, merges = _byte_level_files(tmp_path, end=END_TOKEN)
    theirs = Qwen2Tokenizer(vocab=vocab, merges=merges)
    theirs.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    added = {
        str(id): {"content": token.content, "special": token.special, "normalized": token.normalized}
        for id, token in theirs.added_tokens_decoder.items()
    }
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours = Tokenizer.load(tmp_path)
    assert (ours.token(ours.end_id), ours.end_id) == ("<|im_end|>", theirs.convert_tokens_to_ids("<|im_end|>"))
    assert [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS] == ours.encode_batch(TEXTS)
    assert ours.vocab_size == len(theirs)


@pytest.mark.parametrize("lowercase", [True, False])
def test_bert_files_give_the_ids_and_offsets_of_transformers(lowercase: bool, tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyzADT", "the", "quick", "dog"]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + [
        "##es",
        *"学而时习之模型读文本，。",
        ",",
        ".",
        "'",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    theirs = BertTokenizer(vocab={piece: id for id, piece in enumerate(pieces)}, do_lower_case=lowercase)
    ours = Tokenizer.load(tmp_path)
    assert (ours.kind, ours.end_id, ours.pad_id, ours.unknown_id) == ("wordpiece", 3, 0, 1)
    for text in TEXTS:
        encoded = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        assert encoded["input_ids"] == ours.encode(text)
        if "\u0300" not in text:
            assert encoded["offset_mapping"] == ours.encode_with_offsets(text).offsets
    assert (ours.cls_id, ours.sep_id) == (None, None)  # no file names them
    assert ours.mask_id == theirs.mask_token_id  # which is known by its name
    theirs.save_pretrained(tmp_path / "saved")
    saved = Tokenizer.load(tmp_path / "saved")
    assert (saved.cls_id, saved.sep_id, saved.mask_id) == (2, 3, 4)
    for text, other in zip(TEXTS, reversed(TEXTS), strict=True):
        for tokenizer in (ours, saved):
            first, second = tokenizer.encode(text), tokenizer.encode(other)
            assert tokenizer.with_special_tokens(first).ids == theirs(text)["input_ids"]
            pair = tokenizer.with_special_tokens(first, second)
            expected = theirs(text, other)
            assert (pair.ids, pair.segments) == (expected["input_ids"], expected["token_type_ids"])
            assert tokenizer.template.num_special == (2, 3)
    assert encode_marked(saved, "the [MASK]") == theirs("the [MASK]", add_special_tokens=False)["input_ids"]
    assert 4 not in saved.encode("the [MASK]")


def test_a_directory_saved_by_transformers_gives_its_ids(tmp_path: Path) -> None:
    vocab, merges = _byte_level_files(tmp_path, end=END_TOKEN)
    theirs = GPT2Tokenizer(vocab=vocab, merges=merges)
    theirs.add_tokens([AddedToken("<tool>", special=False)])
    theirs.save_pretrained(tmp_path / "saved")
    ours = Tokenizer.load(tmp_path / "saved")
    assert [theirs(text)["input_ids"] for text in [*TEXTS, "a <tool> b"]] == ours.encode_batch([*TEXTS, "a <tool> b"])
    ours.save(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again")("a <tool> b")["input_ids"] == ours.encode("a <tool> b")


def test_roberta_files_give_the_ids_and_special_tokens_of_transformers(tmp_path: Path) -> None:
    vocab, merges = _byte_level_files(tmp_path, end="</s>")
    vocab |= {token: len(vocab) + number for number, token in enumerate(("<s>", "<pad>", "<unk>", "<mask>"))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    theirs = RobertaTokenizer(vocab=vocab, merges=merges, mask_token=AddedToken("<mask>", lstrip=True, special=True))
    theirs.save_pretrained(tmp_path / "saved")
    for place in (tmp_path, tmp_path / "saved"):
        ours = Tokenizer.load(place)
        assert (ours.end_id, ours.pad_id) == (theirs.eos_token_id, theirs.pad_token_id)
        for text, other in zip(TEXTS, reversed(TEXTS), strict=True):
            first, second = ours.encode(text), ours.encode(other)
            assert ours.with_special_tokens(first).ids == theirs(text)["input_ids"]
            pair = ours.with_special_tokens(first, second)
            assert pair.ids == theirs(text, other)["input_ids"]
            assert set(pair.segments) == {0}
        assert encode_marked(ours, "a <mask> b") == theirs("a <mask> b", add_special_tokens=False)["input_ids"]


CHATS = [
    {"chat_template.jinja": "{{ messages }} 你好"},
    {"tokenizer_config.json": json.dumps({"chat_template": "{{ messages }} 你好", "bos_token": "<s>"})},
    {
        "tokenizer_config.json": json.dumps(
            {
                "chat_template": [
                    {"name": "rag", "template": "r"},
                    {"name": "default", "template": "{{ messages }} 你好"},
                ]
            }
        )
    },
]


@pytest.mark.parametrize("files", CHATS)
def test_the_chat_template_is_kept(files: dict[str, str], tmp_path: Path) -> None:
    tiny("bpe").save(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    ours = Tokenizer.load(tmp_path)
    assert ours.chat_template == "{{ messages }} 你好"
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").chat_template == ours.chat_template
    theirs = [AutoTokenizer.from_pretrained(place).chat_template for place in (tmp_path, tmp_path / "again")]
    assert theirs[0] == theirs[1]
    assert tiny("bpe").chat_template is None


def test_tokens_around_a_text_are_what_the_config_asks_for(tmp_path: Path) -> None:
    tiny("bpe").save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {"add_bos_token": True, "bos_token": END_TOKEN}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert Tokenizer.load(tmp_path).with_special_tokens([5]).ids == [5]  # what tokenizer.json says counts
    assert AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"] == Tokenizer.load(tmp_path).encode("a")
    files, config["tokenizer_class"] = tmp_path / "files", "GPT2Tokenizer"
    files.mkdir()
    _byte_level_files(files, end=END_TOKEN)
    (files / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours, theirs = Tokenizer.load(files), AutoTokenizer.from_pretrained(files)
    found = ours.with_special_tokens(ours.encode("a text"), ours.encode("文本"))
    assert found.ids == theirs("a text", "文本")["input_ids"]
    assert found.ids.count(ours.end_id) == 2
    assert tiny("bpe").with_special_tokens([5, 6], [7]).ids == [5, 6, 7]
