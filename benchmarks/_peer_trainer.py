"""transformers' Trainer as its users run it on a causal language model, and what both training benchmarks need of it.

The text is concatenated, documents separated by the end token, and cut into rows of one length: what its example script
``run_clm.py`` does. What is said nowhere here is TrainingArguments' own default. Nothing is logged, saved or evaluated.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, TrainerCallback, TrainingArguments

from wenlu.data.fetch import fetch_corpus
from wenlu.data.settings import DataSettings
from wenlu.data.store import Store, TokenStore
from wenlu.data.tokens import prepared_store
from wenlu.models.checkpoint import load_model
from wenlu.models.transformer import Transformer
from wenlu.tasks._base import TaskSettings
from wenlu.tasks.causal_lm import CausalLM
from wenlu.tokenization.tokenizer import TokenizerSettings

WARMUP_STEPS, LEAST_STEPS, LEAST_SECONDS, MOST_SECONDS, SHARE = 3, 10, 2.0, 10.0, 0.04
HELD_OUT = 0.04
"""The share of documents of the validation split, and of the test split."""


def quieten() -> None:
    """No notes and bars of transformers between our tables."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Shape:
    """The sizes of a GPT-2."""

    num_layers: int
    hidden_size: int
    num_heads: int


def packed_corpus(paths: Sequence[str], *, vocab_size: int) -> Store:
    """The texts in three splits, tokenised by a byte-level BPE of the train split; without paths, the demo's texts.

    Kept in the cache of ``wenlu data``. A path may be a packed store, which is taken as it is.
    """
    texts = tuple(paths) or tuple(str(path) for path in fetch_corpus("demo", fallback=True))
    settings = DataSettings(paths=texts, validation_fraction=HELD_OUT, test_fraction=HELD_OUT)
    return prepared_store(settings, tokenizer_settings=TokenizerSettings(vocab_size=vocab_size))


def build_peer(shape: Shape, *, vocab_size: int, context: int, dropout: float, seed: int) -> GPT2LMHeadModel:
    """A new GPT-2 with transformers' own initial weights."""
    quieten()
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=context,
        n_layer=shape.num_layers,
        n_embd=shape.hidden_size,
        n_head=shape.num_heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def as_ours(model: GPT2LMHeadModel) -> Transformer:
    """The same model as one of ours, by way of its files."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = load_model(Path(folder), dtype=torch.float32)
    assert isinstance(loaded, Transformer)
    return loaded


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Rows of ``length`` tokens; the labels are the inputs, which the model itself shifts."""

    def __init__(self, store: TokenStore, length: int) -> None:
        count = store.num_tokens // length
        self.tokens = torch.from_numpy(store.tokens[: count * length].astype(np.int64)).view(count, length)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def first_losses(peer: GPT2LMHeadModel, rows: Rows) -> tuple[float, float]:
    """The mean loss of the first row under their model and under ours made of it: nats a token."""
    ids = rows[0]["input_ids"][None]
    theirs = peer.eval()(input_ids=ids, labels=ids).loss.item()
    inputs = ids[:, :-1]
    positions = torch.arange(inputs.shape[1])[None]
    batch = {"input_ids": inputs, "labels": ids[:, 1:], "position_ids": positions}
    batch["document_ids"] = torch.zeros_like(inputs)
    term = CausalLM(TaskSettings()).loss(as_ours(peer), batch)["cross_entropy"]
    return theirs, term.total.item() / inputs.numel()


class AfterEachStep(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Calls ``go_on`` after every step and stops the training when it answers False; ``seconds`` the loop has taken."""

    def __init__(self, go_on: Callable[[], bool]) -> None:
        self.go_on = go_on
        self.started = self.seconds = 0.0

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]  # its own signature
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]  # its own signature
        self.seconds = time.perf_counter() - self.started
        control.should_training_stop = control.should_training_stop or not self.go_on()


def train_peer(
    model: PreTrainedModel,
    rows: Dataset[dict[str, torch.Tensor]],
    *,
    collate: Callable[..., Any] | None = None,
    batch_size: int,
    steps: int,
    go_on: Callable[[], bool],
    precision: str,
    compile: bool = False,
    device: str = "cpu",
    seed: int = 1,
    recipe: Mapping[str, Any] = MappingProxyType({}),
) -> float:
    """Train in place for ``steps`` steps or until ``go_on`` says stop; the seconds from the first step to the last.

    ``collate`` makes a batch of rows; ``recipe`` are further TrainingArguments.
    """
    quieten()
    after = AfterEachStep(go_on)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            max_steps=steps,
            bf16=precision == "bf16",
            torch_compile=compile,
            use_cpu=device == "cpu",
            seed=seed,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **recipe,
        )
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[after]
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return after.seconds


class Pace:
    """Measures seconds a step, by the rule of ``wenlu train --budget``; to be called after every step."""

    def __init__(self, budget: float) -> None:
        self.wanted = min(max(LEAST_SECONDS, SHARE * budget), MOST_SECONDS)
        self.times: list[float] = []

    def __call__(self) -> bool:
        """False when enough is measured."""
        self.times.append(time.perf_counter())
        elapsed, steps = self._measured()
        return steps < 1 or elapsed < self.wanted or (elapsed < 2 * self.wanted and steps < LEAST_STEPS)

    @property
    def seconds_per_step(self) -> float:
        elapsed, steps = self._measured()
        return elapsed / steps

    def _measured(self) -> tuple[float, int]:
        counted = self.times[WARMUP_STEPS - 1 :]
        return (counted[-1] - counted[0], len(counted) - 1) if counted else (0.0, 0)
