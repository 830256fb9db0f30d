"""A tokenizer that puts a start token before texts, as Llama's does: what is trained, counted, scored and continued
with it reads a text after that token, everywhere, and nothing that was begun otherwise goes on silently.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tiny_tokenizers import tiny_with_start
from tiny_training import LSTM, TRANSFORMER, WORDS, losses
from wenlu.bundle import load_bundle
from wenlu.cli.main import main
from wenlu.core.errors import CheckpointError
from wenlu.core.settings import load
from wenlu.data.settings import DataSettings
from wenlu.data.store import Store
from wenlu.data.tokens import build_store
from wenlu.evaluation.evaluator import evaluate_split
from wenlu.generation.settings import GenerationSettings
from wenlu.generation.text import complete, prepare
from wenlu.training import preparation
from wenlu.training.run import resume_run, train_run
from wenlu.training.settings import EvaluateSettings, RunSettings
from wenlu.training.verification import replay_step, verify_run

MODELS = {"transformer": TRANSFORMER, "lstm": LSTM, "ngram": ("model.kind=ngram", "model.order=2")}
STEPS = ("train.steps=60", "train.batch_size=8", "optimizer.learning_rate=0.03", "train.threads=1")


def settings(store: Path, *overrides: str) -> list[str]:
    sizes = ["train.sequence_length=16", *overrides, f'data.paths=["{store}"]']
    return sizes if "model.kind=ngram" in overrides else [*sizes, "train.precision=fp32"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed corpus whose documents begin with one of two words that nothing else begins with, and three runs."""
    home = tmp_path_factory.mktemp("start")
    draw = random.Random(3)
    lines = [" ".join([draw.choice(["Yes", "No"]), *draw.choices(WORDS, k=draw.randint(3, 9))]) for _ in range(200)]
    (home / "text.txt").write_text("\n".join(dict.fromkeys(lines)), encoding="utf-8")
    data = DataSettings(paths=(str(home / "text.txt"),), document="line", validation_fraction=0.2)
    build_store(home / "store", data, tokenizer=tiny_with_start(written=True))
    for name, model in MODELS.items():
        steps = () if name == "ngram" else STEPS
        resolved = load(RunSettings, overrides=settings(home / "store", *model, *steps))
        train_run(resolved, home / "runs" / name, evaluate=evaluate_split)
    return home


@pytest.fixture
def store(home: Path) -> Store:
    return Store.open(home / "store")


def begin(path: Path, store: Store) -> None:
    """Train and stop after the sixth of twelve steps, at the second checkpoint."""

    def evaluate(*arguments: object, **options: object) -> dict[str, float]:
        raise KeyboardInterrupt

    words = [*TRANSFORMER, "train.steps=12", "train.save_every=3", "evaluate.every=7", "train.threads=1"]
    resolved = load(RunSettings, overrides=settings(store.path, *words, "train.batch_size=2"))
    with pytest.raises(KeyboardInterrupt):
        train_run(resolved, path, evaluate=evaluate, store=store)


def test_documents_are_packed_after_the_start_token(store: Store) -> None:
    tokenizer = store.tokenizer
    assert {split.context_id for split in (store.train, store.validation)} == {tokenizer.start_id}
    assert tokenizer.start_id != tokenizer.end_id == store.train.end_id
    assert store.load_tokenizer is not None and store.load_tokenizer() is tokenizer, "it is loaded once"


@pytest.mark.parametrize("name", MODELS)
def test_what_a_run_logs_is_what_evaluate_says(
    name: str, home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    log = [json.loads(line) for line in (home / "runs" / name / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    [final] = [record for record in log if record["event"] == "final_evaluation"]
    result = CliRunner().invoke(main, ["evaluate", f"runs/{name}", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["loss"] == pytest.approx(final["loss"], abs=1e-9)
    assert "|start:start-token|end-token:scored|" in found["definition"]
    model = load_bundle(home / "runs" / name).model
    store.validation.context_id = store.validation.end_id
    after_end = evaluate_split(model, store.validation, EvaluateSettings(), context=16, max_tokens=0)
    assert abs(after_end["loss"] - found["loss"]) > 1e-5, "after another token it is another number"


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_generation_begins_with_what_was_trained(name: str, home: Path, store: Store) -> None:
    bundle = load_bundle(home / "runs" / name)
    model, tokenizer = bundle.language_model, bundle.tokenizer
    assert tokenizer.start_id is not None
    log_probs = model(torch.tensor([[tokenizer.start_id]]))[0, -1].log_softmax(0)
    firsts = Counter(int(store.train.document(number)[0]) for number in range(store.train.num_documents))
    trained = sum(float(log_probs[token].exp()) for token in firsts)
    assert trained > 0.8, "after the start token comes what documents begin with"
    greedy = GenerationSettings(do_sample=False, max_new_tokens=1)
    [completion] = complete(model, tokenizer, prepare(tokenizer, "", greedy, max_positions=None), greedy)
    assert completion.ids == (int(log_probs.argmax()),) and completion.ids[0] in firsts
    assert completion.log_probs[0] == pytest.approx(float(log_probs.max()), abs=1e-6)


def test_an_ngram_run_counts_what_begins_documents(home: Path, store: Store) -> None:
    """By definition, of a bigram model: the discounted share after the start token, over the lower order's."""
    bundle = load_bundle(home / "runs/ngram")
    documents = [store.train.document(number).tolist() for number in range(store.train.num_documents)]
    pairs = Counter(pair for ids in documents for pair in zip(["<s>", *ids[:-1]], ids, strict=True))
    lower = Counter(token for _, token in pairs)  # different tokens before each
    (a1, a2, a3), (b1, b2, b3) = bundle.model.config.discounts  # type: ignore[union-attr]
    total, size = sum(lower.values()), bundle.tokenizer.vocab_size
    held = sum((a1, a2, a3)[min(count, 3) - 1] for count in lower.values())
    after = {token: count for (context, token), count in pairs.items() if context == "<s>"}
    backoff = sum((b1, b2, b3)[min(count, 3) - 1] for count in after.values()) / len(documents)
    found = bundle.language_model(torch.tensor([[store.train.context_id]]))[0, 0]
    for token in [*after, store.train.end_id, store.train.context_id]:
        below = max(lower[token] - (0, a1, a2, a3)[min(lower[token], 3)], 0) / total + held / total / size
        share = max(after.get(token, 0) - (0, b1, b2, b3)[min(after.get(token, 0), 3)], 0) / len(documents)
        assert float(found[token].exp()) == pytest.approx(share + backoff * below, rel=1e-4)


def test_the_first_weights_know_what_begins_documents(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(preparation, "_LEAST_PAIRS", 0)
    monkeypatch.setattr(preparation, "fit_bigrams", lambda *_, borders, **__: found.append(borders) or 5)
    words = [*TRANSFORMER, "model.tie_embeddings=false", "train.bigram_steps=5", "train.steps=1"]
    prepared = preparation.prepare(load(RunSettings, overrides=settings(store.path, *words)))
    preparation.fit_first_weights(prepared)
    assert found == [(store.train.end_id, store.tokenizer.start_id)]


def test_a_comparison_says_how_each_model_reads_a_text(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    words = ["model.kind=ngram", "model.order=2", "tokenizer.vocab_size=300", 'data.paths=["text.txt"]']
    train_run(load(RunSettings, overrides=[*words, "data.document=line"]), home / "runs/other", evaluate=evaluate_split)
    result = CliRunner().invoke(main, ["compare", "ngram", "other", "transformer", "--data", "text.txt"])
    assert result.exit_code == 0, result.output
    lines = {line.partition(": ")[0]: line for line in result.stdout.splitlines() if "|stride:" in line}
    assert len(lines) == 2 and "|start:end-token|" in lines["other"]
    [others] = lines.keys() - {"other"}
    assert set(others.split(", ")) == {"ngram", "transformer"} and "|start:start-token|" in lines[others]


def test_the_files_of_a_trained_model_name_the_start_token(home: Path, store: Store) -> None:
    final, start = home / "runs/transformer/final", store.train.context_id
    for name in ("config.json", "generation_config.json"):
        record = json.loads((final / name).read_text(encoding="utf-8"))
        assert (record["bos_token_id"], record["eos_token_id"]) == (start, store.train.end_id)
    assert load_bundle(final).model.config.start_token_id == start  # type: ignore[union-attr]


def test_a_stopped_run_goes_on_exactly(home: Path, store: Store, tmp_path: Path) -> None:
    begin(tmp_path / "run", store)
    resume_run(tmp_path / "run", store=Store.open(store.path))
    whole = load(RunSettings, file=tmp_path / "run/run.toml")
    train_run(whole, tmp_path / "whole", store=store)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert verify_run(tmp_path / "run", store=store).last == 12


def test_a_run_that_began_after_the_end_token_is_refused(home: Path, store: Store, tmp_path: Path) -> None:
    """As an earlier version trained, and wrote its checkpoints."""
    store.train.context_id = store.train.end_id
    begin(tmp_path / "run", store)
    store = Store.open(home / "store")
    saved = losses(tmp_path / "run")
    for go_on in (
        lambda: resume_run(tmp_path / "run", store=store),
        lambda: resume_run(tmp_path / "run", store=store, allow_inexact=True),
        lambda: verify_run(tmp_path / "run", store=store),
        lambda: replay_step(tmp_path / "run", 2, store=store),
        lambda: replay_step(tmp_path / "run", 5, store=store),
    ):
        with pytest.raises(CheckpointError) as caught:
            go_on()
        assert caught.value.id == "training.start_token"
        assert caught.value.values["then"] == store.train.end_id and caught.value.values["now"] == 420
    assert losses(tmp_path / "run") == saved
