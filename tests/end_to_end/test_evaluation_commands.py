"""``wenlu evaluate``, ``compare``, ``score`` and ``generate`` as a user calls them, on two tiny runs."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wenlu.cli.main import main
from wenlu.core.settings import load
from wenlu.data.documents import DataSettings
from wenlu.data.tokens import build_store
from wenlu.evaluation.evaluator import evaluate_split
from wenlu.tokenization.tokenizer import TokenizerSettings
from wenlu.training.run import train_run
from wenlu.training.settings import RunSettings

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张"


def texts(seed: int, count: int) -> list[str]:
    """English and Chinese lines, drawn with a seed."""
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        if number % 2:
            lines.append("".join(draw.choices(CHARACTERS, k=draw.randint(20, 60))) + "。")
        else:
            lines.append(" ".join(draw.choices(WORDS, k=draw.randint(10, 40))) + ".")
    return lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, two stores of different tokenizers and three runs."""
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "train.txt").write_text("\n".join(texts(1, 160)) + "\n", encoding="utf-8")
    (folder / "held-out.jsonl").write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts(2, 30)), encoding="utf-8"
    )
    settings = DataSettings(paths=(str(folder / "train.txt"),), document="line", validation_fraction=0.2)
    for name, tokenizer in (
        ("store-bpe", TokenizerSettings(vocab_size=340)),
        ("store-characters", TokenizerSettings(kind="characters", vocab_size=100)),
    ):
        build_store(folder / name, settings, tokenizer_settings=tokenizer)
    small = ["model.num_layers=1", "model.hidden_size=16", "train.batch_size=4", "train.sequence_length=32"]
    small += ["train.threads=1", "train.precision=fp32", "evaluate.every=20 steps", "evaluate.max_tokens=500"]
    for name, store, extra in (
        ("short", "store-bpe", ["model.num_heads=2", "train.steps=3", "evaluate.every=3 steps"]),
        ("long", "store-bpe", ["model.num_heads=2", "train.steps=60"]),
        ("lstm", "store-characters", ["model.kind=lstm", "model.embedding_size=8", "train.steps=20"]),
    ):
        resolved = load(RunSettings, overrides=[*small, *extra, f'data.paths=["{folder / store}"]'])
        train_run(resolved, folder / "runs" / name, evaluate=evaluate_split)
    return folder


def wenlu(*words: str, stdin: str | bytes = "", code: int = 0) -> Result:
    """Run a command line in this process; its exit code must be ``code``."""
    result = CliRunner().invoke(main, list(words), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(autouse=True)
def at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_evaluate_agrees_with_the_runs_log(folder: Path) -> None:
    log = [json.loads(line) for line in (folder / "runs/long/log.jsonl").read_text(encoding="utf-8").splitlines()]
    [final] = [record for record in log if record["event"] == "final_evaluation"]
    result = json.loads(wenlu("evaluate", "runs/long", "--json").stdout)
    assert result["loss"] == pytest.approx(final["loss"], abs=1e-9)
    assert result["bits_per_byte"] == pytest.approx(final["bits_per_byte"], abs=1e-9)
    middle = [record for record in log if record["event"] == "evaluation"][-1]
    checkpoint = f"runs/long/checkpoints/step-{middle['step']:08d}"
    limited = json.loads(wenlu("evaluate", checkpoint, "--limit", "500", "--json").stdout)
    assert limited["tokens"] == 500
    assert limited["bits_per_byte"] == pytest.approx(middle["bits_per_byte"], abs=1e-9)


def test_evaluate_writes_a_report_with_every_document(folder: Path) -> None:
    result = json.loads(wenlu("evaluate", "short", "--data", "held-out.jsonl", "--json").stdout)
    report = json.loads(Path(result["report"]).read_text(encoding="utf-8"))
    assert Path(result["report"]).parent == folder / "runs/short/reports"
    assert len(report["documents"]["nats"]) == result["documents"] == 30
    assert math.fsum(report["documents"]["nats"]) / result["tokens"] == pytest.approx(result["loss"])
    sizes = sum(len(text.encode()) for text in texts(2, 30))
    assert result["num_bytes"] == sizes
    assert "context:32|stride:16" in result["definition"]
    low, high = result["bits_per_byte_interval"]
    assert low < result["bits_per_byte"] < high
    assert set(result["by_language"]) == {"en", "zh"}


def test_evaluate_speaks_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    english = wenlu("evaluate", "short", "--limit", "200")
    assert "bits/byte" in english.stdout
    monkeypatch.setenv("WENLU_LANG", "zh")
    chinese = wenlu("evaluate", "short", "--limit", "200")
    assert "比特/字节" in chinese.stdout
    assert "报告：" in chinese.stderr


def test_evaluate_takes_the_newest_run_and_its_store() -> None:
    result = wenlu("evaluate", "--limit", "100")
    assert "store-characters" in result.stderr
    assert "lstm" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "short", "--context", "1000"], "1000"),
        (["evaluate", "short", "--context", "8", "--stride", "9"], "stride = 9"),
        (["evaluate", "short", "--limit", "0"], "0"),
        (["evaluate", "short", "--data", "held-out.jsonl", "--split", "test"], "--split test"),
        (["evaluate", "short", "--split", "test"], "validation: "),
        (["evaluate", "short", "--data", "missing.txt"], "missing.txt"),
        (["evaluate", "nothing"], "nothing"),
        (["compare", "short", "--data", "store-bpe"], "two models"),
        (["compare", "short", "runs/short", "--data", "store-bpe"], "twice"),
        (["compare", "short", "long"], "--data"),
        (["score", "x", "--model", "short", "--context", "0"], "context = 0"),
        (["score", "", "--model", "short", "--no-end"], "--no-end"),
        (["generate", "x", "--model", "short", "--max-new-tokens", "32"], "31"),
        (["generate", "the quick brown fox jumps over " * 10, "--model", "short"], "--overlong cut"),
        (["generate", "x", "--model", "short", "--greedy", "--num-sequences", "2"], "equal"),
        (["generate", "x", "--model", "short", "--greedy", "--top-k", "2"], "top_k"),
        (["generate", "x", "--model", "short", "--temperature", "-1"], "temperature = -1.0"),
    ],
)
def test_what_is_wrong_is_said_with_its_value(words: list[str], said: str) -> None:
    result = wenlu(*words, code=2)
    assert said in result.stderr
    assert not result.stdout


def test_compare_models_of_different_tokenizers(folder: Path) -> None:
    words = ["compare", "short", "long", "lstm", "--data", "held-out.jsonl"]
    result = json.loads(wenlu(*words, "--json").stdout)
    assert set(result["ranking"]) == {"short", "long", "lstm"}
    assert result["ranking"].index("long") < result["ranking"].index("short")
    [pair] = [pair for pair in result["pairs"] if (pair["first"], pair["second"]) == ("short", "long")]
    assert pair["interval"][0] > 0
    assert pair["p_value"] < 0.01
    by_name = {model["name"]: model for model in result["models"]}
    assert pair["difference"] == pytest.approx(by_name["short"]["bits_per_byte"] - by_name["long"]["bits_per_byte"])
    assert len({model["num_bytes"] for model in result["models"]}) == 1
    assert by_name["long"]["trained_tokens"] == 60 * 4 * 32
    assert by_name["long"]["seconds"] > 0
    assert by_name["lstm"]["tokens"] != by_name["long"]["tokens"]
    table = wenlu(*words).stdout
    assert "behind the best" in table and "not corrected" in table


def test_compare_on_a_store_gives_each_model_the_same_texts() -> None:
    result = json.loads(wenlu("compare", "long", "lstm", "--data", "store-bpe", "--json").stdout)
    alone = json.loads(wenlu("evaluate", "long", "--data", "store-bpe", "--json").stdout)
    first = next(model for model in result["models"] if model["name"] == "long")
    assert first["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], abs=1e-6)
    sampled = json.loads(
        wenlu("compare", "long", "lstm", "--data", "store-bpe", "--limit-bytes", "700", "--json").stdout
    )
    assert {model["num_bytes"] <= 700 for model in sampled["models"]} == {True}
    assert "sample-of-700-bytes" in sampled["models"][0]["definition"]


def test_pages_load_nothing_and_name_every_model(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    wenlu("compare", "short", "long", "lstm", "--data", "held-out.jsonl", "--html", str(page))
    content = page.read_text(encoding="utf-8")
    assert all(name in content for name in ("short", "long", "lstm", "<polyline", "default-src 'none'"))
    assert not re.search(r"https?:|<script|src=|url\(|style=", content)
    wenlu("evaluate", "long", "--html", str(page))
    assert "Bits per byte by language" in page.read_text(encoding="utf-8")


def test_score_adds_up(folder: Path) -> None:
    result = json.loads(wenlu("score", "the lazy 天地", "--model", "long", "--json").stdout)
    assert sum(token["log_prob"] for token in result["tokens"]) == pytest.approx(result["log_prob"])
    assert result["bits"] == pytest.approx(-result["log_prob"] / math.log(2))
    assert result["bits_per_byte"] == pytest.approx(result["bits"] / 15)
    assert result["tokens"][-1]["token"] == "<|endoftext|>"
    piped = json.loads(wenlu("score", "-", "--model", "long", "--json", stdin="the lazy 天地\n").stdout)
    assert piped == result
    table = wenlu("score", "the lazy 天地", "--model", "long", "--no-end").stdout
    assert "bits/byte" in table and "<|endoftext|>" not in table


def test_standard_input_that_is_not_text_is_refused() -> None:
    assert "0xFF" in wenlu("score", "-", "--model", "long", stdin=b"ab\xff", code=2).stderr


def test_generate_streams_and_repeats_with_a_seed(folder: Path) -> None:
    words = ["generate", "the quick", "--model", "long", "--max-new-tokens", "12", "--seed", "4"]
    first, again = wenlu(*words), wenlu(*words)
    assert first.stdout == again.stdout
    assert first.stdout.startswith("the quick")
    assert "new tokens" in first.stderr
    bare = wenlu(*words, "--no-echo").stdout
    assert "the quick" + bare == first.stdout
    record = json.loads(wenlu(*words, "--json").stdout)
    [sequence] = record["sequences"]
    assert sequence["text"] + "\n" == bare
    assert record["settings"]["seed"] == 4
    assert len(sequence["tokens"]) == len(sequence["log_probs"]) <= 12


def test_generate_several_and_stop(folder: Path) -> None:
    words = ["generate", "", "--model", "lstm", "--max-new-tokens", "15", "--num-sequences", "3", "--temperature", "1"]
    shown = wenlu(*words).stdout
    assert all(f"{number}/3" in shown for number in (1, 2, 3))
    record = json.loads(wenlu(*words, "--stop", "e", "--stop", "天", "--json").stdout)
    assert all("e" not in item["text"] and "天" not in item["text"] for item in record["sequences"])
    assert len({tuple(item["tokens"]) for item in record["sequences"]}) == 3


def test_generate_says_what_it_cut_and_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = "the quick brown fox jumps over " * 10
    cut = wenlu("generate", prompt, "--model", "long", "--overlong", "cut", "--max-new-tokens", "5")
    assert "the prompt was cut" in cut.stderr
    monkeypatch.setenv("WENLU_LANG", "zh")
    unknown = wenlu("generate", "天龘地", "--model", "lstm", "--max-new-tokens", "5")
    assert "龘" in unknown.stderr and "不在词表里" in unknown.stderr


def test_a_moved_run_still_works(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs" / "long" / "final", tmp_path / "model")
    result = json.loads(wenlu("evaluate", str(tmp_path / "model"), "--data", "held-out.jsonl", "--json").stdout)
    assert result["report"] is None
    missing = wenlu("evaluate", str(tmp_path / "model"), code=2)
    assert "--data" in missing.stderr
