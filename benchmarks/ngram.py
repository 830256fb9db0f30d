"""The n-gram model against KenLM on one token store: seconds, bits per byte, and the largest difference of a token.

    python benchmarks/ngram.py [--data STORE] [--order 5] [--kenlm FOLDER]

Without STORE, the documentation that lies in every Python is packed into the cache and taken. FOLDER holds KenLM's
programs ``lmplz`` and ``query`` (https://github.com/kpu/kenlm); by default they are looked for on the PATH, and without
them only our own figures are printed. KenLM reads each document as one line of made-up words, one for each token, so
that nothing but the counting and smoothing is compared. Both count the train split, ours on one thread, KenLM on as
many as its pipeline starts, and score whole documents of the validation split; KenLM's scoring includes reading its
ARPA file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wenlu.data.fetch import fetch_corpus
from wenlu.data.settings import DataSettings
from wenlu.data.store import Store, TokenStore
from wenlu.data.tokens import prepared_store
from wenlu.models.ngram import NGramModel, fit


@dataclass(frozen=True)
class Result:
    """What one program did; log-probabilities are natural, of all tokens of the validation split in order."""

    fit_seconds: float
    score_seconds: float
    log_probs: np.ndarray

    def record(self, num_bytes: int) -> dict[str, float]:
        return {
            "fit_seconds": round(self.fit_seconds, 2),
            "score_seconds": round(self.score_seconds, 2),
            "scored_tokens_per_second": round(len(self.log_probs) / self.score_seconds),
            "bits_per_byte": -float(self.log_probs.sum()) / math.log(2) / num_bytes,
        }


def compact(store: TokenStore, known: np.ndarray) -> TokenStore:
    """The store with the tokens of the train split numbered from 1, the end 0, all others one unknown token."""
    numbers = np.full(store.vocab_size, len(known) + 1)
    numbers[known] = np.arange(1, len(known) + 1)
    numbers[store.end_id] = 0
    documents = [numbers[store.document(number)].tolist() for number in range(store.num_documents)]
    return TokenStore.from_documents(documents, end_id=0, vocab_size=len(known) + 2)


def ours(train: TokenStore, validation: TokenStore, *, order: int) -> tuple[NGramModel, Result]:
    started = time.perf_counter()
    model = fit(train, order=order, vocab_size=train.vocab_size, end_id=0)
    model(torch.zeros((1, 1), dtype=torch.int64))  # makes the tables that follow from the counts
    fitted = time.perf_counter()
    labels = torch.from_numpy(validation.tokens.astype(np.int64))[None]
    inputs = torch.cat([torch.zeros((1, 1), dtype=torch.int64), labels[:, :-1]], dim=1)
    lengths = torch.from_numpy(np.diff(validation.bounds))
    document_ids = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[None]
    log_probs = model.target_log_probs(inputs, labels, document_ids=document_ids)[0].double().numpy()
    return model, Result(fitted - started, time.perf_counter() - fitted, log_probs)


def lines(store: TokenStore) -> str:
    """A document a line, a made-up word a token; KenLM adds the end itself."""
    unknown = store.vocab_size - 1
    documents = (store.document(number)[:-1].tolist() for number in range(store.num_documents))
    return "".join(" ".join("<unk>" if t == unknown else f"t{t}" for t in tokens) + "\n" for tokens in documents)


def kenlm(folder: Path, train: TokenStore, validation: TokenStore, *, order: int) -> Result:
    with tempfile.TemporaryDirectory() as scratch:
        text, arpa, held_out = (Path(scratch, name) for name in ("train.txt", "model.arpa", "held_out.txt"))
        text.write_text(lines(train), encoding="utf-8")
        held_out.write_text(lines(validation), encoding="utf-8")
        started = time.perf_counter()
        arguments = ["-o", str(order), "-S", "1G", "-T", scratch, "--text", str(text), "--arpa", str(arpa)]
        subprocess.run([folder / "lmplz", *arguments], check=True, stderr=subprocess.DEVNULL)
        fitted = time.perf_counter()
        with held_out.open("rb") as stdin:
            found = subprocess.run(
                [folder / "query", "-v", "word", str(arpa)],
                stdin=stdin, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        scored = time.perf_counter()
    values = re.findall(r"\S+=\d+ \d+ (\S+)", found.stdout.decode())
    return Result(fitted - started, scored - fitted, np.array(values, dtype=np.float64) * math.log(10))


def documentation() -> Store:
    """A store of the English text that every Python carries."""
    paths = tuple(str(path) for path in fetch_corpus("python-docs"))
    return prepared_store(DataSettings(paths=paths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--kenlm", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = Store.open(options.data) if options.data else documentation()
    known = np.setdiff1d(np.unique(store.train.tokens), [store.train.end_id])
    train, validation = compact(store.train, known), compact(store.validation, known)
    num_bytes = int(store.validation.original_bytes.sum())
    model, own = ours(train, validation, order=options.order)
    report: dict[str, object] = {
        "order": options.order,
        "train_tokens": train.num_tokens,
        "validation_tokens": validation.num_tokens,
        "ngrams": sum(model.config.num_ngrams),
        "wenlu": own.record(num_bytes),
    }
    program = shutil.which("lmplz", path=options.kenlm or os.environ.get("PATH"))
    if program is not None:
        peer = kenlm(Path(program).parent, train, validation, order=options.order)
        report["kenlm"] = peer.record(num_bytes)
        report["largest_difference_of_a_token"] = float(np.abs(own.log_probs - peer.log_probs).max())
        report["fit_seconds_ratio"] = peer.fit_seconds / own.fit_seconds
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
