"""A directory of every kind that Wenlu writes, made from a small text: a store, six models, two stopped runs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from tiny_training import SMALL, tiny_evaluate, tiny_texts
from wenlu.bundle import save_bundle
from wenlu.core.publication import publish
from wenlu.core.settings import load
from wenlu.data.settings import DataSettings
from wenlu.data.store import Store, TokenStore
from wenlu.data.tokens import build_store
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.models.mixture import Mixture
from wenlu.models.ngram import fit
from wenlu.tokenization.tokenizer import TokenizerSettings
from wenlu.training.run import train_run
from wenlu.training.settings import EvaluateSettings, RunSettings

TRANSFORMERS = ("gpt2", "llama", "qwen2", "qwen3")
MODELS = (*TRANSFORMERS, "lstm", "ngram", "mixture")
RUNS = {
    "qwen3": ("model.kind=qwen3", "model.num_heads=2", "model.num_layers=1", "model.dropout=0.1"),
    "lstm": ("model.kind=lstm", "model.embedding_size=8", "model.num_layers=1", "optimizer.name=adam"),
}
STOPPED_AT, STEPS = 4, 6


def make_world(folder: Path, *, hidden_size: int = 8, keep: int = 2) -> None:
    """Write ``text.txt``, ``store``, ``models/KIND`` and ``runs/KIND`` below a folder.

    The runs are stopped at step 4 of 6; of the checkpoints of steps 2 and 4 they keep the newest ``keep``.
    """
    (folder / "text.txt").write_text("\n".join(tiny_texts(40)) + "\n", encoding="utf-8")
    settings = DataSettings(paths=("text.txt",), document="line", validation_fraction=0.2)
    kind = TokenizerSettings(kind="characters", vocab_size=100)
    with contextlib.chdir(folder):  # the store names its texts as they are given
        build_store(Path("store"), settings, tokenizer_settings=kind)
    store = Store.open(folder / "store")
    for name, model in _models(store, hidden_size).items():
        save_model_directory(model, store, folder / "models" / name)
    for name in RUNS:
        stopped_run(folder / "runs" / name, store, name, f"model.hidden_size={hidden_size}", f"train.keep={keep}")


def save_model_directory(model: nn.Module, store: Store, path: Path) -> None:
    """Publish a model with the tokenizer of a store."""
    publish(path, lambda directory: save_bundle(directory, model=model, tokenizer=store.tokenizer))


def stopped_run(path: Path, store: Store, kind: str, *more: str) -> None:
    """Train to step 4 of 6, where a signal stops the run; ``more`` settings win."""

    def stop_at_once(
        model: nn.Module, split: TokenStore, settings: EvaluateSettings, *, context: int, max_tokens: int
    ) -> Mapping[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return tiny_evaluate(model, split, settings, context=context, max_tokens=max_tokens)

    length = (f"train.steps={STEPS}", "train.save_every=2", f"evaluate.every={STOPPED_AT}")
    overrides = [*RUNS[kind], *SMALL, *length, f"data.paths=[{str(store.path)!r}]", *more]
    result = train_run(load(RunSettings, overrides=overrides), path, evaluate=stop_at_once)
    assert (result.state, result.step) == ("stopped", STOPPED_AT)


def _models(store: Store, hidden_size: int) -> dict[str, nn.Module]:
    """A network of every kind with random parameters, a fitted n-gram model, and a mixture of two."""
    sizes = {"vocab_size": store.tokenizer.vocab_size, "end_id": store.tokenizer.end_id}
    made: dict[str, nn.Module] = {}
    for kind in TRANSFORMERS:
        settings = ModelSettings(kind=kind, hidden_size=hidden_size, num_heads=2, num_layers=1)
        made[kind] = build_model(settings, **sizes, sequence_length=16, seed=1)
    settings = ModelSettings(kind="lstm", hidden_size=hidden_size, embedding_size=6)
    made["lstm"] = build_model(settings, **sizes, sequence_length=16, seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (parameter for model in made.values() for parameter in model.parameters()):
            parameter.normal_(std=0.3, generator=generator)
    made["ngram"] = fit(store.train, order=3, **sizes)
    made["mixture"] = Mixture([made["lstm"], made["ngram"]], [0.25, 0.75])
    return made
