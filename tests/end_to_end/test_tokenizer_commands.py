"""``wenlu tokenizer train | inspect | compare`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forking import fork, kill_self, wait
from skips import needs_posix
from tiny_tokenizers import SENTENCES
from wenlu.cli.main import main
from wenlu.core.publication import verify
from wenlu.tokenization.tokenizer import Tokenizer


def wenlu(*words: str) -> Result:
    return CliRunner().invoke(main, ["tokenizer", *words], prog_name="wenlu")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(SENTENCES * 5), encoding="utf-8")
    return path


def test_train_inspect_and_compare(text: Path, tmp_path: Path) -> None:
    words, bpe = tmp_path / "words", tmp_path / "bpe"
    trained = wenlu("train", str(text), "--kind", "words", "--vocab-size", "300", "-o", str(words))
    assert trained.exit_code == 0, trained.output
    assert "a words tokenizer" in trained.stdout
    record = json.loads(wenlu("train", str(text), "--vocab-size", "400", "-o", str(bpe), "--json").stdout)
    assert (record["kind"], record["vocab_size"]) == ("bpe", 400)
    assert record["fingerprint"] == Tokenizer.load(bpe).fingerprint
    verify(bpe)

    inspected = json.loads(wenlu("inspect", str(bpe), "--json").stdout)
    assert inspected["special_tokens"] == {"<|endoftext|>": 0, "<|pad|>": 1}
    cut = json.loads(wenlu("inspect", str(bpe), "学 <|endoftext|>", "--json").stdout)
    assert cut["round_trips"] is True
    assert 0 not in [token["id"] for token in cut["tokens"]]
    assert cut["tokens"][-1]["end"] == cut["characters"] == 15
    assert "comes back exactly" in wenlu("inspect", str(bpe), "x").stdout

    compared = wenlu("compare", str(words), str(bpe), "--data", str(text), "--document", "blank_line", "--json")
    languages = json.loads(compared.stdout)["tokenizers"][str(bpe)]["languages"]
    assert languages["all"]["round_trip_failures"] == languages["all"]["unknown_tokens"] == 0
    assert {"zh", "en"} <= set(languages)
    table = wenlu("compare", str(words), str(bpe), "--data", str(text)).stdout
    assert table.count(str(bpe)) == 2
    assert "bytes a token" in table


def test_special_tokens_and_normalization_are_settings(text: Path, tmp_path: Path) -> None:
    target = tmp_path / "t"
    options = ("--special-token", "[MASK]", "--normalization", "nfkc", "--lowercase", "--min-frequency", "1")
    result = wenlu("train", str(text), "-o", str(target), "--vocab-size", "400", *options)
    assert result.exit_code == 0, result.output
    tokenizer = Tokenizer.load(target)
    assert tokenizer.decode(tokenizer.encode("ＡＢ ﬁ")) == "ab fi"
    assert {tokenizer.token(id) for id in tokenizer.special_ids} == {"<|endoftext|>", "<|pad|>", "[MASK]"}


def test_an_existing_directory_is_kept_unless_replaced(text: Path, tmp_path: Path) -> None:
    target = tmp_path / "t"
    assert wenlu("train", str(text), "-o", str(target), "--vocab-size", "400").exit_code == 0
    before = (target / "tokenizer.json").read_bytes()
    refused = wenlu("train", str(text), "-o", str(target), "--vocab-size", "300")
    assert refused.exit_code == 2
    assert str(target) in refused.stderr
    assert (target / "tokenizer.json").read_bytes() == before
    assert wenlu("train", str(text), "-o", str(target), "--vocab-size", "300", "--replace").exit_code == 0
    assert Tokenizer.load(target).vocab_size == 300


def test_a_kill_between_the_two_names_of_a_replacement_costs_nothing(text: Path, tmp_path: Path) -> None:
    needs_posix()
    target = tmp_path / "t"
    words = ("train", str(text), "-o", str(target), "--vocab-size")
    assert wenlu(*words, "400").exit_code == 0
    rename = Path.rename

    def move_aside_and_die(path: Path, new: Path) -> None:
        rename(path, new)
        kill_self()

    def replace() -> int:
        Path.rename = move_aside_and_die  # type: ignore[assignment,method-assign]
        return wenlu(*words, "300", "--replace").exit_code

    assert wait(fork(replace)) == -9
    assert not target.exists()
    refused = wenlu(*words, "350")
    assert refused.exit_code == 2 and f"{target} had been moved aside" in refused.stderr
    assert Tokenizer.load(target).vocab_size == 400
    assert wait(fork(replace)) == -9
    replaced = wenlu(*words, "350", "--replace")
    assert replaced.exit_code == 0 and f"{target} had been moved aside" in replaced.stderr
    assert Tokenizer.load(target).vocab_size == 350
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "text.txt"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("inspect", "nowhere"), "there is no such tokenizer directory"),
        (("compare", "nowhere", "--data", "x"), "there is no such tokenizer directory"),
        (("train", "nowhere.txt", "-o", "t"), "nowhere.txt"),
        (("train", "{text}", "-o", "t", "--vocab-size", "20"), "tokenizer.vocab_size"),
        (("train", "{empty}", "-o", "t"), "no text to train"),
        (("train", "{text}", "-o", "t", "--set", "tokenizer.kinds=words"), "kind"),
    ],
)
def test_mistakes_end_with_a_message_and_code_2(
    words: tuple[str, ...], expected: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n", encoding="utf-8")
    result = wenlu(*(word.format(text=text, empty=empty) for word in words))
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "t").exists()


def test_messages_are_chinese_on_request(chinese: None, text: Path) -> None:
    assert "没有这个分词器目录" in wenlu("inspect", "nowhere").stderr
