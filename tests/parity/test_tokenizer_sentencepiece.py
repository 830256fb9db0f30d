"""SentencePiece files against their own package and transformers: the same ids on Chinese and English text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import transformers
from transformers import AutoTokenizer

from tiny_sentencepiece import is_tied, lines, model
from wenlu.core.errors import TokenizerError
from wenlu.tokenization import hf
from wenlu.tokenization.tokenizer import Tokenizer

# Rows of one repeated character have several best segmentations; which one is taken is nobody's promise. The names of
# special tokens are text to the package and to us, and tokens to transformers: they stand in DIFFICULT.
UNFIT = re.compile(r"(\W)\1{3}|<[a-z/_0-9]+>|\[[A-Z]+\]")
TEXTS = [line for language in ("en", "zh") for line in lines(language) if not UNFIT.search(line)][::3]
DIFFICULT = [
    "",
    " ",
    "  a  b ",
    "a\tb\nc",
    "ＡＢＣ ﬁ x",
    "𠀀 unknown ☃ é",
    "<b>bold</b>\n\n\nx",
    "123,456 9,",
    "</s> <unk> <s>",
]
FILES = {
    "t5": "spiece.model",
    "albert": "spiece.model",
    "xlmroberta": "sentencepiece.bpe.model",
    "llama": "tokenizer.model",
    "gemma": "tokenizer.model",
}
CONFIGS: dict[str, dict[str, object]] = {
    "t5": {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    "albert": {"tokenizer_class": "AlbertTokenizer", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "<pad>"},
    "xlmroberta": {"tokenizer_class": "XLMRobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>"},
    "llama": {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
    "gemma": {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>"},
}


def directory_of(family: str, folder: Path) -> Path:
    (folder / FILES[family]).write_bytes(model(family))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIGS[family]), encoding="utf-8")
    return folder


def own_ids(family: str) -> Callable[[str], list[int]]:
    """What the package itself gives, counted as the family counts."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model(family))
    if family == "xlmroberta":
        return lambda text: [id + 1 if id else 3 for id in processor.encode(text)]
    return processor.encode


@pytest.mark.parametrize("family", [name for name in FILES if name != "albert"])  # which changes the text before
def test_the_package_gives_the_same_ids_and_texts(family: str, tmp_path: Path) -> None:
    ours, ids_of = Tokenizer.load(directory_of(family, tmp_path)), own_ids(family)
    untied = [text for text in TEXTS if not is_tied(family, text)]
    assert len(untied) > 0.9 * len(TEXTS)
    for text in [*untied, *DIFFICULT]:
        assert ours.encode(text) == ids_of(text), text
    processor = sentencepiece.SentencePieceProcessor(model_proto=model(family))
    known = [text for text in untied if processor.unk_id() not in processor.encode(text)]
    assert len(known) > 100
    assert [ours.decode(ours.encode(text)) for text in known] == [processor.decode(processor.encode(t)) for t in known]


@pytest.mark.parametrize("family", FILES)
def test_transformers_gives_the_same_ids_with_special_tokens(family: str, tmp_path: Path) -> None:
    directory_of(family, tmp_path)
    theirs = getattr(transformers, str(CONFIGS[family]["tokenizer_class"])).from_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    for text, other in zip(TEXTS, reversed(TEXTS), strict=True):
        if is_tied(family, text) or is_tied(family, other):
            continue
        if not text or not other or " " in (text[0], other[0]) or "<unk>" in text + other:  # where theirs differs from
            continue  # the package: a blank at the start is doubled, and <unk> in a text is no text
        first, second = ours.encode(text), ours.encode(other)
        assert ours.with_special_tokens(first).ids == theirs(text, split_special_tokens=True)["input_ids"], text
        pair = theirs(text, other, split_special_tokens=True, return_token_type_ids=True)
        found = ours.with_special_tokens(first, second)
        assert (found.ids, found.segments) == (pair["input_ids"], pair["token_type_ids"]), text


@pytest.mark.parametrize("family", FILES)
def test_what_we_save_gives_the_same_ids_here_and_there(family: str, tmp_path: Path) -> None:
    ours = Tokenizer.load(directory_of(family, tmp_path))
    ours.save(tmp_path / "saved")
    again, theirs = Tokenizer.load(tmp_path / "saved"), AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in [*TEXTS[::4], *DIFFICULT]:
        expected = ours.with_special_tokens(ours.encode(text)).ids
        assert again.with_special_tokens(again.encode(text)).ids == expected
        assert theirs(text, split_special_tokens=True)["input_ids"] == expected or "</s>" in text
    again.save(tmp_path / "again")
    for path in (tmp_path / "saved").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def marian_directory(folder: Path) -> Path:
    sides = {}
    for side in ("source", "target"):
        (folder / f"{side}.spm").write_bytes(model(side))
        processor = sentencepiece.SentencePieceProcessor(model_proto=model(side))
        sides[side] = [processor.id_to_piece(id) for id in range(3, processor.get_piece_size())]
    tokens = ["</s>", "<unk>", *dict.fromkeys([*sides["target"], *sides["source"]]), ">>eng<<", "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({token: id for id, token in enumerate(tokens)}), encoding="utf-8")
    config = {"tokenizer_class": "MarianTokenizer", "source_lang": "zh", "target_lang": "en"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian_counts_two_files_by_one_list(tmp_path: Path) -> None:
    theirs = transformers.MarianTokenizer.from_pretrained(marian_directory(tmp_path))
    source = Tokenizer.load(tmp_path)
    source.save(tmp_path / "saved")
    for place in (tmp_path, tmp_path / "saved"):
        source, target = Tokenizer.load(place), Tokenizer.load(place, side="target")
        sides = {side: [text for text in TEXTS[::2] if not is_tied(side, text)] for side in ("source", "target")}
        assert min(map(len, sides.values())) > 0.9 * len(TEXTS[::2])
        for text in [*sides["source"], ">>eng<< 文本"]:
            assert source.with_special_tokens(source.encode(text)).ids == theirs(text)["input_ids"], text
        for text in sides["target"]:
            ids = theirs(text_target=text)["input_ids"]
            assert target.with_special_tokens(target.encode(text)).ids == ids, text
    assert (source.pad_id, source.end_id, source.vocab_size) == (theirs.pad_token_id, theirs.eos_token_id, len(theirs))
    again = transformers.MarianTokenizer.from_pretrained(tmp_path / "saved")
    assert again("文本 text")["input_ids"] == theirs("文本 text")["input_ids"]


@pytest.mark.parametrize(
    ("trained", "id"),
    [({"model_type": "char"}, "sentencepiece_kind"), ({"treat_whitespace_as_suffix": True}, "sentencepiece_kind")],
)
def test_other_kinds_are_refused(trained: dict[str, object], id: str, tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines("en")[:200]),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=2,
        **trained,
    )
    with pytest.raises(TokenizerError) as refused:
        Tokenizer.load(tmp_path)
    assert refused.value.id == f"tokenization.{id}"
    assert "spiece.model" in str(refused.value)


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory_of("t5", tmp_path)
    for name in ("sentencepiece", "sentencepiece.sentencepiece_model_pb2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TokenizerError) as refused:
        hf.read(tmp_path)
    assert 'pip install "wenlu[hf]"' in str(refused.value)
