"""Tokenizer directories that are missing, broken or of another kind; long texts; forks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models

from skips import needs_posix
from tiny_tokenizers import KINDS, tiny
from wenlu.core.errors import TokenizerError
from wenlu.tokenization import longtext
from wenlu.tokenization.parallelism import VARIABLE
from wenlu.tokenization.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("files", "id"),
    [
        (None, "no_directory"),
        ({}, "no_files"),
        ({"vocab.json": "{}"}, "no_files"),
        ({"spiece.model": "x"}, "unreadable"),
        (
            {"tokenizer.json": "{}", "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["x.X", null]}}'},
            "remote_code",
        ),
        ({"tokenizer.json": "{"}, "unreadable"),
        ({"tokenizer.json": "{}"}, "unreadable"),
        ({"tokenizer.json": "\udcff"}, "unreadable"),
        ({"vocab.json": "{", "merges.txt": ""}, "unreadable"),
        ({"vocab.txt": "a\nb\n", "tokenizer_config.json": "[1]"}, "unreadable"),
        ({"vocab.txt": "a\nb\n", "tokenizer_config.json": "{"}, "unreadable"),
        ({"vocab.txt": "a\nb\n[UNK]\n"}, "no_end_token"),
        ({"tokenizer.json": json.dumps({"version": "1.0", "model": {"type": "Magic"}})}, "unreadable"),
    ],
)
def test_bad_directories_are_refused(files: dict[str, str] | None, id: str, tmp_path: Path) -> None:
    directory = tmp_path / "tokenizer"
    if files is not None:
        directory.mkdir()
        for name, content in files.items():
            (directory / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(directory)
    assert caught.value.id == f"tokenization.{id}"
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize("merges", [[("a", "##b"), ("a", "b")], ["a ##b", "a b"]])
def test_merges_that_the_library_would_cut_are_refused(merges: list[object], tmp_path: Path) -> None:
    """It panics, which is no Exception, or inside a letter of several bytes ends the process."""
    model = {"type": "BPE", "continuing_subword_prefix": "##", "vocab": {"a": 0, "##b": 1, "ab": 2, "b": 3, "</s>": 4}}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "model": model | {"merges": merges[:1]}}), encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>"}), encoding="utf-8")
    assert Tokenizer.load(tmp_path).encode("ab") == [2]
    path.write_text(json.dumps({"version": "1.0", "model": model | {"merges": merges}}), encoding="utf-8")
    with pytest.raises(TokenizerError, match="continuing_subword_prefix") as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.id == "tokenization.unreadable"


def test_a_tokenizer_without_an_unknown_token_and_end_is_loaded_by_its_config(tmp_path: Path) -> None:
    library = LibraryTokenizer(models.WordLevel({"a": 0, "stop": 1, "[UNK]": 2}, unk_token="[UNK]"))
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "stop"}}))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.end_id, tokenizer.pad_id, tokenizer.unknown_id) == (1, 1, 2)
    assert tokenizer.encode("stop") != [1]  # the word is text, although the vocabulary has it


def test_truncation_and_padding_of_a_file_are_not_obeyed(tmp_path: Path) -> None:
    tiny("bpe").save(tmp_path)
    library = LibraryTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.enable_truncation(2)
    library.enable_padding(length=9)
    library.save(str(tmp_path / "tokenizer.json"))
    text = "学而时习之 the quick brown fox"
    assert Tokenizer.load(tmp_path).encode_batch([text, "a"]) == tiny("bpe").encode_batch([text, "a"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("character", ["a", " ", "的", "😀", "学而，the fox. "])
def test_long_runs_have_the_ids_that_the_library_gives(kind: str, character: str, tmp_path: Path) -> None:
    tokenizer = tiny(kind)  # type: ignore[arg-type]
    tokenizer.save(tmp_path)
    library = LibraryTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = character * (100_000 // len(character))
    assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("的，", "\nx"), ("a", "b"), ("1", "，"), ("\n", ""), ("", "\n")]
)
@pytest.mark.parametrize("blank", [" ", "\u3000", "\t"])
def test_very_long_blanks_have_the_ids_that_the_library_gives(
    before: str, after: str, blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longtext, "LONGEST_BLANKS", 20_000)
    tokenizer = tiny("bpe")
    text = before + blank * 20_001 + after
    assert tokenizer.encode(text) == tokenizer.encode_with_offsets(text).ids


def test_where_the_library_gives_up_blanks_still_come_back() -> None:
    tokenizer = tiny("bpe")
    text = "a" + " " * 10_000_001 + "b"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text


def test_forked_children_encode_on_one_thread_and_without_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    needs_posix()
    tokenizer = tiny("bpe")
    texts = ["学而时习之 the fox"] * 100
    expected = tokenizer.encode_batch(texts)
    before = os.environ.get(VARIABLE)
    child = os.fork()
    if child == 0:
        os._exit(0 if tokenizer.encode_batch(texts) == expected and os.environ[VARIABLE] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert os.environ.get(VARIABLE) == before
    assert "forked" not in capfd.readouterr().err
