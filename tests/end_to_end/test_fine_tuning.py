"""The guide of fine-tuning, and the ways in and out of a fine-tuned model."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner, Result

import wenlu as api
from tiny_training import losses, tiny_evaluate, tiny_settings
from wenlu.bundle import save_bundle
from wenlu.cli.main import main
from wenlu.core.errors import DataError, RequestError
from wenlu.core.runs import Run
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training.material import LabelledExamples
from wenlu.training.run import resume_run, train_run

DOCS = Path(__file__).parents[2] / "docs"
NAMES = (("Anna", "Li Wei", "Bob Stone", "安娜"), ("Paris", "New York", "Beijing", "罗马"))
WORDS = {"good": ("lovely", "funny", "很好"), "bad": ("dull", "awful", "很差")}
SHORT = ("train.threads=1", "train.precision=fp32", "train.sequence_length=64", "optimizer.learning_rate=0.003")


def wenlu(*words: object, input: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu", input=input)


def reviews() -> list[dict[str, str]]:
    things = ("film", "book", "song", "一本书", "hotel", "walk")
    return [{"text": f"{w} {t}", "label": label} for label, words in WORDS.items() for w in words for t in things]


def sentences() -> list[tuple[list[str], list[str]]]:
    """Names of people and places."""
    found = []
    for person in NAMES[0]:
        for place in NAMES[1]:
            tokens, tags = [], []
            for part, kind in ((person, "PER"), ("lives in", ""), (place, "LOC"), (".", "")):
                words = part.split(" ") if part.isascii() else list(part)
                tokens += words
                tags += [f"{'I' if number else 'B'}-{kind}" if kind else "O" for number in range(len(words))]
            found.append((tokens, tags))
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT, examples, and a run on each."""
    folder = tmp_path_factory.mktemp("home")
    texts = [row["text"] for row in reviews()] + [" ".join(tokens) for tokens, _ in sentences()]
    special = ("[MASK]", "[CLS]", "[SEP]", "[UNK]")
    tokenizer = Tokenizer.train(texts, TokenizerSettings(kind="wordpiece", vocab_size=300, special_tokens=special))
    settings = ModelSettings(kind="bert", num_layers=2, hidden_size=32, num_heads=2, dropout=0.0)
    sizes = {"vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id, "sequence_length": 128}
    (folder / "minilm").mkdir()
    save_bundle(folder / "minilm", model=build_model(settings, **sizes, seed=1), tokenizer=tokenizer)
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in reviews())
    (folder / "reviews.jsonl").write_text(rows, encoding="utf-8")
    columns = ["\n".join(map(" ".join, zip(*sentence, strict=True))) for sentence in sentences()]
    (folder / "names.conll").write_text("\n\n".join(columns) + "\n", encoding="utf-8")
    for task, data in (("classification", "reviews.jsonl"), ("tagging", "names.conll")):
        words = ["--task", task, "--data", folder / data, "--validation", folder / data, "--model", folder / "minilm"]
        found = wenlu("finetune", *words, "-o", folder / task, "--budget", "30 epochs", *SHORT)
        assert found.exit_code == 0, found.output
    return folder


def answers(*words: object, input: str | None = None) -> list[dict[str, object]]:
    found = wenlu("predict", *words, "--json", input=input)
    assert found.exit_code == 0, found.output
    made: list[dict[str, object]] = json.loads(found.stdout)["answers"]
    return made


def test_one_answer_by_every_way_in(home: Path, tmp_path: Path) -> None:
    """Arguments, a file, lines, JSON objects on standard input and Python: the same answers, in order."""
    texts, run = ["lovely walk", "", "很差 film", "awful 一本书"], home / "classification"
    first = answers(run, *texts)
    assert [one and one["label"] for one in first] == ["good", None, "bad", "bad"]
    rows = [{"text": text} for text in texts if text]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(content, encoding="utf-8")
    model = api.load(run)
    assert model.predict(texts) == first
    assert model.predict(rows) == first[:1] + first[2:]
    assert answers(run, "-", input="\n".join(texts) + "\n") == first
    for words in ((tmp_path / "rows.jsonl",), ("--file", tmp_path / "rows.jsonl")):
        assert answers(run, *words) == first[:1] + first[2:]
    assert answers(run, "-", input=content) == first[:1] + first[2:]
    lines = wenlu("predict", run, *texts, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == first
    shown = wenlu("predict", run, *texts).stdout.splitlines()
    assert re.search(r"1 +good +\d+\.\d%", "\n".join(shown)) and re.search(r"2 +-", "\n".join(shown))


def test_spans_have_places_in_the_text(home: Path) -> None:
    texts = ["Li Wei  lives in New York.", "安娜 lives in 罗马."]
    expected = [[("Li Wei", "PER"), ("New York", "LOC")], [("安娜", "PER"), ("罗马", "LOC")]]
    for text, found, wanted in zip(texts, answers(home / "tagging", *texts), expected, strict=True):
        spans = found["spans"]
        assert isinstance(spans, list)
        assert [(text[span["start"] : span["end"]], span["label"]) for span in spans] == wanted
    [row] = api.load(home / "tagging").predict([{"tokens": ["Bob", "Stone", "lives", "in", "Paris"]}])
    assert row is not None
    assert [(span["start"], span["end"], span["label"]) for span in row["spans"]] == [(0, 2, "PER"), (4, 5, "LOC")]
    columns = wenlu("predict", home / "tagging", home / "names.conll", "--format", "conll")
    assert columns.stdout.splitlines()[:3] == ["Anna\tB-PER", "lives\tO", "in\tO"]
    assert "Li Wei/PER" in wenlu("predict", home / "tagging", *texts).stdout
    assert wenlu("predict", home / "classification", "a", "--format", "conll").exit_code == 2


def test_what_cannot_be_answered_is_refused(home: Path) -> None:
    run, model = home / "classification", api.load(home / "classification")
    with pytest.raises(DataError, match="row 2"):
        model.predict([{"text": "a"}, {"label": "good"}])
    with pytest.raises(DataError, match="row 1"):
        model.predict([{"text": 3}])
    with pytest.raises(RequestError, match="fine-tune"):
        api.load(home / "minilm").predict(["a"])
    for words, input in (((run, "-"), '{"text"\n'), ((run, "-"), '{"text": "a"}\n[1]\n'), ((run,), None)):
        refused = wenlu("predict", *words, input=input)
        assert refused.exit_code == 2 and "Traceback" not in refused.output
    assert wenlu("predict", run, "a", "--file", home / "reviews.jsonl").exit_code == 2


def test_evaluate_scores_labelled_examples(home: Path, tmp_path: Path) -> None:
    run = home / "classification"
    own = json.loads(wenlu("evaluate", run, "--json").stdout)
    files = json.loads(wenlu("evaluate", run, "--data", home / "reviews.jsonl", "--json").stdout)
    assert own["accuracy"] == files["accuracy"] and own["accuracy"]["count"] == 36
    low, high = own["loss"]["interval"]
    assert low < own["loss"]["value"] < high
    report = json.loads(Path(own["report"]).read_text(encoding="utf-8"))["documents"]
    assert len(report["answer"]) == 36 and report["where"][0].endswith("reviews.jsonl:1")
    assert "share of rows whose label is right" in wenlu("evaluate", run).stdout
    for words in (("--stride", "3"), ("--context", "8"), ("--limit", "5"), ("--html", tmp_path / "a.html")):
        refused = wenlu("evaluate", run, *words)
        assert refused.exit_code == 2 and str(words[0]) in refused.stderr
    assert wenlu("evaluate", run, "--data", home / "reviews.jsonl", "--split", "train").exit_code == 2
    assert wenlu("evaluate", run, "--split", "test").exit_code == 2
    (tmp_path / "other.jsonl").write_text('{"text": "a", "label": "gut"}\n', encoding="utf-8")
    refused = wenlu("evaluate", run, "--data", tmp_path / "other.jsonl")
    assert refused.exit_code == 2 and "gut (1)" in refused.stderr


def test_changed_examples_are_not_those_that_were_held_out(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text((home / "reviews.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    words = ["--task", "classification", "--data", data, "--model", home / "minilm", "-o", tmp_path / "run"]
    assert wenlu("finetune", *words, *SHORT, "train.steps=1", "data.validation_fraction=0.3").exit_code == 0
    counts = [json.loads(wenlu("evaluate", tmp_path / "run", "--split", split, "--json").stdout)["loss"]["count"]
              for split in ("train", "validation")]  # fmt: skip
    assert sum(counts) == 36 and min(counts) > 3
    data.write_text(data.read_text(encoding="utf-8").replace("lovely", "loved"), encoding="utf-8")
    refused = wenlu("evaluate", tmp_path / "run")
    assert refused.exit_code == 2 and "Traceback" not in refused.output


def test_a_run_ends_when_it_gets_no_better(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it was stopped right after its last evaluation; a resume does not start anew with counting."""
    ranks = iter([3.0, 1.0, 2.0, 1.5, 4.0, 0.0, 7.0, 0.0])
    monkeypatch.setattr(LabelledExamples, "rank", lambda *_: next(ranks))
    data = [f'data.{key}=["{home / "reviews.jsonl"}"]' for key in ("paths", "validation_paths")]
    settings = ["task.name=classification", f"model.start={home / 'minilm'}", *data, *SHORT, "train.steps=40"]
    patient = tiny_settings(*settings, "evaluate.every=4", "train.patience=3", "train.save_every=100")

    def evaluate(*_: object, **__: object) -> dict[str, float]:
        raise AssertionError("labelled examples are scored by their task")

    result = train_run(patient, tmp_path / "run", evaluate=evaluate)
    assert result.state == "finished" and result.step == 8
    assert len(losses(tmp_path / "run")) == 20
    assert Run(tmp_path / "run").status()["state"] == "finished"
    assert next(ranks) == 7.0, "the final evaluation ranked, too"
    steps = [line["step"] for line in Run(tmp_path / "run").read_log() if line["event"] == "evaluation"]
    assert steps == [4, 8, 12, 16, 20]

    run = Run(tmp_path / "run")
    run.write_status(state="running")
    again = resume_run(tmp_path / "run", evaluate=evaluate)
    assert again.step == 8 and len(losses(tmp_path / "run")) == 20


def test_a_stop_while_the_best_model_is_scored_changes_no_checkpoint(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks, scores = count(1.0), LabelledExamples.scores
    monkeypatch.setattr(LabelledExamples, "rank", lambda *_: next(ranks))
    asked = count()

    def scored(self: LabelledExamples, *words: Any, **more: Any) -> dict[str, float]:
        if next(asked) == 3:  # after three evaluations, the last one
            signal.raise_signal(signal.SIGTERM)
        return scores(self, *words, **more)

    monkeypatch.setattr(LabelledExamples, "scores", scored)
    data = [f'data.{key}=["{home / "reviews.jsonl"}"]' for key in ("paths", "validation_paths")]
    settings = ["task.name=classification", f"model.start={home / 'minilm'}", *data, *SHORT, "train.steps=3"]
    every = tiny_settings(*settings, "evaluate.every=1", "train.save_every=1")
    result = train_run(every, tmp_path / "run", evaluate=tiny_evaluate)
    assert (result.state, result.step) == ("stopped", 3)
    run = Run(tmp_path / "run")
    saved = [line["step"] for line in run.read_log() if line["event"] == "checkpoint"]
    assert run.status()["step"] == 3 and saved == [1, 2, 3]
    assert resume_run(tmp_path / "run", evaluate=tiny_evaluate).state == "finished"


def test_several_seeds_give_mean_and_deviation(home: Path, tmp_path: Path) -> None:
    data = home / "reviews.jsonl"
    words = ["--task", "classification", "--data", data, "--validation", data, "--model", home / "minilm"]
    short = ["-o", tmp_path / "runs", "train.steps=2", "evaluate.every=1000", "train.seed=4", *SHORT]
    found = wenlu("finetune", *words, *short, "--seeds", 3, "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert [Path(run).name for run in told["runs"]] == ["seed-4", "seed-5", "seed-6"]
    logged = [Run(Path(run)).status()["evaluation"]["loss"] for run in told["runs"]]  # type: ignore[index]
    assert told["scores"]["loss"]["values"] == logged and len(set(logged)) == 3
    mean = sum(logged) / 3
    assert told["scores"]["loss"]["mean"] == pytest.approx(mean)
    deviation = (sum((value - mean) ** 2 for value in logged) / 2) ** 0.5
    assert told["scores"]["loss"]["deviation"] == pytest.approx(deviation)
    one = wenlu("finetune", *words, *short[:2], *short[2:4], "train.seed=5", *SHORT, "-o", tmp_path / "one", "--json")
    assert json.loads(one.stdout)["evaluation"]["loss"] == logged[1]


def test_of_equal_scores_the_lower_loss_is_better() -> None:
    material = object.__new__(LabelledExamples)
    material.best = "accuracy"
    ranks = [material.rank({"accuracy": score, "loss": loss}) for score, loss in
             ((1.0, 0.1), (1.0, 0.2), (0.9999998, 0.0), (0.5, 0.01), (0.5, 90.0))]  # fmt: skip
    assert ranks == sorted(ranks) and len(set(ranks)) == 5


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_the_pipeline_of_transformers_gives_the_same_scores(home: Path, tmp_path: Path, task: str) -> None:
    """Probabilities of float32 from two implementations: 1e-5."""
    ours = home / {"text-classification": "classification", "token-classification": "tagging"}[task]
    assert wenlu("export", ours, "-o", tmp_path / "hf", "--format", "hf").exit_code == 0
    transformers.logging.disable_progress_bar()
    pipeline = transformers.pipeline(task, model=str(tmp_path / "hf"), device="cpu")
    assert pipeline.model.dtype == torch.float32
    if task == "text-classification":
        texts = [row["text"] for row in reviews()]
        for text, mine in zip(texts, answers(ours, *texts), strict=True):
            theirs = {one["label"]: one["score"] for one in pipeline(text, top_k=None)}
            assert mine["probabilities"] == pytest.approx(theirs, abs=1e-5)
        return
    text = "Anna lives in New York."
    [mine] = answers(ours, text)
    tags, probabilities = mine["tags"], mine["probabilities"]
    assert isinstance(tags, list) and isinstance(probabilities, list)
    theirs = {one["start"]: one for one in pipeline(text, ignore_labels=[])}
    starts = [text.index(word) for word in ("Anna", "lives", "in", "New", "York", ".")]
    assert [theirs[start]["entity"] for start in starts] == tags
    assert [theirs[start]["score"] for start in starts] == pytest.approx(probabilities, abs=1e-5)


def blocks(language: str, code: str) -> list[str]:
    content = (DOCS / language / "fine-tuning.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{code}\n(.*?)^```", content, flags=re.DOTALL | re.MULTILINE)


def test_the_guide(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiny BERT in the place of the model that it fetches; both languages show the same blocks."""
    (tmp_path / "minilm").symlink_to(home / "minilm")
    monkeypatch.chdir(tmp_path)
    [commands] = blocks("en", "sh")
    data, use = blocks("en", "python")
    exec(compile(data, "data", "exec"), {})
    fetch, *lines = commands.splitlines()
    assert fetch == "wenlu data fetch minilm"
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "wenlu"
        found = wenlu(*words)
        assert found.exit_code == 0, f"{line}\n{found.output}"
        assert found.stdout
    exec(compile(use, "use", "exec"), {})


def test_both_languages_show_the_same_blocks() -> None:
    both: Sequence[list[str]] = [blocks(one, "sh") + blocks(one, "python") for one in ("en", "zh")]
    assert both[0] == both[1]


def test_iob1_is_read_as_bio(home: Path, tmp_path: Path) -> None:
    """In IOB1 an entity begins with I; B stands only between two of one type."""
    rows = [(["Anna", "met", "Bob", "Stone"], ["I-PER", "O", "I-PER", "I-PER"]),
            (["Anna", "Bob"], ["I-PER", "B-PER"]), (["Paris"], ["I-LOC"])]  # fmt: skip
    columns = ["\n".join(map(" ".join, zip(*row, strict=True))) for row in rows]
    (tmp_path / "iob1.conll").write_text("\n\n".join(columns) + "\n", encoding="utf-8")
    words = ["--task", "tagging", "--data", tmp_path / "iob1.conll", "--model", home / "minilm", *SHORT]
    found = wenlu("finetune", *words, "-o", tmp_path / "run", "train.steps=1", "data.validation_fraction=0")
    assert found.exit_code == 0, found.output
    assert "IOB1" in found.stderr
    config = json.loads((tmp_path / "run" / "final" / "config.json").read_text(encoding="utf-8"))
    assert list(config["label2id"]) == ["B-LOC", "B-PER", "I-PER", "O"]
    (tmp_path / "gold.conll").write_text("Anna B-PER\nBob B-PER\n\n\nin O\nParis B-LOC\n", encoding="utf-8")
    scored = wenlu("evaluate", home / "tagging", "--data", tmp_path / "gold.conll", "--json")
    assert scored.exit_code == 0 and json.loads(scored.stdout)["loss"]["count"] == 4
