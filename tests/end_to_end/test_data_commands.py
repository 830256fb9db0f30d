"""``wenlu data inspect`` and ``wenlu data pack`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wenlu import api
from wenlu.cli.main import main


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    rows = [{"text": f"第{number}首。床前明月光，疑是地上霜。<unk>"} for number in range(60)]
    lines = [json.dumps(row, ensure_ascii=False) for row in [*rows, rows[0], {"text": " "}]]
    (folder / "poems.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "README.md").write_text("about", encoding="utf-8")
    (folder / "table.xlsx").write_bytes(b"PK\x03\x04")
    return folder


def test_inspect_pack_and_inspect_again(texts: Path, tmp_path: Path) -> None:
    found = wenlu("data", "inspect", texts, "--json")
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout)
    assert record["duplicates"] == 1 and record["dropped"]["empty"]["documents"] == 1
    assert record["languages"] == {"zh": {"documents": 61, "characters": record["kept"]["characters"]}}
    assert record["skipped_files"]["unknown_format"]["files"] == 1
    assert len(record["examples"]) == 3 and record["problems"] == []

    packed = wenlu("data", "pack", texts, "-o", tmp_path / "store", "--vocab-size", 300)
    assert packed.exit_code == 0, packed.output
    assert "60 documents" in packed.stdout
    for said in ("1 documents dropped (21 characters): equal to an earlier document", "README.md", "table.xlsx"):
        assert said in packed.stderr

    again = wenlu("data", "inspect", tmp_path / "store", "--json")
    assert again.exit_code == 0, again.output
    record = json.loads(again.stdout)
    assert sum(split["documents"] for split in record["splits"].values()) == 60
    assert all(split["not_lossless"] == 0 for split in record["splits"].values())
    assert "by the hash of the text" in wenlu("data", "inspect", tmp_path / "store").stdout


def test_the_same_in_chinese(texts: Path, tmp_path: Path, chinese: None) -> None:
    packed = wenlu("data", "pack", texts, "-o", tmp_path / "store", "--vocab-size", 300)
    assert packed.exit_code == 0 and "已打包到" in packed.stdout and "与前面的文档相同" in packed.stderr
    assert "语言 zh" in wenlu("data", "inspect", texts).stdout


def test_a_trained_tokenizer_and_given_splits(texts: Path, tmp_path: Path) -> None:
    assert wenlu("data", "pack", texts, "-o", tmp_path / "one", "--vocab-size", 300).exit_code == 0
    (tmp_path / "dev.txt").write_text("床前明月光", encoding="utf-8")
    words = ["data", "pack", texts, "-o", tmp_path / "two", "--tokenizer", tmp_path / "one" / "tokenizer"]
    packed = wenlu(*words, "--validation", tmp_path / "dev.txt", "--test-fraction", 0.2, "--workers", 2, "--json")
    assert packed.exit_code == 0, packed.output
    splits = json.loads(packed.stdout)["splits"]
    assert splits["validation"]["documents"] == 1 and 0 < splits["test"]["documents"] < 30
    refused = wenlu(*words, "--vocab-size", 400, "--replace")
    assert refused.exit_code == 2 and "tokenizer.vocab_size" in refused.stderr


def test_replace_takes_a_store_and_spares_a_folder_of_texts(texts: Path, tmp_path: Path) -> None:
    words = ["data", "pack", texts, "--vocab-size", 300, "--replace", "-o"]
    before = sorted(texts.iterdir())
    refused = wenlu(*words, texts)
    assert refused.exit_code == 2 and "not made by Wenlu" in refused.stderr
    assert sorted(texts.iterdir()) == before
    assert [wenlu(*words, tmp_path / "store").exit_code for _ in range(2)] == [0, 0]


def test_a_tokenizer_from_python_says_what_it_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wenlu")
    (tmp_path / "rows.jsonl").write_text('{"text": "a fox and a dog"}\n{"text": null}\n', encoding="utf-8")
    api.train_tokenizer([tmp_path / "rows.jsonl"], vocab_size=300)
    assert "1 documents dropped" in caplog.text


def test_inspect_goes_on_after_a_broken_file(texts: Path) -> None:
    (texts / "a.txt").write_bytes("第一回 甄士隐梦幻识通灵".encode("gb18030"))
    (texts / "b.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n', encoding="utf-8")
    found = wenlu("data", "inspect", texts, "--json")
    assert found.exit_code == 2
    record = json.loads(found.stdout)
    assert [problem["id"] for problem in record["problems"]] == ["data.undecodable", "data.missing_field"]
    assert record["read"]["documents"] == 63
    plain = wenlu("data", "inspect", texts)
    assert 'data.encoding = "gb18030"' in plain.stdout and "b.jsonl:2" in plain.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "pack", "missing.txt", "-o", "out"], "this file does not exist"),
        (["data", "pack", ".", "-o", "out"], "no file that can be read"),
        (["data", "pack", ".", "-o", "out", "--encoding", "utf-9"], "no text encoding"),
        (["data", "pack", ".", "-o", "out", "--set", "data.documnet=line"], "document"),
        (["data", "pack", ".", "-o", "out", "--validation-fraction", "1.5"], "0 <= x < 1"),
        (["data", "pack", "."], "--output"),
        (["data", "inspect"], "PATHS"),
    ],
)
def test_mistakes_end_with_2_and_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = wenlu(*words)
    assert failed.exit_code == 2, failed.output
    assert said in failed.stderr and "Traceback" not in failed.stderr
    assert list(tmp_path.iterdir()) == []
