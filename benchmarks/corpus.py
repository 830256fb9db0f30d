"""Corpus preparation against datasets: how fast files become packed tokens, and in how much memory.

    python benchmarks/corpus.py [--long] [--data PATH ...] [--vocab-size N]

ours    ``build_store`` as configured by default: reading, cleaning, exact de-duplication, splitting, tokenising, the
        round-trip check, packing with index, digests and manifest. ``fast`` encodes with gigatoken behind its proof,
        ``reference`` with tokenizers; both must give the same store.
peer    what run_clm.py does: ``load_dataset``, ``map(tokenize, batched=True, num_proc=2)``, ``map(group_texts)``, with
        the same tokenizer.json in transformers' PreTrainedTokenizerFast, its cache off. It cleans and drops nothing.

All read the same JSON Lines, made beforehand from PATH (the fetched texts, else Python's own library), with the same
tokenizer, trained beforehand. Each run is a process of its own on two processors, in turns. Seconds are from the first
file to the last, without the start of Python and imports; memory is the largest sum over the process and its children
of their proportional set sizes. Without ``--long`` about 8 MB are packed, in 90 seconds at most; with it all, and the
memory for 64 and 256 MB of text mixed from theirs as well, and finished cells are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

QUICK_BYTES = 8_000_000
TRAINING_BYTES = 4_000_000
FILES = 8
BLOCK_TOKENS = 1024
PROCESSES = 2
SIDES = ("fast", "reference", "datasets")
MIXED_MEGABYTES = (64, 256)
SAMPLE_SECONDS = 0.05


def ours(encoder: str, files: Sequence[str], tokenizer_folder: Path, scratch: Path) -> tuple[float, dict[str, object]]:
    """Our preparation; gives when it began, and facts about the result."""
    from wenlu.data.settings import DataSettings
    from wenlu.data.tokens import SPLITS, build_store
    from wenlu.tokenization.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(tokenizer_folder)
    began = time.perf_counter()
    settings = DataSettings(paths=tuple(files), encoder=encoder)  # type: ignore[arg-type]
    store = build_store(scratch / "store", settings, tokenizer=tokenizer, workers=PROCESSES)
    tokens = sum(store.split(split).num_tokens for split in SPLITS)
    return began, {"tokens": tokens, "digest": store.fingerprint}


def theirs(files: Sequence[str], tokenizer_folder: Path, scratch: Path) -> tuple[float, dict[str, object]]:
    """The same by run_clm.py's recipe."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from itertools import chain

    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_folder / "tokenizer.json"))

    def tokenize(examples: dict[str, list[str]]) -> object:
        return tokenizer(examples["text"])

    def group_texts(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {key: list(chain(*rows)) for key, rows in examples.items()}
        total = len(joined["input_ids"]) // BLOCK_TOKENS * BLOCK_TOKENS
        result = {
            key: [ids[start : start + BLOCK_TOKENS] for start in range(0, total, BLOCK_TOKENS)]
            for key, ids in joined.items()
        }
        result["labels"] = result["input_ids"].copy()
        return result

    began = time.perf_counter()
    raw = datasets.load_dataset("json", data_files=list(files), split="train", cache_dir=str(scratch))
    settings = {"batched": True, "num_proc": PROCESSES, "load_from_cache_file": False}
    tokenized = raw.map(tokenize, remove_columns=raw.column_names, **settings)
    grouped = tokenized.map(group_texts, **settings)
    return began, {"tokens": grouped.num_rows * BLOCK_TOKENS}


def child(side: str, folder: Path, scratch: Path) -> None:
    """One run, as a process of its own; prints its result as the last line."""
    import resource

    files = sorted(str(path) for path in (folder / "texts").iterdir())
    if side == "datasets":
        began, facts = theirs(files, folder / "tokenizer", scratch)
    else:
        began, facts = ours(side, files, folder / "tokenizer", scratch)
    seconds = time.perf_counter() - began
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    print("\n" + json.dumps({"seconds": seconds, "processor_seconds": processor, **facts}))


def run(side: str, folder: Path) -> dict[str, object]:
    """Start a run, watch its memory, and read its result."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, __file__, "--child", side, "--folder", str(folder), "--scratch", scratch]
        environment = os.environ | {"RAYON_NUM_THREADS": str(PROCESSES), "OMP_NUM_THREADS": "1"}
        if side == "datasets":
            environment["HF_HOME"] = scratch
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=_on_two_processors
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, _tree_bytes(process.pid))
            time.sleep(SAMPLE_SECONDS)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
        if process.returncode:
            raise SystemExit(f"{side} ended with exit code {process.returncode}")
        return {**json.loads(lines[-1]), "peak_mb": peak / 1e6}


def _on_two_processors() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSES])


def _tree_bytes(process: int) -> int:
    """Proportional set sizes of a process and all its children."""
    import psutil

    total = 0
    try:
        parent = psutil.Process(process)
        for member in [parent, *parent.children(recursive=True)]:
            total += member.memory_full_info().pss
    except (psutil.Error, FileNotFoundError, ProcessLookupError):  # one has ended meanwhile
        return total
    return total


# ---- the corpus ----


def texts_of(paths: Sequence[str]) -> Iterator[str]:
    """The texts of the files as they are, before any cleaning."""
    from wenlu.core.runs import wenlu_home
    from wenlu.data.files import find_files, reader_for
    from wenlu.data.report import Report
    from wenlu.data.settings import DataSettings

    paths = list(paths) or [str(path) for path in sorted((wenlu_home() / "texts").glob("*"))]
    if not paths:
        print("no texts are fetched: measuring on Python's own library")
        for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
            yield path.read_text(encoding="utf-8", errors="replace")
        return
    settings = DataSettings(paths=tuple(paths), bad_bytes="replace")
    for source in find_files(paths, Report()):
        for record in reader_for(source.format).read(source, settings, Report()):
            yield record.text or ""


def prepare(folder: Path, texts: Sequence[str]) -> int:
    """Write texts as JSON Lines in several files; gives their bytes."""
    (folder / "texts").mkdir(parents=True)
    files = [(folder / "texts" / f"{number}.jsonl").open("w", encoding="utf-8") for number in range(FILES)]
    for number, text in enumerate(texts):
        files[number * FILES // len(texts)].write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    for file in files:
        file.close()
    return sum(len(text.encode()) for text in texts)


def mixed(texts: Sequence[str], size: int) -> Iterator[str]:
    """New texts of the same lengths out of pieces cut from the given ones at random places."""
    draw = random.Random(1)
    made = 0
    while made < size:
        length, pieces = len(draw.choice(texts)), []
        while length > 0:
            source = draw.choice(texts)
            start = draw.randrange(len(source))
            pieces.append(source[start : start + min(length, draw.randint(20, 200))])
            length -= len(pieces[-1])
        text = "".join(pieces)
        made += len(text.encode())
        yield text


def with_tokenizer(folder: Path, texts: Sequence[str], vocab_size: int) -> None:
    """Train the tokenizer that all sides use."""
    from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings

    settings = TokenizerSettings(vocab_size=vocab_size, max_training_bytes=TRAINING_BYTES)
    Tokenizer.train(texts, settings).save(folder / "tokenizer")


# ---- the measurement ----


def table(title: str, size: int, runs: dict[str, list[dict[str, object]]]) -> None:
    """Medians of the runs of each side, and their ratios to the peer's."""
    print(f"\n{title}: {size / 1e6:.1f} MB, {PROCESSES} processes, median of {len(next(iter(runs.values())))} runs")
    print(f"  {'':10} {'seconds':>8} {'MB/s':>7} {'ratio':>6} {'processor s':>12} {'tokens':>12} {'peak MB':>8}")
    medians = {side: statistics.median(float(str(row["seconds"])) for row in rows) for side, rows in runs.items()}
    for side, rows in runs.items():
        ratio = f"{medians['datasets'] / medians[side]:6.2f}" if "datasets" in medians else "     -"
        processor = statistics.median(float(str(row["processor_seconds"])) for row in rows)
        peak = max(float(str(row["peak_mb"])) for row in rows)
        print(
            f"  {side:10} {medians[side]:8.2f} {size / 1e6 / medians[side]:7.2f} {ratio} {processor:12.2f}"
            f" {int(str(rows[0]['tokens'])):12,} {peak:8.0f}"
        )
    digests = {row["digest"] for side, rows in runs.items() if side != "datasets" for row in rows}
    if len(digests) > 1:
        raise SystemExit("the fast encoder made another store than the reference")
    print("  the stores of both encoders are the same" if {"fast", "reference"} <= set(runs) else "", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="all texts, five runs a side, and the memory for 256 MB")
    parser.add_argument("--data", nargs="+", default=[], metavar="PATH", help="files or folders of texts")
    parser.add_argument("--vocab-size", type=int, default=16384)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder, options.scratch)
        return
    from _cells import Cells

    cells = Cells("corpus") if options.long else None
    texts = [text for text in texts_of(options.data) if text.strip()]
    size = sum(len(text.encode()) for text in texts)
    if not options.long:
        texts = texts[:: max(1, round(size / QUICK_BYTES))]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]

    def measure(side: str, folder: Path, number: int, megabytes: int) -> dict[str, object]:
        key = {"texts": digest, "vocab_size": options.vocab_size, "side": side, "run": number, "mixed_mb": megabytes}
        return cells.cell(key, lambda: run(side, folder)) if cells else run(side, folder)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "own"
        size = prepare(folder, texts)
        with_tokenizer(folder, texts, options.vocab_size)
        rounds = range(5 if options.long else 2)
        found = [(side, measure(side, folder, number, 0)) for number in rounds for side in SIDES]
        table("texts", size, {side: [row for other, row in found if other == side] for side in SIDES})
        for megabytes in MIXED_MEGABYTES if options.long else ():
            large = Path(name) / str(megabytes)
            size = prepare(large, list(mixed(texts, megabytes * 1_000_000)))
            (large / "tokenizer").symlink_to(folder / "tokenizer")
            table("mixed texts", size, {side: [measure(side, large, 0, megabytes)] for side in ("fast", "reference")})


if __name__ == "__main__":
    main()
