"""What is NaN or infinite stops a run or is left out, is reported with its texts, and is never published."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from promises import Figure, Lane
from tiny_training import LSTM, TRANSFORMER, losses, tiny_evaluate, tiny_settings, tiny_store
from wenlu.cli.main import main
from wenlu.core.errors import CheckpointError, NotFiniteError, SettingsError
from wenlu.core.publication import verify
from wenlu.core.runs import Run
from wenlu.data.loader import Loader
from wenlu.data.store import Store, TokenStore
from wenlu.training.optimizers import Optimizer
from wenlu.training.preparation import prepare
from wenlu.training.run import resume_run, train_run
from wenlu.training.trainer import MOST_SKIPPED
from wenlu.training.verification import replay_step, verify_run

STEPS = 12
MUON = (*TRANSFORMER, "optimizer.name=muon")
EVERY_3 = ("train.save_every=3", "evaluate.every=100")


def poisoned_store(directory: Path, index: int, overrides: Sequence[str] = ()) -> tuple[Store, Loader, int]:
    """The tiny corpus in which one document of the step with this index holds unknown tokens only; the tokens' id."""
    store = tiny_store(directory)
    loader = prepare(tiny_settings(*overrides), store=store).loader
    unknown = store.tokenizer.unknown_id
    assert unknown is not None
    doomed = loader.documents(index)[0][0]
    documents = [store.train.document(number).tolist() for number in range(store.train.num_documents)]
    documents[doomed][:-1] = [unknown] * (len(documents[doomed]) - 1)
    train = TokenStore.from_documents(documents, end_id=store.train.end_id, vocab_size=store.train.vocab_size)
    poisoned = Store(
        store.path, train=train, validation=store.validation, test=store.test, record={}, fingerprint="poisoned"
    )
    return poisoned, prepare(tiny_settings(*overrides), store=poisoned).loader, unknown


def poison(monkeypatch: pytest.MonkeyPatch, unknown: int, spoil: Callable[[Tensor], Tensor]) -> None:
    """Let the embedding of the unknown token be spoiled, in every model."""

    def forward(module: nn.Embedding, ids: Tensor) -> Tensor:
        vectors = nn.functional.embedding(ids, module.weight)
        if unknown in ids:
            vectors = vectors.masked_scatter((ids == unknown)[..., None], spoil(vectors[ids == unknown]))
        return vectors

    monkeypatch.setattr(nn.Embedding, "forward", forward)


def infinite(vectors: Tensor) -> Tensor:
    """A loss that is NaN."""
    return vectors * torch.inf


def steep(vectors: Tensor) -> Tensor:
    """A finite loss whose gradient is NaN: the root of zero."""
    return vectors + (vectors * 0).abs().sqrt()


def wrong_steps(loader: Loader, unknown: int, *, accumulation: int = 1) -> list[int]:
    """The steps that read an unknown token, from 1."""
    batches = range(STEPS * accumulation)
    return sorted({1 + n // accumulation for n in batches if unknown in loader.batch(n)["input_ids"]})


def log_of(run: Path, event: str) -> list[dict[str, object]]:
    return [line for line in Run(run).read_log() if line["event"] == event]


def count_published(run: Path) -> int:
    """The number of checkpoints; every tensor in each is finite."""
    checkpoints = Run(run).checkpoints()
    for checkpoint in checkpoints:
        verify(checkpoint)
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert all(bool(tensor.isfinite().all()) for tensor in load_file(checkpoint / name).values())
    return len(checkpoints)


def times_of(run: Path) -> dict[Path, int]:
    """When the files of a run were written, its lock apart."""
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "lock"}


def reports(run: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((run / "reports").glob("*"))]


@pytest.mark.promise("T11")
def test_a_loss_or_gradient_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: Lane, figure: Figure
) -> None:
    """At every chosen step, under both policies; the report names the texts, and nothing spoiled is published."""
    cases = published = 0
    for index in range(0, STEPS, STEPS // lane(ci=3, nightly=STEPS)):
        store, loader, unknown = poisoned_store(tmp_path / "corpus", index)
        steps = wrong_steps(loader, unknown)
        assert index + 1 in steps
        for spoil in (infinite, steep):
            poison(monkeypatch, unknown, spoil)
            stopped, skipped = (tmp_path / f"{policy}-{index}-{spoil.__name__}" for policy in ("stop", "skip"))
            with pytest.raises(NotFiniteError, match=f"step {steps[0]}, micro-batch {steps[0] - 1}\n"):
                train_run(tiny_settings(*MUON, *EVERY_3), stopped, store=store)
            assert Run(stopped).status()["error"] == "training.not_finite"
            assert len(log_of(stopped, "step")) == steps[0] - 1
            result = train_run(tiny_settings(*MUON, *EVERY_3, "train.non_finite=skip"), skipped, store=store)
            assert (result.state, result.step) == ("finished", STEPS)
            assert [line["step"] for line in log_of(skipped, "skipped")] == steps
            assert sorted([step for step, _ in losses(skipped)] + steps) == list(range(1, STEPS + 1))
            assert verify_run(skipped, store=store).last == STEPS
            assert [report["step"] for report in reports(skipped)] == steps
            published += count_published(stopped) + count_published(skipped)
            check_report(reports(stopped)[0], loader, unknown, by_loss=spoil is infinite)
            cases += 2
    figure(f"{cases} runs with NaN in a loss or a gradient: all obeyed; 0 of {published} checkpoints not finite")


def check_report(report: dict, loader: Loader, unknown: int, *, by_loss: bool) -> None:  # type: ignore[type-arg]
    """What the report of a stopped run says about the step and its texts."""
    number = report["seen"]["step"] - 1
    assert report["seen"]["rate"] > 0
    assert (report["seen"]["loss"] == "nan") == by_loss
    assert report["seen"]["norm"] == "nan"
    assert not report["is_finite"] and not report["held"]
    assert report["parameters"], "some gradient is not finite"
    assert report["modules"][:1] == (["decoder.embeddings.token (Embedding)"] if by_loss else [])
    batch, rows = loader.batch(number), loader.documents(number)
    assert [(part["row"], part["document"]) for part in report["documents"]] == [
        (row, document) for row, documents in enumerate(rows) for document in documents
    ]
    for part in report["documents"]:
        piece = rows[part["row"]].index(part["document"])
        here = batch["document_ids"][part["row"]] == piece
        assert part["ids"] == " ".join(map(str, batch["labels"][part["row"]][here].tolist()))
        read = batch["input_ids"][part["row"]][here]
        assert (part["loss"] == "nan") == (by_loss and unknown in read), "exactly the texts that are to blame"
        assert ("[UNK]" in part["text"]) == (str(unknown) in part["ids"].split())


@pytest.mark.promise("T11")
@pytest.mark.parametrize("where", ["weight", "Muon's momentum", "Adam's average"])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_weight_or_a_state_that_is_not_finite(
    where: str, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    """Leaving out cannot help: both policies stop, at the next step or at the next save."""
    store = tiny_store(tmp_path / "corpus")
    plain, calls = Optimizer.step, iter(range(1, 1000))

    def spoiling(self: Optimizer) -> None:
        plain(self)
        if next(calls) == 5:
            name = (
                "decoder.layers.0.self_attention.q.weight" if where != "Adam's average" else "decoder.final_norm.weight"
            )
            keys = {"Muon's momentum": "momentum_buffer", "Adam's average": "exp_avg"}
            spoiled = self.parameters[name] if where == "weight" else self.tensors()[f"{name}/{keys[where]}"]
            spoiled.detach().view(-1)[3] = torch.inf

    monkeypatch.setattr(Optimizer, "step", spoiling)
    settings = tiny_settings(*MUON, *EVERY_3, f"train.non_finite={policy}")
    with pytest.raises(NotFiniteError) as caught:
        train_run(settings, tmp_path / "run", store=store)
    seen_in_the_loss = policy == "stop" and where == "weight"
    assert caught.value.id == ("training.not_finite" if seen_in_the_loss else "training.weights_not_finite")
    assert count_published(tmp_path / "run") == 1
    assert len(losses(tmp_path / "run")) in (5, 6), "not one step is trained on top of it"
    for report in reports(tmp_path / "run"):
        assert len(report["held"]) >= 1
    figure(f"inf in {where}, {policy}: stopped within one step, 0 checkpoints not finite")


def test_more_than_ten_in_a_row_stop_the_run_and_a_resume_goes_on_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiny_store(tmp_path / "corpus")
    plain = nn.functional.embedding
    monkeypatch.setattr(nn.Embedding, "forward", lambda module, ids: plain(ids, module.weight) * torch.inf)
    monkeypatch.setattr("wenlu.training.trainer.MOST_SKIPPED", 4)
    settings = tiny_settings(*TRANSFORMER, "train.save_every=2", "evaluate.every=3", "train.non_finite=skip")
    with pytest.raises(NotFiniteError):
        train_run(settings, tmp_path / "unbroken", store=store)

    def interrupted(*_: object, **__: object) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(settings, tmp_path / "broken", evaluate=interrupted, store=store)
    with pytest.raises(NotFiniteError):
        resume_run(tmp_path / "broken", store=store)
    skipped = [[line["step"] for line in log_of(tmp_path / name, "skipped")] for name in ("unbroken", "broken")]
    assert skipped[0] == skipped[1] == [1, 2, 3, 4]
    assert MOST_SKIPPED == 10


def test_the_step_that_stops_a_run_is_reported_after_many_reports_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = nn.functional.embedding
    monkeypatch.setattr(nn.Embedding, "forward", lambda module, ids: plain(ids, module.weight) * torch.inf)
    monkeypatch.setattr("wenlu.training.trainer.MOST_SKIPPED", 4)
    monkeypatch.setattr("wenlu.training.inspection._MOST_REPORTS", 2)
    with pytest.raises(NotFiniteError):
        train_run(
            tiny_settings(*TRANSFORMER, "train.non_finite=skip"),
            tmp_path / "run",
            store=tiny_store(tmp_path / "corpus"),
        )
    assert [report["step"] for report in reports(tmp_path / "run")] == [1, 2, 5]
    assert caplog.text.count("that was report 2") == 1


def test_a_replay_leaves_out_what_the_log_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting may have been changed since."""
    store, loader, unknown = poisoned_store(tmp_path / "corpus", 4, TRANSFORMER)
    poison(monkeypatch, unknown, infinite)
    [wrong, *_] = wrong_steps(loader, unknown)
    run = tmp_path / "run"
    train_run(tiny_settings(*TRANSFORMER, "train.save_every=100", "train.non_finite=skip"), run, store=store)
    text = (run / "run.toml").read_text(encoding="utf-8")
    assert 'non_finite = "skip"' in text
    (run / "run.toml").write_text(text.replace('non_finite = "skip"', 'non_finite = "stop"'), encoding="utf-8")
    assert verify_run(run, store=store).last == STEPS
    assert replay_step(run, STEPS, store=store).step == STEPS > wrong


@pytest.mark.parametrize("model", [TRANSFORMER, LSTM])
def test_left_out_steps_are_left_out_again_bit_for_bit(
    model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stopped at such a step, was told to leave it out, and was interrupted, is one that left it out."""
    store, loader, unknown = poisoned_store(tmp_path / "corpus", 4, [*model, "train.accumulation=2"])
    poison(monkeypatch, unknown, infinite)
    settings = [*model, "train.accumulation=2", "train.save_every=2", "evaluate.every=7"]
    whole = tiny_settings(*settings, "train.non_finite=skip")
    train_run(whole, tmp_path / "whole", evaluate=tiny_evaluate, store=store)
    steps = wrong_steps(loader, unknown, accumulation=2)
    assert [line["step"] for line in log_of(tmp_path / "whole", "skipped")] == steps
    assert 0 < steps[0] < 7

    def interrupted(*_: object, **__: object) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(NotFiniteError):
        train_run(tiny_settings(*settings), tmp_path / "broken", evaluate=tiny_evaluate, store=store)
    with pytest.raises(KeyboardInterrupt):
        resume_run(tmp_path / "broken", overrides=["train.non_finite=skip"], evaluate=interrupted, store=store)
    resume_run(tmp_path / "broken", evaluate=tiny_evaluate, store=store)
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    last = f"checkpoints/step-{STEPS:08d}/optimizer.safetensors"
    whole_state, broken_state = load_file(tmp_path / "whole" / last), load_file(tmp_path / "broken" / last)
    assert whole_state.keys() == broken_state.keys()
    assert all(torch.equal(tensor, broken_state[name]) for name, tensor in whole_state.items())


@pytest.mark.promise("T11")
@pytest.mark.parametrize("model", [TRANSFORMER, LSTM])
def test_the_step_is_replayed(
    model: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figure: Figure,
) -> None:
    store, loader, unknown = poisoned_store(tmp_path / "corpus", 4, model)
    poison(monkeypatch, unknown, infinite)
    [wrong, *_] = wrong_steps(loader, unknown)
    with pytest.raises(NotFiniteError):
        train_run(tiny_settings(*model, *EVERY_3), tmp_path / "run", store=store)
    files = times_of(tmp_path / "run")
    found = replay_step(tmp_path / "run", wrong, store=store)
    assert times_of(tmp_path / "run") == files
    assert (found.step, found.loss, found.is_finite) == (wrong, "nan", False)
    assert found.modules[0].endswith("(Embedding)")
    assert [part.loss == "nan" for part in found.documents].count(True) >= 1
    assert set(found.gradient_norms.values()) >= {"nan"}
    [good] = [line for line in log_of(tmp_path / "run", "step") if line["step"] == wrong - 1]
    before = replay_step(tmp_path / "run", wrong - 1, store=store)
    assert before.is_finite and before.loss == good["loss"], "the same bits as in the log"
    assert before.gradient_norm == good["gradient_norm"]
    norm = sum(float(value) ** 2 for value in before.gradient_norms.values()) ** 0.5
    assert norm == pytest.approx(good["gradient_norm"], rel=1e-5)
    for beyond in (0, STEPS + 1):
        with pytest.raises(SettingsError, match=f"{beyond}; the run has steps 1 to {STEPS}"):
            replay_step(tmp_path / "run", beyond, store=store)
    figure(f"step {wrong} of {model[0]} replayed: {len(found.documents)} texts, first at {found.modules[0]}")


def test_replay_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("\n".join(f"line {n} of a text\n" for n in range(60)), encoding="utf-8")
    run = str(tmp_path / "run")
    overrides = [*TRANSFORMER, "train.steps=3", "train.batch_size=2", "train.sequence_length=16", "train.threads=1"]
    words = ["train", *overrides, "tokenizer.vocab_size=300", "--data", str(tmp_path / "text.txt"), "-o", run]

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out + captured.err

    def record(*arguments: str) -> dict[str, object]:
        with pytest.raises(SystemExit):
            main([*arguments, "--json"])
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    assert call(*words, "--preset", "llama-tiny")[0] == 0
    code, shown = call("train", "--resume", run, "--replay", "2")
    assert code == 0
    assert "step 2: loss" in shown and "every loss, output and gradient of this step is finite" in shown
    assert "line" in shown
    found = record("train", "--resume", run, "--replay", "2")
    assert found["is_finite"] is True
    assert found["step"] == 2
    for wrong in (["--replay", "2"], ["--resume", run, "--verify", "--replay", "2"]):
        code, shown = call("train", *wrong)
        assert code == 2 and "--replay needs the run" in shown


def test_an_ngram_has_no_steps_to_replay(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "corpus")
    from wenlu.core.settings import load
    from wenlu.training.settings import RunSettings

    train_run(load(RunSettings, overrides=["model.kind=ngram"]), tmp_path / "run", store=store)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        replay_step(tmp_path / "run", 1, store=store)


def test_a_rate_that_blows_up_publishes_nothing(tmp_path: Path) -> None:
    """A real overflow, not a made one."""
    settings = tiny_settings(*TRANSFORMER, "optimizer.learning_rate=1e30", "train.save_every=1", "train.clip=0")
    with pytest.raises(NotFiniteError):
        train_run(settings, tmp_path / "run", store=tiny_store(tmp_path / "corpus"))
    count_published(tmp_path / "run")
    [report] = reports(tmp_path / "run")
    assert not report["is_finite"]
