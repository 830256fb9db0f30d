"""``wenlu demo`` on a small text of one's own: the whole way, in both languages, twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wenlu.cli.main import main

WORDS = ("--budget", "1s", "--vocab-size", "400")


def demo(*words: object) -> Result:
    return CliRunner().invoke(main, ["demo", *map(str, words)], prog_name="wenlu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800 documents in each of two languages."""
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    english = [
        f"Number {number} of the English texts: {number % 7} people walked for {number % 11} days, and then came back."
        for number in range(800)
    ]
    chinese = [
        f"第{number}篇：话说天下大势，分久必合，合久必分。{number % 7}人同行，{number % 11}日而返。"
        for number in range(800)
    ]
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in english + chinese]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    target = tmp_path_factory.mktemp("demo") / "first"
    found = demo("--data", corpus, "-o", target, *WORDS)
    assert found.exit_code == 0, found.output
    for words in (
        "n-gram (order 5)",
        "LSTM",
        "Transformer + n-gram",
        "95 % interval of",
        "What to type next",
        "zh",
        "en",
    ):
        assert words in found.stdout
    return target


def test_the_record_holds_four_rungs_scored_on_the_same_documents(directory: Path) -> None:
    record = json.loads((directory / "ladder.json").read_text(encoding="utf-8"))
    assert [rung["name"] for rung in record["rungs"]] == ["n-gram", "lstm", "transformer", "mixture"]
    assert {rung["documents"] for rung in record["rungs"]} == {record["documents"]["test"]}
    assert record["documents"]["test"] >= 30
    assert set(record["differences"]) == {"all", "en", "zh"}
    best = min(rung["bits_per_byte"] for rung in record["rungs"][:3])
    mixture = record["rungs"][3]["bits_per_byte"]
    assert mixture < best + 0.05  # weights come from other text than the score, so it may lose a little, not more
    assert sum(record["mixture_weights"].values()) == pytest.approx(1)
    for rung in record["rungs"][1:3]:
        assert rung["curve"][-1][0] == pytest.approx(rung["seconds"])  # the last point is that of the finished model
    assert {sample["language"] for sample in record["samples"]} == {"en", "zh"}


def test_the_report_is_one_page_without_outside_resources(directory: Path) -> None:
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "Transformer + n-gram" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page


def test_a_second_call_trains_nothing_again_and_speaks_chinese(
    directory: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (directory / "transformer" / "log.jsonl").read_bytes()
    monkeypatch.setenv("WENLU_LANG", "zh")
    found = demo("--data", corpus, "-o", directory, *WORDS)
    assert found.exit_code == 0, found.output
    assert "接着" in found.stderr
    assert "接下来可以输入" in found.stdout
    assert (directory / "transformer" / "log.jsonl").read_bytes() == before


def test_another_demo_in_the_same_directory_is_refused(directory: Path, corpus: Path) -> None:
    found = demo("--data", corpus, "-o", directory, "--budget", "2s", "--vocab-size", "400")
    assert found.exit_code == 2
    assert "other settings" in found.stderr


@pytest.mark.parametrize(
    ("words", "said"), [(("--budget", "10 steps"), "not for steps"), (("--data", "nowhere"), "nowhere")]
)
def test_mistakes_are_told_before_any_work(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    found = demo("-o", tmp_path / "new", *words)
    assert found.exit_code == 2
    assert said in found.stderr


def test_a_signal_stops_the_demo_and_not_only_one_of_its_models(tmp_path: Path, corpus: Path) -> None:
    target = tmp_path / "demo"
    words = ["--data", str(corpus), "-o", str(target), "--budget", "40s", "--vocab-size", "400"]
    with subprocess.Popen(
        [sys.executable, "-m", "wenlu", "demo", *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "steps loss" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        code = process.wait(timeout=60)
    assert code == 130, "".join(said) + rest
    assert "the same command goes on" in rest
    assert (target / "lstm").is_dir()
    assert not (target / "transformer").exists()
    assert not (target / "report.html").exists()
