"""The plan of a run: each formula against what it stands for, and the warning before a run that is too large."""

from __future__ import annotations

import gzip
import json
import logging
import random
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet

from tiny_training import GPT2, LSTM, TRANSFORMER, WORDS, tiny_evaluate, tiny_settings, tiny_store
from wenlu.core import machine
from wenlu.core.log import LOGGER
from wenlu.models.build import build_model
from wenlu.training import planning, trial
from wenlu.training.memory import MemoryParts, memory_parts, split_batch
from wenlu.training.preparation import prepare
from wenlu.training.run import train_run
from wenlu.training.trial import Corpus, stand_in_store

PARTS = MemoryParts(
    libraries=1000, weights=100, gradients=100, optimizer=200, activations=600, attention=40, logits=50, update=80,
    batches=8,
)  # fmt: skip


@pytest.mark.parametrize("model", [TRANSFORMER, GPT2, LSTM], ids=["qwen3", "gpt2", "lstm"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_bytes_of_weights_gradients_and_optimizer_are_those_of_a_real_step(
    tmp_path: Path, model: tuple[str, ...], optimizer: str
) -> None:
    words = [word for word in model if not word.startswith("optimizer.")]
    prepared = prepare(tiny_settings(*words, f"optimizer.name={optimizer}"), store=tiny_store(tmp_path / "corpus"))
    trainer = prepared.trainer()
    gradients: dict[int, int] = {}
    for parameter in prepared.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: gradients.__setitem__(id(p), p.grad.nbytes))
    next(iter(trainer))
    parts = memory_parts(prepared.model, prepared.settings)
    assert parts.weights == sum(parameter.nbytes for parameter in prepared.model.parameters())
    assert parts.gradients == sum(gradients.values())
    state = sum(tensor.nbytes for tensor in trainer.optimizer.tensors().values() if tensor.ndim)
    assert parts.optimizer == state


@pytest.mark.parametrize("model", [TRANSFORMER, GPT2, LSTM], ids=["qwen3", "gpt2", "lstm"])
def test_the_shapes_of_a_model_need_no_memory(model: tuple[str, ...]) -> None:
    settings = tiny_settings(*model).value.model
    with torch.device("meta"):
        shapes = build_model(settings, vocab_size=50, end_id=0, sequence_length=16)
    real = build_model(settings, vocab_size=50, end_id=0, sequence_length=16)
    assert all(parameter.is_meta for parameter in shapes.parameters())
    assert {n: p.shape for n, p in shapes.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}


def test_the_peak_is_at_the_end_of_the_forward_pass_or_in_the_update() -> None:
    always = 1000 + 100 + 200 + 8
    assert PARTS.peak(accumulation=1) == always + 600 + 40 + 50
    assert PARTS.peak(accumulation=2) == always + 600 + 40 + 50 + 100
    assert replace(PARTS, activations=0).peak(accumulation=1) == always + 100 + 80


def test_the_largest_batch_fills_nine_tenths_of_the_free_memory() -> None:
    peak, fixed = 2050, 1000 + 100 + 200 + 100 + 50
    a_row = (peak - fixed) / 4
    assert PARTS.largest_batch(10_000, peak, 4) == int((9000 - fixed) / a_row) == 50
    assert PARTS.largest_batch(1_500, peak, 4) == 0


def test_a_batch_is_split_without_changing_the_step() -> None:
    assert [split_batch(24, largest) for largest in (100, 24, 23, 7, 1)] == [(24, 1), (24, 1), (12, 2), (6, 4), (1, 24)]


@pytest.mark.parametrize("words", [(), ("train.save_every=4", "evaluate.every=3"), ("evaluate.every=50%",)])
def test_evaluations_and_checkpoints_are_counted_as_a_run_makes_them(tmp_path: Path, words: tuple[str, ...]) -> None:
    resolved = tiny_settings("optimizer.learning_rate=1e-3", *words)
    train_run(resolved, tmp_path / "run", evaluate=tiny_evaluate, store=tiny_store(tmp_path / "corpus"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    events = [line["event"] for line in lines]
    expected = planning._counts(resolved.value, Corpus("prepared", 50, 1000, 100), 0.1, 12)
    assert (events.count("evaluation"), events.count("checkpoint")) == expected


def test_a_run_that_is_too_large_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    LOGGER.addHandler(handler)
    try:
        store = tiny_store(tmp_path / "corpus")
        prepare(tiny_settings(), store=store)
        assert not said
        monkeypatch.setattr(machine, "resident_bytes", lambda: (380_000_000, 380_000_000))
        monkeypatch.setattr(machine, "memory", lambda: machine.Memory(None, None, 150_000_000))
        large = ("train.batch_size=96", "train.sequence_length=1024")
        prepare(tiny_settings(*large), store=store)
    finally:
        LOGGER.removeHandler(handler)
    assert "train.batch_size=" in said[-1] and "150 MB are free" in said[-1]
    rows, times = (int(word.split("=")[1].rstrip(";")) for word in said[-1].split() if word.startswith("train."))
    assert rows < 96 and rows * times == 96


def test_a_compressed_corpus_has_the_tokens_that_it_holds(tmp_path: Path) -> None:
    """A sample of two megabytes of five: what it stands for is reckoned from bytes on the disk, read and in all."""
    draw = random.Random(1)
    lines = [f"{number} {' '.join(draw.choices(WORDS, k=40))}" for number in range(25_000)]
    content = "\n".join(lines).encode()
    assert len(content) > 5_000_000
    (tmp_path / "plain.txt").write_bytes(content)
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(content, 6))
    parquet.write_table(pyarrow.table({"text": lines}), tmp_path / "table.parquet", compression="gzip")
    tokens = []
    for name in ("plain.txt", "packed.txt.gz", "table.parquet"):
        (tmp_path / f"{name}.d").mkdir()
        settings = tiny_settings("tokenizer.kind=characters", "data.document=line", f"data.paths=['{tmp_path / name}']")
        tokens.append(trial.look_at_corpus(settings.value, tmp_path / f"{name}.d")[0].train_tokens)
    assert tokens[1:] == [pytest.approx(tokens[0], rel=0.1)] * 2
    assert tokens[0] == pytest.approx(0.95 * len(content.decode()), rel=0.1)


def test_a_stand_in_has_the_vocabulary_of_the_settings(tmp_path: Path) -> None:
    store = stand_in_store(tmp_path / "tokenizer", 777)
    assert store.tokenizer.vocab_size == store.train.vocab_size == 777
    assert store.train.num_tokens == 360 * 500 and store.validation.num_tokens == 40 * 500
    assert store.train.document(0)[-1] == store.tokenizer.end_id


GROUPS = {
    "version 2": ("0::/a/b\n", {"a/memory.max": 2000, "a/memory.current": 1500, "a/b/memory.max": "max"}),
    "version 1": (
        "4:memory:/a\n1:cpu,cpuacct:/a\n",
        {"memory/a/memory.limit_in_bytes": 2000, "memory/a/memory.usage_in_bytes": 1500, "memory/memory.stat": ""},
    ),
}


@pytest.mark.parametrize("version", GROUPS)
def test_a_limit_of_a_container_counts_as_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    line, files = GROUPS[version]
    folder = groups / ("a" if version == "version 2" else "memory/a")
    files = files | {f"{folder.relative_to(groups)}/memory.stat": "inactive_file 100\n"}
    for name, content in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(str(content), encoding="ascii")
    for name, content in (("meminfo", "MemTotal: 9 kB\nMemAvailable: 8 kB\n"), ("self/cgroup", line)):
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text(content, encoding="ascii")
    monkeypatch.setattr(machine, "_PROC", proc)
    monkeypatch.setattr(machine, "_CGROUPS", groups)
    assert machine.memory() == machine.Memory(9 * 1024, 2000, 600)


def test_the_quota_of_a_container_is_read_in_both_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "self").mkdir()
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    (tmp_path / "self" / "cgroup").write_text("0::/\n", encoding="ascii")
    assert machine.core_quota() is None
    (tmp_path / "cpu.max").write_text("150000 100000\n", encoding="ascii")
    assert machine.core_quota() == 1.5
    (tmp_path / "self" / "cgroup").write_text("1:cpu:/\n", encoding="ascii")
    (tmp_path / "cpu").mkdir()
    for name, value in (("cfs_quota_us", 50000), ("cfs_period_us", 100000)):
        (tmp_path / "cpu" / f"cpu.{name}").write_text(f"{value}\n", encoding="ascii")
    assert machine.core_quota() == 0.5
