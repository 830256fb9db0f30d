"""What ``wenlu plan`` predicts against what ``wenlu train`` then takes: peak resident memory, and seconds.

    python benchmarks/plan.py [--long] [--data TEXTS ...] [--only NAME]

Both run as a user runs them, in processes of their own, one after the other; the peak is the high-water mark that the
kernel keeps of the trainer's process (VmHWM). Ratios are predicted to real. Without texts, the documentation that lies
in every Python is taken. By default two small configurations; with --long all six, cell by cell. A run takes a fixed
number of steps unless its configuration names a budget; in both its evaluations and checkpoints count.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _cells import Cells
from wenlu.data.fetch import fetch_corpus

CONFIGURATIONS: dict[str, list[str]] = {
    "gpt2-tiny, 20 s": ["--preset", "gpt2-tiny", "train.budget=20s"],
    "lstm-base": ["--preset", "lstm-base", "tokenizer.vocab_size=8192", "train.budget=none", "train.steps=60"],
    "llama-tiny, accumulation 4": [
        "--preset", "llama-tiny", "train.budget=none", "train.accumulation=4", "train.batch_size=2", "train.steps=60",
    ],
    "6 x 384, vocabulary 16k": [
        "--preset", "llama-tiny", "tokenizer.vocab_size=16000", "model.num_layers=6", "model.hidden_size=384",
        "model.num_heads=6", "model.head_dim=64", "model.intermediate_size=1024", "train.budget=none", "train.steps=30",
    ],
    "4 x 256, sequence 2048": [
        "--preset", "llama-tiny", "model.hidden_size=256", "model.num_heads=4", "model.head_dim=64",
        "train.sequence_length=2048", "train.batch_size=2", "train.budget=none", "train.steps=30",
    ],
    "GPT-2 small, sequence 512": [
        "--preset", "gpt2-small", "tokenizer.vocab_size=16000", "train.sequence_length=512", "train.batch_size=2",
        "train.accumulation=1", "train.budget=none", "train.steps=12", "train.keep=1", "evaluate.max_tokens=2048",
        "evaluate.final_max_tokens=4096", "evaluate.every=50%", "train.save_every=50%",
    ],
}  # fmt: skip
QUICK = ("gpt2-tiny, 20 s", "lstm-base")
POLL_SECONDS = 0.05


def wenlu(*words: str) -> list[str]:
    return [sys.executable, "-m", "wenlu", *words]


def planned(words: list[str]) -> dict[str, float]:
    """The plan's peak, seconds, and how long planning took."""
    started = time.perf_counter()
    done = subprocess.run(wenlu("plan", *words, "--json"), check=True, capture_output=True)
    plan = json.loads(done.stdout)
    return {
        "planned_mb": plan["peak_bytes"] / 1e6,
        "formula_mb": plan["formula_bytes"] / 1e6,
        "planned_seconds": plan["seconds"]["total"],
        "plan_took_seconds": time.perf_counter() - started,
    }


def taken(words: list[str], folder: Path) -> dict[str, float]:
    """The peak and the seconds of the real run."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(wenlu("train", *words, "-o", str(folder)), stdout=-3, stderr=-3)  # both to nowhere
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"), re.MULTILINE)
        peak = max(peak, int(found[1]) * 1024 if found else 0)
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"wenlu train {' '.join(words)} failed: {process.returncode}")
    return {"real_mb": peak / 1e6, "real_seconds": time.perf_counter() - started}


def measure(words: list[str], data: list[str]) -> dict[str, float]:
    texts = [word for path in data for word in ("--data", path)]
    with tempfile.TemporaryDirectory() as scratch:
        short = ["train.budget=none", "train.steps=1", "evaluate.final_max_tokens=100"]
        taken([*words, *short, *texts], Path(scratch, "prepare"))  # packs the texts, if nobody has yet
        found = planned([*words, *texts, "-o", str(Path(scratch, "run"))])
        found |= taken([*words, *texts], Path(scratch, "run"))
    found["memory_ratio"] = found["planned_mb"] / found["real_mb"]
    found["formula_ratio"] = found["formula_mb"] / found["real_mb"]
    found["seconds_ratio"] = found["planned_seconds"] / found["real_seconds"]
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="all six configurations")
    parser.add_argument("--data", nargs="+", help="texts")
    parser.add_argument("--only", help="one configuration, by the beginning of its name")
    options = parser.parse_args()
    data = options.data or [str(path) for path in fetch_corpus("python-docs")]
    cells = Cells("plan") if options.long else None
    print(f"{'configuration':28} {'memory':>20} {'ratio':>6} {'formulas':>9} {'seconds':>16} {'ratio':>6}  plan took")
    for name, words in CONFIGURATIONS.items():
        chosen = name.startswith(options.only) if options.only else options.long or name in QUICK
        if not chosen:
            continue
        key = {"configuration": name, "words": words, "threads": os.environ.get("OMP_NUM_THREADS", "")}
        row = cells.cell(key, lambda words=words: measure(words, data)) if cells else measure(words, data)
        print(
            f"{name:28} {row['planned_mb']:7.0f} / {row['real_mb']:7.0f} MB {row['memory_ratio']:6.2f}"
            f" {row['formula_ratio']:9.2f} {row['planned_seconds']:6.0f} / {row['real_seconds']:5.0f} s"
            f" {row['seconds_ratio']:6.2f} {row['plan_took_seconds']:8.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
