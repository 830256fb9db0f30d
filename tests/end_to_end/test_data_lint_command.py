"""``wenlu data lint`` as a user types it, and the same checks before a run."""

from __future__ import annotations

import json
import random
import re
import shlex
import subprocess
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from click.testing import CliRunner, Result

from promises import Figure
from tiny_tokenizers import tiny
from wenlu.bundle import save_bundle
from wenlu.cli.main import main
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tokenization.kinds import TokenizerSettings


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows that are all different."""
    words = ["".join(random.Random(number).choices(ascii_lowercase, k=6)) for number in range(8 * (start + count))]
    return [{"text": " ".join(words[8 * at : 8 * at + 8]), "label": "ab"[at % 2]} for at in range(start, start + count)]


def write(path: Path, content: list[dict[str, Any]] | str) -> Path:
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(text.encode())
    return path


def test_findings_a_table_and_exit_3(tmp_path: Path) -> None:
    good = rows(6)
    train = write(
        tmp_path / "train.jsonl", [*good, {"text": "x"}, good[0], {**good[1], "label": "A "}, {**good[2], "label": "b"}]
    )
    dev = write(tmp_path / "dev.jsonl", [good[3], {**rows(1, 50)[0], "label": "c"}, *rows(2, 90)])
    found = wenlu("data", "lint", train, "--task", "classification", "--validation", dev)
    assert found.exit_code == 3, found.output
    lines = found.stdout.splitlines()
    assert lines[0].startswith(f"{train}:7: label: the row has no field 'label' (fields: ['text']): rows for")
    assert lines[0].endswith("[missing_field]")
    for said in (
        f"{train}:8: text: the row is a duplicate",
        f"{train}:9: label: a label has two spellings ('A ': 1, 'a'",
    ):
        assert any(line.startswith(said) for line in lines), said
    assert any(line.startswith(f"{train}:10: label: the same input has another label") for line in lines)
    assert any(line.startswith(f"{dev}:1: text: a validation row is a training row") for line in lines)
    assert any(
        line.startswith(f"{dev}:2: label: no training example has the label 'c' (in 1 rows; known: A , a, b)")
        for line in lines
    )
    assert "9 training and 4 validation rows: 7 findings, 2 of them fatal" in found.stdout
    record = json.loads(wenlu("data", "lint", train, "--task", "classification", "--validation", dev, "--json").stdout)
    assert record["rows"] == {"train": 9, "validation": 4} and record["fatal"] == 2
    assert record["found"] == record["left"] and sum(record["found"].values()) == 7
    first = record["findings"][0]
    assert (first["file"], first["line"], first["kind"], first["fatal"]) == (str(train), 7, "missing_field", True)
    assert {"what", "found", "fix"} < set(first)


def test_fix_writes_a_new_file_that_is_clean(tmp_path: Path) -> None:
    good = rows(8)
    broken = [{**good[0], "label": "ａ"}, *good[1:], good[3], {**rows(1, 70)[0], "extra": [1]}]
    content = "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in broken)
    train, out = write(tmp_path / "train.jsonl", content), tmp_path / "out.jsonl"
    before = train.read_bytes()
    done = wenlu("data", "lint", train, "--task", "classification", "--fix", "-o", out, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["found"] == {"byte_order_mark": 1, "line_ends": 10, "spelling": 1, "duplicate": 1} | {"line_ends": 1}
    assert record["left"] == {} and record["written"] == 9
    assert train.read_bytes() == before and sorted(path.name for path in tmp_path.iterdir()) == [
        "out.jsonl",
        "train.jsonl",
    ]
    assert [json.loads(line) for line in out.read_bytes().decode().split("\n")[:-1]] == [*good, broken[-1]]
    again = wenlu("data", "lint", out, "--task", "classification")
    assert again.exit_code == 0 and "9 training and 0 validation rows: 0 findings" in again.stdout
    refused = wenlu("data", "lint", train, "--task", "classification", "--fix", "-o", train)
    assert refused.exit_code == 2 and train.read_bytes() == before, "the input is never written over"
    write(train, [*good, {"text": None, "label": "a"}])
    left = wenlu("data", "lint", train, "--task", "classification", "--fix", "-o", tmp_path / "b.jsonl")
    assert left.exit_code == 3 and "8 rows written, 1 left out" in left.stdout


def test_fix_of_tags(tmp_path: Path) -> None:
    train = write(tmp_path / "a.conll", "EU I-ORG\nrejects O\n\nUN I-ORG\nWHO B-ORG\n\n")
    found = wenlu("data", "lint", train, "--task", "tagging")
    assert found.exit_code == 0 and f"{train}:1: tags: spans begin with I-" in found.stdout
    assert wenlu("data", "lint", train, "--task", "tagging", "--fix", "-o", tmp_path / "b.conll").exit_code == 0
    assert (tmp_path / "b.conll").read_bytes() == b"EU\tB-ORG\nrejects\tO\n\nUN\tB-ORG\nWHO\tB-ORG\n\n"


def test_other_formats_and_words(tmp_path: Path, chinese: None) -> None:
    table = write(tmp_path / "t.txt", "很好\t正\t-\n很好\t正\t-\n")
    shown = ["data", "lint", table, "--task", "classification", "--format", "table", "--columns", "text,label,-"]
    found = wenlu(*shown)
    assert found.exit_code == 0 and "2 个训练行" in found.stdout
    assert f"{table}:2: text: 这一行是重复的（'很好'，与 {table}:1 相同）：去掉它" in found.stdout
    many = write(tmp_path / "m.jsonl", rows(1) * 15)
    assert wenlu("data", "lint", many, "--task", "classification").stdout.count("[duplicate]") == 10
    assert wenlu("data", "lint", many, "--task", "classification", "--limit", 0).stdout.count("[duplicate]") == 14


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fix"], "-o NEW_FILE"),
        (["-o", "out.jsonl"], "-o NEW_FILE"),
        (["--task", "causal_lm"], "does not learn from labelled rows"),
        (["--task", "clasification"], "classification"),
        (["--format", "jsnl"], "jsonl"),
        (["--fix", "-o", "out.txt"], ".jsonl"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    train = write(tmp_path / "a.jsonl", rows(3))
    task = [] if "--task" in words else ["--task", "classification"]
    monkeypatch.chdir(tmp_path)
    refused = wenlu("data", "lint", train, *task, *words)
    assert refused.exit_code == 2 and said in refused.stderr, refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    special = ("[MASK]", "[CLS]", "[SEP]")
    tokenizer = tiny("wordpiece", TokenizerSettings(kind="wordpiece", vocab_size=420, special_tokens=special))
    settings = ModelSettings(kind="bert", num_layers=1, hidden_size=16, num_heads=2)
    model = build_model(settings, vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, sequence_length=64, seed=1)
    folder.mkdir()
    save_bundle(folder, model=model, tokenizer=tokenizer)
    return folder


def finetune(encoder: Path, train: Path, run: Path, *words: object, task: str = "classification") -> Result:
    settings = ["train.steps=2", "train.batch_size=2", "train.sequence_length=48", "train.threads=1"]
    return wenlu("finetune", "--task", task, "--data", train, "--model", encoder, "-o", run, *settings, *words)


def test_a_run_says_in_a_line_what_it_found(encoder: Path, tmp_path: Path) -> None:
    train, dev = write(tmp_path / "train.jsonl", rows(12)), write(tmp_path / "dev.jsonl", rows(4, 40))
    clean = finetune(encoder, train, tmp_path / "clean", "--validation", dev)
    assert clean.exit_code == 0, clean.output
    assert clean.stderr.count("16 rows checked: nothing wrong was found") == 1
    write(dev, rows(4, 10))
    leaky = finetune(encoder, train, tmp_path / "leaky", "--validation", dev)
    assert leaky.exit_code == 0 and "16 rows checked: 2 leak" in leaky.stderr
    assert leaky.stderr.count("[leak]") == 1 and f"{dev}:1: text: " in leaky.stderr


@pytest.mark.promise("T21")
def test_fatal_findings_stop_a_run_before_its_first_step(encoder: Path, tmp_path: Path, figure: Figure) -> None:
    good, tagged = rows(8), [{"tokens": row["text"].split(), "tags": ["B-X"] + ["O"] * 7} for row in rows(8)]
    mixed, plain = {"tokens": ["a", "b"], "tags": ["O", "I-X"]}, {"tokens": ["a"], "tags": ["X"]}
    dev, bare = [{"text": "x", "label": "a"}], {"text": "z"}
    long, nothing = {**good[0], "text": "fox " * 90}, [{"text": "\u200b", "label": "a"}] * 3
    wrong: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]], list[str]]] = [
        ("classification", good, [{"text": "y", "label": "c"}] * 3, ["'c'", "in 3 rows", "known: a, b"]),
        ("classification", [*good, bare], dev, ["train.jsonl:9", "'label'"]),
        ("classification", [*good, bare, {"label": "a"}], dev, ["2 missing_field", ":9", ":10"]),
        ("tagging", [*tagged, mixed], tagged[:1], ["I-X behind O", ":9"]),
        ("tagging", [*tagged, plain], tagged[:1], ["'X' beside 'B-X'"]),
        ("classification task.truncation=error", [*good, long], dev, [":9", "fit"]),
        ("classification", nothing, dev, ["0 rows"]),
    ]
    for number, (name, train, validation, said) in enumerate(wrong):
        task, *settings = name.split()
        paths = write(tmp_path / "train.jsonl", train), write(tmp_path / "dev.jsonl", validation)
        run = tmp_path / f"run{number}"
        stopped = finetune(encoder, paths[0], run, "--validation", paths[1], *settings, task=task)
        assert stopped.exit_code == 2, (name, stopped.output)
        assert all(word in stopped.stderr for word in said), (name, stopped.stderr)
        assert "Traceback" not in stopped.stderr and not (run / "log.jsonl").exists(), name
    figure(f"{len(wrong)} runs: stopped before the first step, with names and counts")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guide(language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands do what it shows."""
    guide = Path(__file__).parents[2] / "docs" / language / "data-lint.md"
    commands, shown = re.findall(r"^```(?:sh)?\n(.*?)^```", guide.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WENLU_LANG", language)
    made, look, fix = commands.splitlines()
    subprocess.run(["sh", "-c", made], check=True)
    found = wenlu(*shlex.split(look)[1:])
    assert found.exit_code == 0 and found.stdout.startswith(shown)
    assert wenlu(*shlex.split(fix)[1:]).exit_code == 0
    left = json.loads(wenlu("data", "lint", "clean.jsonl", "--task", "classification", "--json").stdout)
    assert left["found"] == {"conflict": 1} and left["rows"]["train"] == 5
