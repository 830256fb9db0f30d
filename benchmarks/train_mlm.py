"""Tokens per second of masked-language-model training: our trainer against transformers' Trainer with its MLM collator.

    python benchmarks/train_mlm.py [--long] [--data PATH ...] [--shape 6x384] [--sequence 256] [--batch 32]
    python benchmarks/train_mlm.py --seconds 120        and the held-out masked loss after so long

All train the same BERT from the same weights (checked by the loss of one masked row), with AdamW, and mask 15 % of the
tokens anew every time. Ours reads rows full of isolated documents. The Trainer reads what its example script
``run_mlm.py`` makes of the same documents: line by line, one document a row, cut at the length and padded to the
longest of its batch; or grouped, documents one behind another in rows without padding. Padding is not counted.
Every variant has a process of its own; they take turns, so that all meet the same machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as LibraryTokenizer
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from _cells import Cells
from _peer_trainer import HELD_OUT, Shape, quieten, train_peer
from _turns import Child, Turns
from wenlu.core.settings import load
from wenlu.data.fetch import fetch_corpus
from wenlu.data.settings import DataSettings
from wenlu.data.store import Store, TokenStore
from wenlu.data.tokens import prepared_store
from wenlu.models.checkpoint import load_model, save_model
from wenlu.tasks._held_out import held_out
from wenlu.tasks._vocabulary import MASK, SEPARATOR, START, Vocabulary
from wenlu.tasks.masked_lm import MaskedLM
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training.precision import machine
from wenlu.training.preparation import prepare
from wenlu.training.settings import RunSettings
from wenlu.training.trainer import Trainer

SHAPES = {"6x384": Shape(6, 384, 6), "bert-base": Shape(12, 768, 12), "2x64": Shape(2, 64, 2)}
VOCAB_SIZE = 16_384
WITHOUT_END = 1_000_000_000
SAME_LOSS = 1e-5
RATE, WARMUP = 3e-4, 0.06  # of the trainings that are scored: both decay linearly
TOKENS_SCORED = 100_000


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    name: str
    side: str  # ours, lines, grouped
    precision: str
    dropout: float = 0.0


VARIANTS = [
    Variant("Wenlu fp32", "ours", "fp32"),
    Variant("Wenlu bf16", "ours", "bf16"),
    Variant("Trainer bf16, line by line", "lines", "bf16"),
    Variant("Trainer bf16, grouped", "grouped", "bf16"),
]
MORE = [
    Variant("Wenlu bf16, dropout 0.1", "ours", "bf16", dropout=0.1),
    Variant("Trainer bf16, line by line, dropout 0.1", "lines", "bf16", dropout=0.1),
    Variant("Trainer bf16, grouped, dropout 0.1", "grouped", "bf16", dropout=0.1),
]


@dataclass(frozen=True)
class Job:
    """What a child process is told; ``store`` and ``weights`` are folders; ``steps``: train once, to be scored."""

    variant: Variant
    store: str
    weights: str
    threads: int
    batch: int
    sequence: int
    device: str
    steps: int = 0
    target: str = ""


# ---- the peer's data ----


def library_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Our tokenizer as one of transformers, which its collator wants."""
    names = {"mask_token": MASK[0], "cls_token": START[0], "sep_token": SEPARATOR[0], "pad_token": "<|pad|>"}
    return PreTrainedTokenizerFast(tokenizer_object=LibraryTokenizer.from_str(tokenizer.encoder_json), **names)


class Lines(Dataset[dict[str, Any]]):
    """A document a row: [CLS], its tokens as far as they fit, [SEP]."""

    def __init__(self, store: TokenStore, tokenizer: Tokenizer, length: int) -> None:
        self.store, self.length, self.vocabulary = store, length, Vocabulary.of(tokenizer)

    def __len__(self) -> int:
        return self.store.num_documents

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.store.document(index)[:-1][: self.length - 2].tolist()
        return {"input_ids": [self.vocabulary.mark(START), *ids, self.vocabulary.mark(SEPARATOR)]}


class Grouped(Dataset[dict[str, Any]]):
    """Documents with their marks one behind another, in rows of one length."""

    def __init__(self, store: TokenStore, tokenizer: Tokenizer, length: int) -> None:
        lines = Lines(store, tokenizer, sys.maxsize)
        tokens = np.concatenate([lines[number]["input_ids"] for number in range(len(lines))])
        self.rows = tokens[: len(tokens) // length * length].reshape(-1, length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.rows[index].tolist()}


# ---- a child ----


class Counted:
    """Batches whose tokens, without padding, are counted as they are taken."""

    def __init__(self, batches: Any, count: Callable[[int], None]) -> None:
        self._batches, self._count = batches, count

    def batches(self, start: int) -> Iterator[dict[str, Tensor]]:
        for batch in self._batches.batches(start):
            self._count(int((batch["document_ids"] >= 0).sum()))
            yield batch


def our_trainer(job: Job) -> tuple[Trainer, RunSettings]:
    """Our trainer as ``wenlu train`` makes it, on the weights that both sides share."""
    model = load_model(Path(job.weights))
    hidden = model.config.main  # type: ignore[union-attr]  # a Transformer
    scored = job.steps > 0
    values = {
        "model.kind": "bert",
        "model.num_layers": hidden.num_layers,
        "model.hidden_size": hidden.hidden_size,
        "model.num_heads": hidden.num_heads,
        "task.name": "masked_lm",
        "optimizer.name": "adamw",
        "optimizer.learning_rate": RATE if scored else 5e-5,
        "schedule.name": "linear" if scored else None,
        "schedule.warmup": f"{100 * WARMUP:g}%" if scored else None,
        "train.steps": job.steps or WITHOUT_END,
        "train.batch_size": job.batch,
        "train.sequence_length": job.sequence,
        "train.threads": job.threads,
        "train.device": job.device,
        "train.deterministic": None if job.device == "cpu" else False,
        "train.precision": job.variant.precision,
    }
    prepared = prepare(load(RunSettings, values=values), store=Store.open(Path(job.store), verify=False))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = job.variant.dropout
    for attention in model._attentions():  # type: ignore[operator]  # a Transformer
        attention.dropout = job.variant.dropout
    return prepared.trainer(model.to(job.device)), prepared.settings


def train_ours(job: Job, count: Callable[[int], None], go_on: Callable[[], bool]) -> None:
    trainer, settings = our_trainer(job)
    trainer.batches = Counted(trainer.batches, count)
    with machine(settings.train):
        for _ in trainer:
            if not go_on():
                return
    if job.target:
        save_model(trainer.model, Path(job.target))


def train_theirs(job: Job, count: Callable[[int], None], go_on: Callable[[], bool]) -> None:
    quieten()
    drop, store = job.variant.dropout, Store.open(Path(job.store), verify=False)
    dropouts = {"hidden_dropout_prob": drop, "attention_probs_dropout_prob": drop}
    model = BertForMaskedLM.from_pretrained(job.weights, **dropouts)

    def count_batch(module: object, arguments: object, batch: dict[str, Tensor]) -> None:
        count(int(batch["attention_mask"].sum()))

    model.register_forward_pre_hook(count_batch, with_kwargs=True)
    rows = (Lines if job.variant.side == "lines" else Grouped)(store.train, store.tokenizer, job.sequence)
    collate = DataCollatorForLanguageModeling(library_tokenizer(store.tokenizer), mlm_probability=0.15)
    recipe = {"learning_rate": RATE, "warmup_steps": round(WARMUP * job.steps)} if job.steps else {}
    train_peer(
        model, rows, collate=collate, batch_size=job.batch, steps=job.steps or WITHOUT_END, go_on=go_on,
        precision=job.variant.precision, device=job.device, recipe=recipe,
    )  # fmt: skip
    if job.target:
        model.save_pretrained(job.target)


def child(job: Job) -> None:
    torch.set_num_threads(job.threads)
    train = train_ours if job.variant.side == "ours" else train_theirs
    if job.steps:
        train(job, lambda tokens: None, lambda: True)
        return
    turns = Turns(job.device)

    def count(tokens: int) -> None:
        turns.tokens += tokens

    train(job, count, turns.step)


# ---- the parent ----


class Race:
    """The variants, started when the first round is measured."""

    def __init__(self, jobs: list[Job], *, warmup_steps: int, turn_steps: int) -> None:
        self.jobs, self.warmup_steps, self.turn_steps = jobs, warmup_steps, turn_steps
        self.children: dict[str, Child] = {}

    def round(self) -> dict[str, Any]:
        """A turn of every variant: seconds by wall and by processor, and tokens, of its steps."""
        for job in self.jobs if not self.children else ():
            self.children[job.variant.name] = Child(_command(job), warmup_steps=self.warmup_steps)
        return {name: one.take(self.turn_steps) for name, one in self.children.items()}

    def close(self) -> None:
        for child in self.children.values():
            child.close()


def _command(job: Job) -> list[str]:
    return [sys.executable, __file__, "--child", json.dumps(asdict(job))]


def speeds(rounds: list[dict[str, Any]], name: str) -> list[float]:
    """Tokens a second of each round."""
    return [sum(s[2] for s in found[name]) / sum(s[0] for s in found[name]) for found in rounds]


def table(rounds: list[dict[str, Any]], chosen: list[Variant]) -> None:
    found = {variant.name: speeds(rounds, variant.name) for variant in chosen}
    steps = {v.name: statistics.median(sum(s[0] for s in r[v.name]) / len(r[v.name]) for r in rounds) for v in chosen}
    print("| | tokens a second | rounds | tokens a step | seconds a step |\n| --- | ---: | ---: | ---: | ---: |")
    for name, values in found.items():
        tokens = statistics.fmean(s[2] for r in rounds for s in r[name])
        low, high = min(values), max(values)
        middle = statistics.median(values)
        print(f"| {name} | {middle:,.0f} | {low:,.0f}-{high:,.0f} | {tokens:,.0f} | {steps[name]:.2f} |")
    ours, theirs = ([v.name for v in chosen if (v.side == "ours") == own] for own in (True, False))
    print("\n| times as fast as | " + " | ".join(ours) + " |\n| --- |" + " ---: |" * len(ours))
    for peer in theirs:
        ratios = (statistics.median(a / b for a, b in zip(found[o], found[peer], strict=True)) for o in ours)
        print(f"| {peer} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    print(flush=True)


def compare_quality(jobs: list[Job], store: Store, seconds_per_step: dict[str, float], seconds: float) -> None:
    """Train each variant alone for as many steps as its measured pace makes of the time; the held-out masked loss."""
    print(f"after {seconds:g} seconds:\n\n| | steps | seconds, start included | held-out masked loss | accuracy |")
    print("| --- |" + " ---: |" * 4, flush=True)
    for job in jobs:
        steps = max(1, round(seconds / seconds_per_step[job.variant.name]))
        with tempfile.TemporaryDirectory() as target:
            started = time.perf_counter()
            subprocess.run(_command(replace(job, steps=steps, target=target)), check=True)
            taken = time.perf_counter() - started
            model = load_model(Path(target))
        found = held_out(
            MaskedLM(), model, store.validation, store.tokenizer,
            sequence_length=job.sequence, max_tokens=TOKENS_SCORED,
        ).values()  # fmt: skip
        print(
            f"| {job.variant.name} | {steps} | {taken:.0f} | {found['loss']:.4f} | {found['accuracy']:.4f} |",
            flush=True,
        )


def same_losses(model: BertForMaskedLM, folder: str, store: Store, length: int) -> tuple[float, float]:
    """The mean loss of one masked row under their model and under ours made of its files."""
    task, tokenizer = MaskedLM(), store.tokenizer
    epoch = task.epoch(store.train, tokenizer, sequence_length=length, seed=0, epoch=0)
    rows = (epoch.row(number) for number in range(len(epoch)))
    row = next((row for row in rows if (row["document_ids"] == 0).all()), epoch.row(0))
    batch = {name: torch.from_numpy(array)[None] for name, array in row.items()}
    batch["document_ids"] = torch.zeros_like(batch["document_ids"])
    batch["position_ids"] = torch.arange(length)[None]
    with torch.no_grad():
        theirs = model.eval()(input_ids=batch["input_ids"], labels=batch["labels"]).loss.item()
        term = task.loss(load_model(Path(folder)), batch)["masked_lm"]
    return theirs, term.total.item() / term.count


def packed_corpus(paths: list[str]) -> Store:
    """The texts in splits, with a byte-level BPE that has the marks; without paths, the demo's."""
    texts = tuple(paths) or tuple(str(path) for path in fetch_corpus("demo", fallback=True))
    settings = DataSettings(paths=texts, validation_fraction=HELD_OUT)
    tokenizer = TokenizerSettings(vocab_size=VOCAB_SIZE, special_tokens=MaskedLM().special_tokens())
    return prepared_store(settings, tokenizer_settings=tokenizer)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        told = json.loads(sys.argv[2])
        child(Job(**told | {"variant": Variant(**told["variant"])}))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="more variants and rounds; finished rounds are kept")
    parser.add_argument("--data", nargs="+", default=[], help="text files, folders or a store; default: the demo's")
    parser.add_argument("--shape", choices=SHAPES, default="6x384")
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, help="train each so long, too, and score it")
    parser.add_argument("--only", nargs="+", default=[""], help="variants with one of these words in their names")
    options = parser.parse_args()
    store, shape = packed_corpus(options.data), SHAPES[options.shape]
    chosen = VARIANTS + (MORE if options.long else [])
    chosen = [variant for variant in chosen if any(word in variant.name for word in options.only)]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=store.train.vocab_size, hidden_size=shape.hidden_size, num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads, intermediate_size=4 * shape.hidden_size,
        max_position_embeddings=options.sequence, pad_token_id=store.tokenizer.pad_id,
    )  # fmt: skip
    quieten()
    with tempfile.TemporaryDirectory() as weights:
        peer = BertForMaskedLM(config)
        peer.save_pretrained(weights)
        theirs, own = same_losses(peer, weights, store, options.sequence)
        print(f"loss of one row, nats a masked token: transformers {theirs:.6f}, Wenlu {own:.6f}", flush=True)
        if abs(theirs - own) > SAME_LOSS * theirs:
            raise SystemExit("these are not the same models")
        print(f"{sum(p.numel() for p in peer.parameters()) / 1e6:.1f}M parameters", flush=True)
        jobs = [
            Job(v, str(store.path), weights, options.threads, options.batch, options.sequence, options.device)
            for v in chosen
        ]
        race = Race(jobs, warmup_steps=2 if options.long else 1, turn_steps=4 if options.long else 2)
        rounds = []
        for number in range(4 if options.long else 2):
            key = {"round": number, "store": store.fingerprint[:16], "variants": [v.name for v in chosen]}
            key |= {k: getattr(options, k) for k in ("shape", "batch", "sequence", "threads", "device")}
            rounds.append(Cells("train_mlm").cell(key, race.round) if options.long else race.round())
        race.close()
        table(rounds, chosen)
        if options.seconds:
            pace = {v.name: statistics.fmean(s[0] for r in rounds for s in r[v.name]) for v in chosen}
            compare_quality(jobs, store, pace, options.seconds)


if __name__ == "__main__":
    main()
