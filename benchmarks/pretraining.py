"""What the small encoder and the small encoder-decoder learn: masked accuracy against the unigram baseline, and pairs.

    python benchmarks/pretraining.py [--minutes 10] [--data PATH ...] [--validation PATH ...] [--new PATH ...]

``bert-tiny`` is trained on masked tokens and pairs, ``t5-tiny`` on corrupted spans, both by ``wenlu train`` as a user
calls it, and their run's own evaluations tell after how many seconds of steps the accuracy was three times that of
always guessing the most frequent token. Then the encoder goes on with ``--new`` text of which it has seen nothing
(``model.start``), and ``wenlu compare`` tells what it gained there and what it forgot. Without paths: the demo's texts,
with the Chinese novel as the new ones. A run that is there already is not trained again (``--runs``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _cells import RESULTS
from wenlu.data.fetch import fetch_corpus

TIMES = 3
TASKS = {"bert-tiny": "next_sentence", "t5-tiny": "span_corruption"}
EVALUATED = 40_000  # tokens of held-out text at each point of a curve


def wenlu(*words: object) -> str:
    """Standard output of a command; its progress and errors are shown."""
    command = [sys.executable, "-m", "wenlu", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def train(run: Path, preset: str, minutes: float, texts: Sequence[str], validation: Sequence[str], *more: str) -> None:
    """A finished run of a preset on these texts; every twentieth of the budget it is evaluated."""
    if (run / "final").is_dir():
        return
    settings = [f"train.budget={minutes:g}m", "evaluate.every=5%", f"evaluate.max_tokens={EVALUATED}", *more]
    if validation:
        settings.append(f"data.validation_paths={json.dumps(list(validation))}")
    words = [word for path in texts for word in ("--data", path)]
    wenlu("train", "--preset", preset, "-o", run, *words, *settings)


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def curve(run: Path) -> list[tuple[float, int, dict[str, float]]]:
    """Seconds of steps and tokens before each evaluation, and its scores."""
    seconds, tokens, points = 0.0, 0, []
    for record in log(run):
        if record["event"] == "step":
            seconds, tokens = seconds + record["seconds"], tokens + record["tokens"]
        elif record["event"] == "evaluation":
            points.append((seconds, tokens, record))
    return points


def report(run: Path) -> None:
    """When the accuracy was a multiple of the baseline, and every score of the whole held-out text at the end."""
    points = curve(run)
    reached = next((point for point in points if point[2]["accuracy"] >= TIMES * point[2]["unigram_accuracy"]), None)
    seconds, tokens, _ = points[-1]
    print(f"\n{run.name}: {seconds:,.0f} s of steps, {tokens:,} tokens")
    if reached is None:
        print(f"  {TIMES} times the unigram accuracy: not reached")
    else:
        print(f"  {TIMES} times the unigram accuracy after {reached[0]:,.0f} s of steps, {reached[1]:,} tokens")
    found = json.loads(wenlu("evaluate", run, "--split", "validation", "--json"))
    for name, score in found.items():
        if isinstance(score, dict) and "value" in score:
            interval = score["interval"]
            shown = "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
            print(f"  {name}: {score['value']:.4f}{shown}, {score['count']:,} ({score['definition']})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="ten minutes a model, unless --minutes says otherwise")
    parser.add_argument("--minutes", type=float, help="for each model; default: 1")
    parser.add_argument("--adapt-minutes", type=float, help="for the new texts; default: a third of it")
    parser.add_argument("--data", nargs="+", default=[], help="texts to train on")
    parser.add_argument("--validation", nargs="+", default=[], help="held-out texts; default: some of --data")
    parser.add_argument("--new", nargs="+", default=[], help="texts of another domain")
    parser.add_argument("--new-validation", nargs="+", default=[], help="held-out texts of it; default: some of --new")
    parser.add_argument("--runs", type=Path, default=RESULTS / "pretraining")
    options = parser.parse_args()
    minutes = options.minutes or (10 if options.long else 1)
    texts, new = options.data, options.new
    if not texts:
        demo = [str(path) for path in fetch_corpus("demo", fallback=True)]
        new = [path for path in demo if "three-kingdoms" in path] or demo[-1:]
        texts = [path for path in demo if path not in new]
    for preset, task in TASKS.items():
        run = options.runs / f"{preset}-{minutes:g}m"
        train(run, preset, minutes, texts, options.validation, f"task.name={task}")
        report(run)
    base, adapted = (options.runs / f"bert-tiny-{minutes:g}m{end}" for end in ("", "-adapted"))
    start = (f"model.start={base}", f"task.name={TASKS['bert-tiny']}")
    train(adapted, "bert-tiny", options.adapt_minutes or minutes / 3, new, options.new_validation, *start)
    held_out = [store(run) for run in (adapted, base)]
    print(wenlu("compare", base, adapted, "--split", "validation", "--data", held_out[0], "--old-data", held_out[1]))


def store(run: Path) -> str:
    """The packed texts that a run was trained on and is evaluated with."""
    return str(json.loads((run / "data.json").read_text(encoding="utf-8"))["store"])


if __name__ == "__main__":
    main()
