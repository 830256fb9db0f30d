"""Tokens per second of causal language-model training: our trainer against transformers' Trainer.

    python benchmarks/train_clm.py [--long] [--data PATH ...] [--shape 6x384] [--sequence 256] [--batch 8]
    python benchmarks/train_clm.py --profile            where our time goes
    python benchmarks/train_clm.py --device cuda --shape gpt2-small --sequence 1024 --precision bf16 --compile

Both train the same GPT-2, from the same weights (checked by the loss of one row), on the same tokens, with AdamW. Ours
reads packed documents that do not see each other, the Trainer rows of concatenated text. Every variant has a process of
its own; they take turns, so that all meet the same machine. Two threads are measured by wall time, one by processor
time. The share is of the measured peak: the matrix products of the model's forward pass alone, in the same minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from _cells import Cells
from _peer_trainer import Rows, Shape, as_ours, build_peer, first_losses, packed_corpus, quieten, train_peer
from _profile import print_profile
from _turns import Child, Turns
from wenlu.core.settings import load
from wenlu.data.store import Store
from wenlu.models.checkpoint import load_model
from wenlu.models.transformer import Transformer
from wenlu.training.precision import machine, resolve_machine
from wenlu.training.preparation import prepare
from wenlu.training.settings import RunSettings, TrainSettings
from wenlu.training.trainer import Trainer

SHAPES = {"6x384": Shape(6, 384, 6), "gpt2-small": Shape(12, 768, 12), "2x64": Shape(2, 64, 2)}
VOCAB_SIZE = 16_384
WITHOUT_END = 1_000_000_000

Round = dict[str, Any]  # peaks, first_seconds, steps
SAME_LOSS = 1e-5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Pace:
    """Steps before anything counts (after the first, which compiles), steps of a turn, and turns."""

    warmup_steps: int
    turn_steps: int
    rounds: int


QUICK, LONG = Pace(1, 2, 2), Pace(3, 4, 3)


@dataclass(frozen=True)
class Variant:
    """One way to train; ``dropout`` and ``compile`` as its name says."""

    name: str
    side: str
    precision: str
    dropout: float = 0.0
    compile: bool = False


def variants(faster: str, *, long: bool) -> list[Variant]:
    quick = [
        Variant("Wenlu fp32", "ours", "fp32"),
        Variant("Trainer as shipped (fp32, dropout 0.1)", "peer", "fp32", dropout=0.1),
        Variant("Trainer bf16 (dropout 0.1)", "peer", "bf16", dropout=0.1),
    ]
    if not long:
        return quick
    return [
        *quick,
        Variant("Wenlu bf16", "ours", "bf16"),
        Variant("Wenlu as shipped (auto)", "ours", "auto"),
        Variant(f"Wenlu compiled ({faster})", "ours", faster, compile=True),
        Variant("Trainer fp32, dropout 0", "peer", "fp32"),
        Variant("Trainer bf16, dropout 0", "peer", "bf16"),
        Variant(f"Trainer compiled ({faster}, dropout 0)", "peer", faster, compile=True),
    ]


@dataclass(frozen=True)
class Job:
    """What a child process is told; ``store`` and ``weights`` are folders."""

    variant: Variant
    store: str
    weights: str
    threads: int
    batch: int
    sequence: int
    device: str


# ---- a child: trains, and waits between its turns ----


@contextmanager
def our_trainer(job: Job) -> Iterator[Trainer]:
    """Our trainer with the loader over the store, as ``wenlu train`` makes it, on the weights that both sides share."""
    model = load_model(Path(job.weights))
    assert isinstance(model, Transformer)
    stack = model.config.decoder
    values = {
        "model.kind": "gpt2",
        "model.num_layers": stack.num_layers,
        "model.hidden_size": stack.hidden_size,
        "model.num_heads": stack.num_heads,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 5e-5,
        "train.steps": WITHOUT_END,
        "train.batch_size": job.batch,
        "train.sequence_length": job.sequence,
        "train.threads": job.threads,
        "train.device": job.device,
        "train.deterministic": None if job.device == "cpu" else False,
        "train.precision": job.variant.precision,
        "train.compile": job.variant.compile or None,
    }
    prepared = prepare(load(RunSettings, values=values), store=Store.open(Path(job.store), verify=False))
    with machine(prepared.settings.train):
        yield prepared.trainer(model.to(job.device))


def child(job: Job) -> None:
    torch.set_num_threads(job.threads)
    if job.variant.side == "ours":
        with our_trainer(job) as trainer:
            turns = Turns(job.device)
            for _ in trainer:
                if not turns.step():
                    return
    drop = job.variant.dropout
    quieten()
    model = GPT2LMHeadModel.from_pretrained(job.weights, resid_pdrop=drop, embd_pdrop=drop, attn_pdrop=drop)
    rows = Rows(Store.open(Path(job.store), verify=False).train, job.sequence)
    train_peer(
        model, rows, batch_size=job.batch, steps=WITHOUT_END, go_on=Turns(job.device).step,
        precision=job.variant.precision, compile=job.variant.compile, device=job.device,
    )  # fmt: skip


# ---- the parent ----


class Race:
    """The variants on one number of threads, started when the first round is measured."""

    def __init__(self, jobs: list[Job], pace: Pace, shape: Shape, vocab_size: int) -> None:
        self.jobs, self.pace, self.shape, self.vocab_size = jobs, pace, shape, vocab_size
        self.children: dict[str, Child] = {}

    def round(self) -> Round:
        """The peaks, then a turn of every variant: the seconds of its steps by wall and by processor."""
        for job in self.jobs if not self.children else ():
            command = [sys.executable, __file__, "--child", json.dumps(asdict(job))]
            self.children[job.variant.name] = Child(command, warmup_steps=self.pace.warmup_steps)
        return {
            "peaks": {name: self.peak(dtype) for name, dtype in DTYPES.items()},
            "first_seconds": {name: one.first for name, one in self.children.items()},
            "steps": {name: one.take(self.pace.turn_steps) for name, one in self.children.items()},
        }

    def peak(self, dtype: torch.dtype) -> float:
        """FLOP/s of the matrix products of a forward pass alone: each shape by the best of some trials."""
        job, size = self.jobs[0], self.shape.hidden_size
        tokens = job.batch * job.sequence
        torch.set_num_threads(job.threads)
        flops = seconds = 0.0
        layer = [(size, 3 * size), (size, size), (size, 4 * size), (4 * size, size)]
        for width, columns, count in [*((*pair, self.shape.num_layers) for pair in layer), (size, self.vocab_size, 1)]:
            a = torch.randn(tokens, width, device=job.device).to(dtype)
            b = torch.randn(columns, width, device=job.device).to(dtype).t()
            flops += 2.0 * tokens * width * columns * count
            seconds += count * min(_seconds(lambda a=a, b=b: torch.mm(a, b), job.device) for _ in range(6))
        return flops / seconds

    def close(self) -> None:
        for child in self.children.values():
            child.close()


def _seconds(work: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def table(
    rounds: list[dict[str, Any]], chosen: list[Variant], faster: str, *, clock: int, tokens: int, flops: float
) -> None:
    """Speeds by the median of all steps, with the rounds' range; then ours over theirs, the median of the rounds."""
    medians = {v.name: [statistics.median(s[clock] for s in r["steps"][v.name]) for r in rounds] for v in chosen}
    print(f"| | tokens per {('second', 'processor second')[clock]} | rounds | share of the peak | first step, s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for variant in chosen:
        every = [s[clock] for r in rounds for s in r["steps"][variant.name]]
        speed = tokens / statistics.median(every)
        precision = faster if variant.precision == "auto" else variant.precision
        share = speed * flops / statistics.median(r["peaks"][precision] for r in rounds)
        low, high = tokens / max(medians[variant.name]), tokens / min(medians[variant.name])
        first = statistics.median(r["first_seconds"][variant.name] for r in rounds)
        print(f"| {variant.name} | {speed:,.0f} | {low:,.0f}-{high:,.0f} | {share:.0%} | {first:.1f} |")
    ours, theirs = ([v.name for v in chosen if v.side == side] for side in ("ours", "peer"))
    print("\n| times as fast as | " + " | ".join(ours) + " |\n| --- |" + " ---: |" * len(ours))
    for peer in theirs:
        ratios = (statistics.median(b / a for a, b in zip(medians[o], medians[peer], strict=True)) for o in ours)
        print(f"| {peer} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    print()


def compare(jobs: list[Job], options: argparse.Namespace, store: Store, *, faster: str, flops: float) -> None:
    """All rounds of these jobs, which share everything but the variant; with ``--long``, a finished round is kept."""
    job = jobs[0]
    pace = LONG if options.long else QUICK
    race = Race(jobs, pace, SHAPES[options.shape], store.train.vocab_size)
    rounds: list[Round] = []
    for number in range(pace.rounds):
        key = {"round": number, "threads": job.threads, "store": store.fingerprint[:16], "device": job.device}
        key |= {"shape": options.shape, "batch": job.batch, "sequence": job.sequence}
        key["variants"] = [one.variant.name for one in jobs]
        rounds.append(Cells("train_clm").cell(key, race.round) if options.long else race.round())
    race.close()
    where = f"{job.threads} thread{'s' * (job.threads > 1)}" if job.device == "cpu" else job.device
    peaks = ", ".join(f"{name} {peak / 1e9:,.0f}" for name, peak in rounds[-1]["peaks"].items())
    print(f"\n{where}; peak of matrix products, GFLOP/s: {peaks}\n")
    tokens = job.batch * job.sequence
    chosen = [one.variant for one in jobs]
    table(rounds, chosen, faster, clock=int(job.device == "cpu" and job.threads == 1), tokens=tokens, flops=flops)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        told = json.loads(sys.argv[2])
        child(Job(**told | {"variant": Variant(**told["variant"])}))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="all variants, on one thread too; finished rounds are kept")
    parser.add_argument("--profile", action="store_true", help="where our time goes, instead of a comparison")
    parser.add_argument("--data", nargs="+", default=[], help="text files, folders or a store; default: the demo's")
    parser.add_argument("--shape", choices=SHAPES, default="6x384")
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=DTYPES, help="only this one")
    parser.add_argument("--compile", action="store_true", help="with --precision: compiled as well")
    options = parser.parse_args()
    store = packed_corpus(options.data, vocab_size=VOCAB_SIZE)
    shape, vocab_size = SHAPES[options.shape], store.train.vocab_size
    peer = build_peer(shape, vocab_size=vocab_size, context=options.sequence, dropout=0.0, seed=0)
    theirs, own = first_losses(peer, Rows(store.train, options.sequence))
    print(f"loss of one row, nats a token: transformers {theirs:.6f}, Wenlu {own:.6f}", flush=True)
    if abs(theirs - own) > SAME_LOSS * theirs:
        raise SystemExit("these are not the same models")
    one = as_ours(peer).statistics(sequence_length=options.sequence)
    flops = one.forward_flops_per_token + one.backward_flops_per_token
    faster = options.precision or resolve_machine(TrainSettings()).precision
    chosen = variants(faster, long=options.long)
    if options.precision:
        plain = [Variant("Wenlu", "ours", faster), Variant("Trainer, dropout 0", "peer", faster)]
        compiled = [Variant(f"{v.name}, compiled", v.side, faster, compile=True) for v in plain]
        chosen = plain + compiled if options.compile else plain
    print(f"{one.parameters / 1e6:.1f}M parameters, {flops / 1e6:.1f} MFLOP a token; faster here: {faster}", flush=True)
    with tempfile.TemporaryDirectory() as weights:
        peer.save_pretrained(weights)
        for threads in (2, 1) if options.long and options.device == "cpu" else (2,):
            jobs = [
                Job(v, str(store.path), weights, threads, options.batch, options.sequence, options.device)
                for v in chosen
            ]
            if options.profile:
                with our_trainer(jobs[0]) as trainer:
                    print(f"\n{jobs[0].variant.name}, {threads} threads\n")
                    print_profile(trainer, warmup_steps=LONG.warmup_steps, steps=LONG.turn_steps)
            else:
                compare(jobs, options, store, faster=faster, flops=flops)


if __name__ == "__main__":
    main()
