"""Each objective from text to a scored model: it learns, resumes bit for bit, and is scored alike every time."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from promises import Figure
from tiny_training import SMALL, Lives, losses, tiny_evaluate, tiny_settings, tiny_store, tiny_texts
from wenlu.bundle import load_bundle
from wenlu.cli.main import main
from wenlu.core.errors import DataError, SettingsError
from wenlu.core.runs import Run, checkpoint_step
from wenlu.core.settings import changed
from wenlu.data.store import TokenStore
from wenlu.models.transformer import Transformer
from wenlu.tasks._base import CorpusObjective
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training.resolution import create_task, resolve_settings
from wenlu.training.run import train_run

KINDS = {
    "masked_lm": ("bert", ["task.unit=span", "task.mask_rate=0.4", "model.initialization=neighbours"]),
    "next_sentence": ("bert", ["task.pairs=next_sentence"]),
    "span_corruption": ("t5", ["task.num_sentinels=8", "model.initialization=wenlu", "train.bigram_steps=6"]),
    "denoising": ("bart", []),
}
SIZES = ("model.num_layers=1", "model.num_heads=2", "model.hidden_size=16", "model.dropout=0.1")
BIGRAMS = ("train.bigram_steps=3",)
STEP, STEPS = 9, 24


def settings_of(task: str) -> list[str]:
    kind, more = KINDS[task]
    return [f"task.name={task}", f"model.kind={kind}", *SIZES, *more, "train.sequence_length=40"]


def sentences() -> list[str]:
    return [text.replace("fox", "fox.") for text in tiny_texts(80)]


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    server = Lives()
    yield server
    server.close()


def corpus_for(task: str, folder: Path) -> None:
    """The tokenizer of the tiny corpus, with the special tokens of the task."""
    objective = create_task(tiny_settings(*settings_of(task)).value.task)
    assert isinstance(objective, CorpusObjective)
    settings = TokenizerSettings(kind="characters", vocab_size=120, special_tokens=objective.special_tokens())
    Tokenizer.train(tiny_texts(), settings).save(folder / "corpus" / "tokenizer")


@pytest.mark.promise("T5")
@pytest.mark.parametrize("task", KINDS)
def test_a_killed_run_goes_on_exactly(task: str, lives: Lives, tmp_path: Path, figure: Figure) -> None:
    """Rows, masks and dropout after the resume are those of the run that was not killed, with workers and without."""
    corpus_for(task, tmp_path)
    settings = [*settings_of(task), f"train.steps={STEPS}", f"train.save_every={STEP}", "evaluate.every=1000"]
    assert lives.live(tmp_path / "unbroken", [*settings, "train.num_workers=2"]) == 0
    assert lives.live(tmp_path / "broken", settings, lines=STEP + 2) == -signal.SIGKILL
    newest = Run(tmp_path / "broken").newest_checkpoint()
    assert newest is not None and checkpoint_step(newest) == STEP
    assert lives.live(tmp_path / "broken") == 0
    ours, theirs = losses(tmp_path / "broken"), losses(tmp_path / "unbroken")
    assert len(ours) == STEPS
    assert ours == theirs
    for name in ("model.safetensors",):
        whole = (tmp_path / "unbroken" / "final" / name).read_bytes()
        assert (tmp_path / "broken" / "final" / name).read_bytes() == whole
    figure(f"{task}: after step {STEP} the next {STEPS - STEP} losses are equal to the last bit")


@pytest.mark.parametrize("task", KINDS)
def test_from_text_to_scores(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``wenlu train`` and ``wenlu evaluate`` give the same scores; replays and checks know these runs too."""
    monkeypatch.setenv("WENLU_HOME", str(tmp_path / "home"))
    (tmp_path / "text.txt").write_text("\n".join(dict.fromkeys(sentences())), encoding="utf-8")
    (tmp_path / "settings.toml").write_text("", encoding="utf-8")
    tiny = [*settings_of(task), *SMALL, "train.sequence_length=40", "tokenizer.kind=characters"]
    tiny += ["data.document=line", "data.validation_fraction=0.2", "train.save_every=5"]
    run = tmp_path / "run"
    found = wenlu("train", tmp_path / "settings.toml", *tiny, "--data", tmp_path / "text.txt", "-o", run)
    assert found.exit_code == 0, found.output
    hint = f"wenlu fill --model {run}" if KINDS[task][0] == "bert" else f"wenlu evaluate {run}"
    said = "".join(found.stderr.split())  # lines may be broken anywhere
    assert hint.replace(" ", "") in said and "wenlugenerate" not in said
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    [final] = [record for record in log if record["event"] == "final_evaluation"]
    assert set(final) >= {"loss", "accuracy", "unigram_accuracy"}

    first, again = (wenlu("evaluate", run, "--json", "--split", "validation") for _ in range(2))
    assert first.exit_code == 0, first.output
    scores = json.loads(first.stdout)
    assert scores == json.loads(again.stdout)
    for name in set(final) - {"event", "step", "seconds"}:
        assert scores[name]["value"] == pytest.approx(final[name], abs=1e-6)
        assert scores[name]["count"] > 0 and scores[name]["definition"]
    low, high = scores["loss"]["interval"]
    assert low < scores["loss"]["value"] < high
    rows = json.loads(Path(scores["report"]).read_text(encoding="utf-8"))["documents"]
    assert sum(rows["nats"]) / sum(rows["targets"]) == pytest.approx(scores["loss"]["value"])
    shown = wenlu("evaluate", run)
    assert "unigram_accuracy" in shown.stdout and f"{scores['loss']['value']:.4f}" in shown.stdout
    assert "nats (-ln p) a target" in " ".join(shown.stdout.split())
    monkeypatch.setenv("WENLU_LANG", "zh")
    chinese = wenlu("evaluate", run).stdout
    monkeypatch.delenv("WENLU_LANG")
    assert "目标" in chinese and not any(f"{word} " in chinese for word in ("share", "mean", "nats"))
    files = wenlu("evaluate", run, "--data", tmp_path / "text.txt", "--limit", "400", "--json")
    assert files.exit_code == 0, files.output
    assert wenlu("evaluate", run, "--stride", "3").exit_code == 2
    for context in (0, -1, *([] if task == "span_corruption" else [10**6])):
        refused = wenlu("evaluate", run, "--context", context)
        assert refused.exit_code == 2 and "--context" in refused.stderr and str(context) in refused.stderr
    refused = wenlu("evaluate", run, "--context", 1)
    assert refused.exit_code == 2 and "--context" in refused.stderr

    verified = wenlu("train", "--resume", run, "--verify", "--json")
    assert verified.exit_code == 0, verified.output
    replayed = wenlu("train", "--resume", run, "--replay", "3", "--json")
    assert replayed.exit_code == 0, replayed.output
    assert sum(part["tokens"] for part in json.loads(replayed.stdout)["documents"]) > 0

    bundle = load_bundle(run)
    assert isinstance(bundle.model, Transformer) and bundle.task == task
    config = bundle.model.config
    assert config.pad_token_id == bundle.tokenizer.pad_id
    if task in ("span_corruption", "denoising"):
        assert config.decoder_start_token_id is not None
    assert ("pair" in config.heads) == (task == "next_sentence")


@pytest.mark.parametrize(
    ("overrides", "id"),
    [
        (["task.name=masked_lm", "model.kind=gpt2"], "tasks.architecture"),
        (["task.name=masked_lm", "model.kind=lstm"], "tasks.architecture"),
        (["task.name=span_corruption", "model.kind=bert"], "tasks.architecture"),
        (["task.name=causal_lm", "model.kind=bert"], "tasks.architecture"),
        (["task.name=causal_lm", "model.kind=t5"], "tasks.architecture"),
        (["task.name=next_sentence", "model.kind=distilbert"], "tasks.heads"),
        (["task.name=next_sentence", "model.kind=roberta"], "tasks.heads"),
        (["task.name=masked_lm", "model.kind=bert", "evaluate.stride=3"], "core.setting_unused"),
        (["task.name=masked_lm", "model.kind=bert", *BIGRAMS], "core.setting_unused"),
        (["task.name=span_corruption", "model.kind=t5", "model.tie_embeddings=true", *BIGRAMS], "core.setting_unused"),
        (["task.name=denoising", "model.kind=bart", "model.tie_embeddings=false", *BIGRAMS], "core.setting_unused"),
        (["task.name=masked_lm", "model.kind=bert", "train.sequence_length=2"], "tasks.window"),
        (["task.name=next_sentence", "model.kind=bert", "train.sequence_length=3"], "tasks.window"),
        (["task.name=denoising", "model.kind=bart", "train.sequence_length=2"], "tasks.window"),
        (["model.kind=gpt2", "model.max_positions=8", "train.sequence_length=9"], "training.range"),
        (["model.kind=gpt2", "optimizer.head_rate=0.1"], "core.setting_unused"),
        (["model.initialization=wenlu", "model.tie_embeddings=true"], "models.wenlu_needs_untied"),
        (["model.kind=llama", "model.initialization=neighbours"], "models.no_neighbours"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_text_is_read(overrides: list[str], id: str) -> None:
    with pytest.raises(SettingsError) as error:
        resolve_settings(tiny_settings(*overrides, 'data.paths=["nowhere"]'))
    assert error.value.id == id


@pytest.mark.parametrize("task", KINDS)
def test_rows_that_just_hold_their_marks_are_long_enough(task: str) -> None:
    resolve_settings(tiny_settings(*settings_of(task), f"train.sequence_length={2 + (task != 'span_corruption') * 2}"))


@pytest.mark.parametrize("task", KINDS)
def test_validation_text_without_targets_is_refused_before_the_first_step(task: str, tmp_path: Path) -> None:
    """One document of one token has nothing that could be hidden; without an evaluation it does not matter."""
    corpus_for(task, tmp_path)
    store = tiny_store(tmp_path / "corpus")
    end_id = store.tokenizer.end_id
    store.validation = TokenStore.from_documents([[end_id]], end_id=end_id, vocab_size=store.tokenizer.vocab_size)
    settings = tiny_settings(*settings_of(task), "train.steps=1")
    if KINDS[task][0] == "bert":
        with pytest.raises(DataError) as error:
            train_run(settings, tmp_path / "run", evaluate=tiny_evaluate, store=store)
        assert error.value.id == "evaluation.no_targets"
        assert not (tmp_path / "run").exists()
    train_run(settings, tmp_path / "run", evaluate=None, store=store)


def test_the_tokenizer_of_a_run_gets_the_tokens_of_its_task() -> None:
    resolved, _ = resolve_settings(tiny_settings(*settings_of("denoising"), 'tokenizer.special_tokens=["[X]"]'))
    assert resolved.value.tokenizer.special_tokens == ("[X]", "[MASK]", "[CLS]", "[SEP]")
    assert resolved.origins["tokenizer.special_tokens"] == "task denoising"
    again, _ = resolve_settings(resolved)
    assert again.value == resolved.value
    causal, _ = resolve_settings(tiny_settings())
    assert not changed(causal.value.tokenizer, "tokenizer", ["special_tokens"])
