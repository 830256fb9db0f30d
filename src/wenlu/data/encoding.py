"""From the spool to token files: which encoder is used, and the streaming of ids to disk in the order of the texts."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save

from wenlu.core.log import notice, progress, warn
from wenlu.data.settings import EncoderName
from wenlu.data.spool import Spool
from wenlu.data.store import SPLITS, Int64Array, Split, TokenArray, token_dtype
from wenlu.tokenization.fast import FastEncoder, FastEncoderError
from wenlu.tokenization.tokenizer import IdArray, Tokenizer

FAST_FROM_BYTES = 4_000_000
"""Less text is encoded by the reference before the fast encoder is loaded and proved."""
PROVED_PER_LANGUAGE = 64
PROVED_CHARACTERS = 8192
COMPARED_EVERY = 100
"""Of the documents that the fast encoder encodes, each with such a number is compared with the reference."""

_BATCH_BYTES = 1 << 19
_BATCH_DOCUMENTS = 1024

Encode = Callable[[int, list[bytes]], list[IdArray]]
"""The ids of a batch of texts, of which the first has this number in its split."""


class _Batch(NamedTuple):
    """Encoded documents, each with the end token behind it."""

    tokens: TokenArray
    lengths: list[int]
    lossless: list[bool]


def write_splits(
    directory: Path, spool: Spool, tokenizer: Tokenizer, *, encoder: EncoderName, workers: int
) -> dict[Split, dict[str, object]]:
    """Write tokens and index of every split; gives their summaries for data.json, each with the digest.

    The files are the same whichever encoder is used: when the fast one fails or differs, all is written again.
    """
    fast = None if encoder == "reference" else _proved(spool, tokenizer, asked_for=encoder == "fast")
    if fast is not None:
        try:
            return _write_all(directory, spool, tokenizer, _compared(fast), workers)
        except FastEncoderError as error:
            warn("data.encoder_given_up", reason=error.because)
    return _write_all(directory, spool, tokenizer, _reference(tokenizer), workers)


def _proved(spool: Spool, tokenizer: Tokenizer, *, asked_for: bool) -> FastEncoder | None:
    """The fast encoder after its proof; None, announced, where it cannot be had."""
    if not asked_for and int(spool.rows()["bytes"].sum()) < FAST_FROM_BYTES:
        return None
    try:
        fast = FastEncoder(tokenizer)
        count = fast.prove([text[:PROVED_CHARACTERS] for text in spool.sample(PROVED_PER_LANGUAGE)])
    except FastEncoderError as error:
        notice("data.encoder_reference", reason=error.because)
        return None
    notice("data.encoder_fast", count=count, every=COMPARED_EVERY)
    return fast


def _compared(fast: FastEncoder) -> Encode:
    def encode(first: int, texts: list[bytes]) -> list[IdArray]:
        rows = fast.encode(texts)
        chosen = range(-first % COMPARED_EVERY, len(texts), COMPARED_EVERY)
        fast.compare([texts[number] for number in chosen], [rows[number] for number in chosen])
        return rows

    return encode


def _reference(tokenizer: Tokenizer) -> Encode:
    def encode(first: int, texts: list[bytes]) -> list[IdArray]:
        return [np.array(ids, dtype=np.uint32) for ids in tokenizer.encode_batch([text.decode() for text in texts])]

    return encode


def _write_all(
    directory: Path, spool: Spool, tokenizer: Tokenizer, encode: Encode, workers: int
) -> dict[Split, dict[str, object]]:
    return {split: _write_split(directory, split, spool, tokenizer, encode, workers) for split in SPLITS}


def _write_split(
    directory: Path, split: Split, spool: Spool, tokenizer: Tokenizer, encode: Encode, workers: int
) -> dict[str, object]:
    """Stream the ids of a split to disk and save its index; gives its summary."""
    rows = spool.rows()[spool.in_split(split)]
    count = len(rows)
    lengths: Int64Array = np.zeros(count + 1, dtype=np.int64)
    lossless = np.zeros(count, dtype=np.bool_)
    token_path, index_path = directory / f"{split}.bin", directory / f"{split}.index.safetensors"
    number = 0
    total = int(rows["bytes"].sum()) / 1e3
    work = _batch_encoder(tokenizer, encode)
    with token_path.open("wb") as file, progress("data.tokenizing", total=total, unit="kB", split=split) as bar:
        for batch in _in_order(work, _batches(spool.encoded(split)), workers):
            file.write(batch.tokens.data)  # tofile would not say why a disk takes no more
            stop = number + len(batch.lengths)
            lengths[number + 1 : stop + 1] = batch.lengths
            lossless[number:stop] = batch.lossless
            bar.advance(int(rows["bytes"][number:stop].sum()) / 1e3)
            number = stop
    columns = {
        "bounds": np.cumsum(lengths),
        "original_bytes": rows["original_bytes"].astype(np.int64),
        "characters": rows["characters"].astype(np.int64),
        "languages": rows["language"].astype(np.uint16),
        "lossless": lossless,
        "files": rows["file"].astype(np.uint32),
    }
    index_path.write_bytes(save({name: np.ascontiguousarray(column) for name, column in columns.items()}))
    digest = hashlib.sha256()
    for path in (token_path, index_path):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    if not lossless.all():
        warn("data.not_lossless", count=int((~lossless).sum()), total=count, split=split)
    by_language = np.bincount(rows["language"], minlength=len(spool.language_names)).tolist()
    return {
        "documents": count,
        "tokens": int(lengths.sum()),
        "characters": int(rows["characters"].sum()),
        "original_bytes": int(rows["original_bytes"].sum()),
        "cleaned_bytes": int(rows["bytes"].sum()),
        "not_lossless": int((~lossless).sum()),
        "languages": dict(zip(spool.language_names, by_language, strict=True)),
        "digest": digest.hexdigest(),
    }


def _batch_encoder(tokenizer: Tokenizer, encode: Encode) -> Callable[[tuple[int, list[bytes]]], _Batch]:
    dtype = token_dtype(tokenizer.vocab_size)
    end = np.array([tokenizer.end_id], dtype=np.uint32)

    def work(batch: tuple[int, list[bytes]]) -> _Batch:
        first, texts = batch
        rows = encode(first, texts)
        tokens = np.concatenate([part for row in rows for part in (row, end)], dtype=dtype, casting="unsafe")
        return _Batch(tokens, [len(row) + 1 for row in rows], tokenizer.round_trips_batch(texts, rows))

    return work


def _batches(texts: Iterator[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Texts in batches, each with the number of its first."""
    held: list[bytes] = []
    first = size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= _BATCH_BYTES or len(held) >= _BATCH_DOCUMENTS:
            yield first, held
            first += len(held)
            held, size = [], 0
    if held:
        yield first, held


def _in_order(
    work: Callable[[tuple[int, list[bytes]]], _Batch], batches: Iterator[tuple[int, list[bytes]]], workers: int
) -> Iterator[_Batch]:
    """Results in the order of the batches, a few of which are worked on at the same time."""
    if workers <= 1:
        yield from map(work, batches)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="wenlu-tokenize") as pool:
        waiting: deque[Future[_Batch]] = deque(pool.submit(work, batch) for batch in islice(batches, workers + 1))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(work, batch) for batch in islice(batches, 1))
            yield done
