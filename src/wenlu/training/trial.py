"""A few real steps of a run, in a process of its own that is thrown away: what they cost in memory and in time.

The trial does what the run will do (the same corpus, steps, an evaluation, a checkpoint) and reads how much memory its
process held at most.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from wenlu.core import machine
from wenlu.core.log import Notice
from wenlu.core.runs import Run
from wenlu.core.settings import load
from wenlu.data.documents import read_documents
from wenlu.data.files import find_files
from wenlu.data.report import Report
from wenlu.data.settings import DataSettings
from wenlu.data.store import Store, TokenStore
from wenlu.data.tokens import build_store, existing_store
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training import precision
from wenlu.training.compilation import uncompiled
from wenlu.training.material import PackedText
from wenlu.training.preparation import Prepared, fit_first_weights, mean_seconds, measure_seconds_per_step, prepare
from wenlu.training.resolution import tokenization
from wenlu.training.results import Evaluate
from wenlu.training.run import Consumer
from wenlu.training.settings import RunSettings

_SAMPLE_BYTES = 2_000_000
_STAND_IN_DOCUMENTS = (400, 500)  # documents of so many random tokens; a tenth is held out
_TRIAL_STEPS = 1_000_000  # of the schedule; the trial takes a few
_AS_FOR_BUDGET = 100.0  # seconds: 4 % of them are measured
_EVALUATION_SECONDS = 2.0
_KILLED = (-9, 137)  # SIGKILL, by the system, for want of memory; the trial itself ends so, too
OUT_OF_MEMORY = Notice("plan.trial_out_of_memory")


@dataclass(frozen=True)
class Corpus:
    """What is known of the texts: of a ``prepared`` store everything; figures from a sample are extrapolated."""

    source: Literal["prepared", "sampled", "none"]
    vocab_size: int
    train_tokens: int | None = None
    validation_tokens: int | None = None
    prepare_seconds: float = 0.0
    store_bytes: int = 0


@dataclass(frozen=True)
class Trial:
    """What a few real steps showed. ``libraries_bytes`` were resident before the first, without the weights."""

    ready_seconds: float
    bigrams_seconds: float
    seconds_per_step: float
    calibration_seconds: float
    evaluation_seconds_per_token: float
    checkpoint_seconds: float
    checkpoint_bytes: int
    model_bytes: int
    libraries_bytes: int | None
    peak_bytes: int | None


def look_at_corpus(settings: RunSettings, folder: Path) -> tuple[Corpus, Path | None]:
    """What is known of the texts; and a store of a sample of them when it may stand for the one to be made."""
    if not settings.data.paths:
        return Corpus("none", settings.tokenizer.vocab_size), None
    tokenizer, trained = tokenization(settings)
    found = existing_store(settings.data, tokenizer=tokenizer, tokenizer_settings=trained)
    if isinstance(found, Store):
        tokens = (found.train.num_tokens, found.validation.num_tokens)
        return Corpus("prepared", found.tokenizer.vocab_size, *tokens), None
    started, taken, report = time.perf_counter(), 0, Report()
    path = folder / "sample.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for document in read_documents(settings.data, report):
            file.write(json.dumps({"text": document.text}, ensure_ascii=False) + "\n")
            taken += document.original_bytes
            if taken > _SAMPLE_BYTES:
                break
    data = DataSettings(paths=(str(path),), validation_fraction=settings.data.validation_fraction)
    store = build_store(folder / "sample", data, tokenizer=tokenizer, tokenizer_settings=trained)
    on_disk = sum(source.path.stat().st_size for source in find_files(settings.data.paths, Report()))
    read = sum(account.bytes for account in report.files[:-1]) + (report.place() or taken)
    whole, vocab_size = taken <= _SAMPLE_BYTES, store.tokenizer.vocab_size
    scale = 1.0 if whole else max(1.0, on_disk / read)
    usable = whole or tokenizer is not None or vocab_size >= settings.tokenizer.vocab_size
    counts = (store.train.num_tokens, store.validation.num_tokens, store.train.tokens.nbytes)
    train, validation, size = (round(scale * count) for count in counts)
    seconds = scale * (time.perf_counter() - started)
    vocab_size = vocab_size if usable else settings.tokenizer.vocab_size
    return Corpus("sampled", vocab_size, train, validation, seconds, size), store.path if usable else None


def start_trial(folder: Path, command: Sequence[str], *, stand_in: int, save: bool) -> Trial | Notice:
    """Run the trial of ``folder/run.toml`` in a process of its own; what it found, or why it found nothing.

    Args:
        command: starts a process that calls ``run_trial`` with the folder that is put behind it.
        stand_in: the size of a vocabulary, for a trial with random tokens; 0: with the corpus of the settings.
        save: whether to write a checkpoint.
    """
    request = {"stand_in": stand_in, "save": save, "started": time.time()}
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode in _KILLED:
        return OUT_OF_MEMORY
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return Notice("plan.trial_failed", {"reason": last})
    return Trial(**json.loads((folder / "trial.json").read_text(encoding="utf-8")))


def run_trial(folder: Path, evaluate: Evaluate) -> None:
    """Take real steps of the run in ``folder/run.toml``, evaluate and save once; write ``folder/trial.json``.

    A run with a time for its budget measures its speed on a copy, which takes memory; so its trial does too.
    """
    with contextlib.suppress(OSError):  # if the memory does not do after all, the system should end the trial first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    _import_everything()
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    resolved = load(RunSettings, file=folder / "run.toml")
    stand_in = request["stand_in"]
    prepared = prepare(resolved, store=stand_in_store(folder / "tokenizer", stand_in) if stand_in else None)
    ready, train = time.time() - request["started"], prepared.settings.train
    weights = sum(parameter.nbytes for parameter in prepared.model.parameters())
    libraries = (machine.resident_bytes()[0] or weights) - weights
    budget = train.length
    with precision.machine(train):
        bigrams = fit_first_weights(prepared)
        started = time.perf_counter()
        measured = measure_seconds_per_step(prepared, budget.value) if budget.unit == "seconds" else None
        calibration = time.perf_counter() - started if measured else 0.0
        prepared.settle("train.steps", "trial", steps=_TRIAL_STEPS, budget=None)
        consumer = Consumer(Run.create(folder / "run"), prepared, evaluate)
        seconds = mean_seconds(consumer.trainer, _AS_FOR_BUDGET)
        scoring = _time_evaluation(prepared, seconds, evaluate)
        started = time.perf_counter()
        if request["save"]:
            consumer.save(consumer.trainer.step)
        saving = time.perf_counter() - started
        consumer.run.close()
    files = {path.name: path.stat().st_size for path in chain(*(path.iterdir() for path in consumer.run.checkpoints()))}
    trial = Trial(
        ready_seconds=ready,
        bigrams_seconds=bigrams,
        seconds_per_step=measured or seconds,
        calibration_seconds=calibration,
        evaluation_seconds_per_token=scoring,
        checkpoint_seconds=saving,
        checkpoint_bytes=sum(files.values()),
        model_bytes=sum(files.values()) - files.get("optimizer.safetensors", 0),
        libraries_bytes=libraries or None if train.device == "cpu" else 0,
        peak_bytes=machine.resident_bytes()[1] if train.device == "cpu" else torch.cuda.max_memory_reserved(),
    )
    (folder / "trial.json").write_text(json.dumps(asdict(trial)), encoding="utf-8")


def stand_in_store(folder: Path, vocab_size: int) -> Store:
    """Random tokens of a vocabulary of this size, for a trial without a corpus."""
    words = " ".join(f"w{number}" for number in range(vocab_size))
    tokenizer = Tokenizer.train([words], TokenizerSettings(kind="words", vocab_size=vocab_size, min_frequency=1))
    tokenizer.save(folder)
    drawn = np.random.Generator(np.random.PCG64(0)).integers(0, tokenizer.vocab_size, _STAND_IN_DOCUMENTS)
    drawn[:, -1] = tokenizer.end_id
    end_id, context_id, size = tokenizer.end_id, tokenizer.context_id, tokenizer.vocab_size
    made = partial(TokenStore.from_documents, end_id=end_id, context_id=context_id, vocab_size=size)
    train, validation, test = (made(part.tolist()) for part in (drawn[40:], drawn[:40], drawn[:0]))
    store = Store(folder, train=train, validation=validation, test=test, record={}, fingerprint="stand-in")
    store.tokenizer = tokenizer
    return store


def _import_everything() -> None:
    """Load what a first step loads late, its kernels too."""
    layer = torch.nn.Linear(8, 8)
    layer(torch.ones(2, 8)).sum().backward()
    torch.optim.AdamW(layer.parameters(), fused=True).step()


def _time_evaluation(prepared: Prepared, seconds_per_step: float, evaluate: Evaluate) -> float:
    """Seconds a token of the validation text, from as many as take about two seconds."""
    assert isinstance(prepared.material, PackedText), "labelled examples are not planned"
    validation, settings = prepared.material.store.validation, prepared.settings.evaluate
    if not validation.num_tokens:
        return 0.0
    context = settings.context or prepared.settings.train.sequence_length
    wanted = max(4 * context, _EVALUATION_SECONDS * prepared.pace.tokens_per_step / seconds_per_step)
    wanted = int(min(wanted, settings.max_tokens or math.inf, validation.num_tokens))
    with uncompiled(prepared.settings.train.compile):
        started = time.perf_counter()
        evaluate(prepared.model, validation, settings, context=context, max_tokens=wanted)
        return (time.perf_counter() - started) / wanted
