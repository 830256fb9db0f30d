"""Seconds until the held-out bits per byte that transformers' Trainer reaches in five minutes with GPT-2's recipe.

    python benchmarks/time_to_quality.py                      a smoke of the method, 90 seconds
    python benchmarks/time_to_quality.py --long [--data PATH ...] [--tuning-seconds 40]
    python benchmarks/time_to_quality.py --long --only peer-tuning | ours-tuning | final

Same text, same tokenizer (byte-level BPE, 8192 ids, of the train split), same threads. Both sides are tuned on the
validation split, ours with no more runs; as the Trainer's final runs are longer than its tuning, its best three are
tried at full length too. What wins is trained with three seeds and scored on the test split, which nothing else reads.
Every run decays its rate to its own end: its steps come from a speed measured just before, on a model that is thrown
away. The clock is the training loop's, and on our side that of the first weights, which count pairs of tokens in the
train split; the measurement of the speed and the evaluation are outside.

Ours is trained for each time of a ladder; the time at which a seed reaches the Trainer's mean is interpolated between
two of them in the logarithm of time. Every finished run is kept (``bench-results/``), and a second call goes on.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import GPT2LMHeadModel

from _cells import Cells
from _peer_trainer import Pace, Rows, Shape, as_ours, build_peer, packed_corpus, train_peer
from wenlu.core.settings import load
from wenlu.data.store import SPLITS, Split, Store
from wenlu.evaluation.evaluator import evaluate_split
from wenlu.training.precision import machine
from wenlu.training.preparation import decide_steps, prepare
from wenlu.training.settings import EvaluateSettings, RunSettings

CONTEXT, VOCAB_SIZE, THREADS = 256, 8192, 2
WITHOUT_END = 1_000_000_000

Choice = Mapping[str, object]
Trained = tuple[torch.nn.Module, int, dict[str, object]]  # a model, its context, the record of its run

# ---- the Trainer: every combination, then the best ----

PEER_SIZES = {"4x192": Shape(4, 192, 3), "4x256": Shape(4, 256, 4)}
PEER_BATCHES = (2, 4, 8)
PEER_RATES = (6e-4, 1.2e-3, 2.4e-3)
PEER_RECIPE: dict[str, object] = {"lr_scheduler_type": "cosine", "warmup_steps": 0.05, "adam_beta2": 0.95}
PEER_FINALISTS = 3
PEER_DROPOUT = 0.0
"""GPT-2's is 0.1; without it the Trainer is a tenth faster, and text that is read once needs none: in its favour."""

# ---- ours: from a start, one question after another; the best answer so far stays ----

SIZES: dict[str, Choice] = {
    "4x128": {"model.hidden_size": 128, "model.head_dim": 64, "model.intermediate_size": 384},
    "4x192": {"model.hidden_size": 192, "model.head_dim": 96, "model.intermediate_size": 512},
    "4x256": {"model.hidden_size": 256, "model.head_dim": 128, "model.intermediate_size": 704},
}
START: Choice = {
    **SIZES["4x192"],
    "model.kind": "qwen3",
    "model.num_layers": 4,
    "model.num_heads": 2,
    "model.tie_embeddings": False,
    "train.batch_size": 8,
    "train.sequence_length": CONTEXT,
    "train.bigram_steps": 60,
    "optimizer.name": "muon",
    "optimizer.learning_rate": 0.02,
    "optimizer.head_rate": 1e-3,
    "optimizer.vector_rate": 3e-3,
    "optimizer.embedding_rate": 3e-3,
    "schedule.decay": "50%",
}
NO_BIGRAMS: Choice = {"train.bigram_steps": 0, "optimizer.head_rate": 3e-3, "optimizer.embedding_rate": 0.03}
"""Only Muon and the rest of the recipe, with rates for an embedding and an output matrix that begin with nothing."""
QUESTIONS: list[list[Choice]] = [
    [NO_BIGRAMS, {"train.bigram_steps": 120}],
    [SIZES["4x128"], SIZES["4x256"]],
    [{"train.batch_size": 4}, {"train.batch_size": 16}],
    [{"optimizer.learning_rate": 0.012}, {"optimizer.learning_rate": 0.035}],
    [{"optimizer.embedding_rate": 0.01}],
    [{"optimizer.head_rate": 3e-3}],
    [{"schedule.decay": "75%"}],
    [{"model.num_layers": 6}],
]

# ---- how long ----


@dataclass(frozen=True)
class Plan:
    """How long the runs are, how much of each list above is tried, and how much is scored."""

    tuning_seconds: float
    peer_seconds: float
    ladder: tuple[float, ...] = (1 / 60, 1 / 30, 1 / 15, 1 / 8, 1 / 4, 1)  # of peer_seconds
    seeds: tuple[int, ...] = (1, 2, 3)
    finalists: int = PEER_FINALISTS
    combinations: int | None = None
    questions: int | None = None
    scored_tokens: int = 65_536  # of each held-out split, the same documents for everybody


SMOKE = Plan(1, 6, ladder=(1 / 3, 1 / 2), seeds=(1,), finalists=1, combinations=1, questions=1, scored_tokens=4096)

# ---- one run ----


class Bench:
    """Runs of both sides on one corpus, each a cell."""

    def __init__(self, store: Store, plan: Plan, cells: Cells | None) -> None:
        self.store, self.plan, self.cells = store, plan, cells
        self.rows = Rows(store.train, CONTEXT)

    def cell(self, key: Mapping[str, object], measure: Callable[[], dict[str, object]]) -> dict[str, float]:
        """A result from the file, or measured now."""
        key = {**key, "store": self.store.fingerprint[:16], "threads": THREADS}
        return cast(dict[str, float], self.cells.cell(key, measure) if self.cells else measure())

    def run(self, side: str, choice: Choice, *, seconds: float, seed: int, split: Split) -> dict[str, float]:
        """One training and its score: bits_per_byte, seconds, steps, tokens_per_second."""
        train = self.train_peer if side == "peer" else self.train_ours

        def measure() -> dict[str, object]:
            torch.set_num_threads(THREADS)
            model, context, record = train(choice, seconds, seed)
            settings = EvaluateSettings(stride=context)
            scored = self.plan.scored_tokens
            scores = evaluate_split(model, self.store.split(split), settings, context=context, max_tokens=scored)
            return {**record, "bits_per_byte": scores["bits_per_byte"]}

        key = {"side": side, "choice": choice, "seconds": seconds, "seed": seed, "split": split}
        fixed = PEER_RECIPE | {"dropout": PEER_DROPOUT} if side == "peer" else {}
        found = self.cell(key | {"fixed": fixed, "scored_tokens": self.plan.scored_tokens}, measure)
        print(f"  {found['bits_per_byte']:.4f} after {found['seconds']:.1f} s, {found['steps']} steps", flush=True)
        return found

    def train_peer(self, choice: Choice, seconds: float, seed: int) -> Trained:
        batch_size, pace = cast(int, choice["batch"]), Pace(seconds)
        self.begin_peer(choice, seed, steps=WITHOUT_END, go_on=pace)
        steps = max(1, int(seconds / pace.seconds_per_step))
        model, taken = self.begin_peer(choice, seed, steps=steps, go_on=lambda: True)
        return as_ours(model), CONTEXT, record(taken, steps, batch_size * CONTEXT)

    def begin_peer(
        self, choice: Choice, seed: int, *, steps: int, go_on: Callable[[], bool]
    ) -> tuple[GPT2LMHeadModel, float]:
        """Train a new model of theirs; it, and the seconds that its loop took."""
        shape, vocab_size = PEER_SIZES[str(choice["size"])], self.store.train.vocab_size
        model = build_peer(shape, vocab_size=vocab_size, context=CONTEXT, dropout=PEER_DROPOUT, seed=seed)
        taken = train_peer(
            model, self.rows, batch_size=cast(int, choice["batch"]), steps=steps, go_on=go_on, seed=seed,
            precision=str(choice["precision"]), recipe=PEER_RECIPE | {"learning_rate": choice["rate"]},
        )  # fmt: skip
        return model, taken

    def train_ours(self, choice: Choice, seconds: float, seed: int) -> Trained:
        values = {**choice, "train.seed": seed, "train.threads": THREADS, "train.budget": f"{seconds:g}s"}
        prepared = prepare(load(RunSettings, values=values), store=self.store)
        with machine(prepared.settings.train):
            taken = decide_steps(prepared)
            trainer = prepared.trainer()
            started = time.perf_counter()
            *_, last = trainer
            taken += time.perf_counter() - started
        return prepared.model, prepared.settings.train.sequence_length, record(taken, last.number, last.tokens)


def record(seconds: float, steps: int, tokens_per_step: int) -> dict[str, object]:
    """What a cell keeps of a run besides its score."""
    return {"seconds": seconds, "steps": steps, "tokens_per_second": steps * tokens_per_step / seconds}


# ---- the parts of the measurement ----


def tune_peer(bench: Bench) -> Choice:
    """The best of all combinations, in the precision that is faster here; the last few are tried at full length."""

    def speeds() -> dict[str, object]:
        found: dict[str, object] = {}
        for precision in ("fp32", "bf16"):
            pace = Pace(bench.plan.tuning_seconds)
            choice = {"size": "4x256", "batch": 8, "rate": 1e-3, "precision": precision}
            bench.begin_peer(choice, 0, steps=WITHOUT_END, go_on=pace)
            found[precision] = pace.seconds_per_step
        return found

    torch.set_num_threads(THREADS)
    found = bench.cell({"side": "peer", "what": "seconds a step by precision"}, speeds)
    precision = min(found, key=lambda name: found[name])
    print("\nTrainer, tuning; seconds a step:", ", ".join(f"{name} {found[name]:.3f}" for name in found), flush=True)
    names = ("size", "batch", "rate")
    grid = [dict(zip(names, one, strict=True)) for one in itertools.product(PEER_SIZES, PEER_BATCHES, PEER_RATES)]
    plan = bench.plan
    choices = [{**one, "precision": precision} for one in grid[: plan.combinations]]
    finalists = ranked(bench, "peer", choices, seconds=plan.tuning_seconds)[: plan.finalists]
    return ranked(bench, "peer", finalists, seconds=plan.peer_seconds)[0] if len(finalists) > 1 else finalists[0]


def tune_ours(bench: Bench) -> Choice:
    """From the start through the questions; what is answered best on the way stays."""
    print("\nWenlu, tuning", flush=True)
    chosen = START
    for answers in QUESTIONS[: bench.plan.questions]:
        changed = [{name: v for name, v in {**chosen, **one}.items() if v is not None} for one in answers]
        chosen = ranked(bench, "ours", [chosen, *changed], seconds=bench.plan.tuning_seconds)[0]
    return chosen


def ranked(bench: Bench, side: str, choices: Sequence[Choice], *, seconds: float) -> list[Choice]:
    """The choices, those with the fewest bits per byte on the validation split first."""
    scores = []
    for choice in choices:
        shown = choice.items() if side == "peer" else sorted(choice.items() - choices[0].items())
        print(" ", ", ".join(f"{name} {value}" for name, value in shown) or "as it is", flush=True)
        found = bench.run(side, choice, seconds=seconds, seed=0, split="validation")
        scores.append(found["bits_per_byte"])
    return [choice for _, choice in sorted(zip(scores, choices, strict=True), key=lambda pair: pair[0])]


def crossing(points: Sequence[tuple[float, float]], target: float) -> float:
    """The time at which (seconds, bits per byte) first come down to the target, interpolated in the logarithm of time.

    The first time when that is good enough already, infinity when none is.
    """
    points = sorted(points)
    if points[0][1] <= target:
        return points[0][0]
    for (before, high), (after, low) in itertools.pairwise(points):
        if low <= target:
            share = (high - target) / (high - low)
            return math.exp((1 - share) * math.log(before) + share * math.log(after))
    return math.inf


def final(bench: Bench, theirs: Choice, own: Choice) -> None:
    """The winners on the test split, and how long ours takes to what theirs reaches."""
    plan = bench.plan
    print("\ntest split: Trainer", dict(theirs), "\nWenlu", dict(own), flush=True)
    peer = [bench.run("peer", theirs, seconds=plan.peer_seconds, seed=s, split="test") for s in plan.seeds]
    target, peer_seconds = (statistics.fmean(one[name] for one in peer) for name in ("bits_per_byte", "seconds"))
    ladder = [
        [bench.run("ours", own, seconds=share * plan.peer_seconds, seed=s, split="test") for s in plan.seeds]
        for share in plan.ladder
    ]
    print("\n| | seconds | " + " | ".join(f"bits per byte, seed {s}" for s in plan.seeds) + " |")
    print("| --- | ---: |" + " ---: |" * len(plan.seeds))
    for name, rung in [("Trainer", peer), *(("Wenlu", rung) for rung in ladder)]:
        scores = " | ".join(f"{one['bits_per_byte']:.4f}" for one in rung)
        print(f"| {name} | {statistics.fmean(one['seconds'] for one in rung):.1f} | {scores} |")
    runs = zip(*ladder, strict=True)  # of one seed each
    times = [crossing([(one["seconds"], one["bits_per_byte"]) for one in run], target) for run in runs]
    mean, shown = statistics.fmean(times), ", ".join(f"{one:.1f}" for one in times)
    print(f"\nTrainer: {target:.4f} bits per byte, mean of the seeds, after {peer_seconds:.1f} s")
    print(f"Wenlu reaches it after {mean:.1f} s (by seed: {shown}; inf: not within the ladder), ", end="")
    print(f"{mean / peer_seconds:.3f} of that time: {peer_seconds / mean:.1f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="the measurement; without it only a smoke of the method")
    parser.add_argument("--data", nargs="+", default=[], help="text files, folders or a store; default: the demo's")
    parser.add_argument("--only", choices=("peer-tuning", "ours-tuning", "final"), help="with what it needs")
    parser.add_argument("--tuning-seconds", type=float, default=60)
    parser.add_argument("--seconds", type=float, default=300, help="of the Trainer's final runs")
    options = parser.parse_args()
    plan = Plan(options.tuning_seconds, options.seconds) if options.long else SMOKE
    store = packed_corpus(options.data, vocab_size=VOCAB_SIZE)
    for split in SPLITS:
        print(f"{split}: {store.split(split).num_documents:,} documents, {store.split(split).num_tokens:,} tokens")
    bench = Bench(store, plan, Cells("time_to_quality") if options.long else None)
    theirs = tune_peer(bench) if options.only != "ours-tuning" else None
    own = tune_ours(bench) if options.only != "peer-tuning" else None
    if theirs is not None and own is not None:
        final(bench, theirs, own)
    if not options.long:
        print("This was a smoke of the method with runs of seconds; the figures mean nothing. The measurement: --long")


if __name__ == "__main__":
    main()
