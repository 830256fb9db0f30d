"""From the spool to token files: which encoder is used, and the streaming of ids to disk in the order of the texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save

from wenlu.core.log import notice, progress, warn
from wenlu.core.publication import file_sha256
from wenlu.data.ordered import in_order
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


_Numbered = tuple[int, list[bytes]]
"""Texts, and the number of the first in its split."""


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

    def write(encode: Encode) -> dict[Split, dict[str, object]]:
        return {split: _write_split(directory, split, spool, tokenizer, encode, workers) for split in SPLITS}

    fast = None if encoder == "reference" else _proved(spool, tokenizer, asked_for=encoder == "fast")
    if fast is not None:
        try:
            return write(_compared(fast))
        except FastEncoderError as error:
            warn("data.encoder_given_up", reason=error.because)
    return write(_reference(tokenizer))


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


def _write_split(
    directory: Path, split: Split, spool: Spool, tokenizer: Tokenizer, encode: Encode, workers: int
) -> dict[str, object]:
    """Stream the ids of a split to disk and save its index; gives its summary."""
    rows = spool.rows()[spool.in_split(split)]
    count, number = len(rows), 0
    lengths: Int64Array = np.zeros(count, dtype=np.int64)
    lossless = np.zeros(count, dtype=np.bool_)
    token_path, index_path = directory / f"{split}.bin", directory / f"{split}.index.safetensors"
    totals = {name: int(rows[name].sum()) for name in ("bytes", "original_bytes", "characters")}
    work = _batch_encoder(tokenizer, encode)
    with (
        token_path.open("wb") as file,
        progress("data.tokenizing", total=totals["bytes"] / 1e3, unit="kB", split=split) as bar,
    ):
        threads = {"num_workers": workers if workers > 1 else 0, "num_ahead": workers + 1}
        for batch in in_order(work, _batches(spool.encoded(split)), **threads, name="wenlu-tokenize"):
            file.write(batch.tokens.data)  # tofile would not say why a disk takes no more
            done = slice(number, number + len(batch.lengths))
            lengths[done], lossless[done], number = batch.lengths, batch.lossless, done.stop
            bar.advance(int(rows["bytes"][done].sum()) / 1e3)
    columns = {
        "bounds": np.cumsum(np.append(0, lengths)),
        "original_bytes": rows["original_bytes"].astype(np.int64),
        "characters": rows["characters"].astype(np.int64),
        "languages": rows["language"].astype(np.uint16),
        "lossless": lossless,
        "files": rows["file"].astype(np.uint32),
    }
    index_path.write_bytes(save({name: np.ascontiguousarray(column) for name, column in columns.items()}))
    digest = hashlib.sha256(b"".join(bytes.fromhex(file_sha256(path)) for path in (token_path, index_path)))
    lossy = count - int(lossless.sum())
    if lossy:
        warn("data.not_lossless", count=lossy, total=count, split=split)
    by_language = np.bincount(rows["language"], minlength=len(spool.language_names)).tolist()
    return {
        "documents": count,
        "tokens": int(lengths.sum()),
        "characters": totals["characters"],
        "original_bytes": totals["original_bytes"],
        "cleaned_bytes": totals["bytes"],
        "not_lossless": lossy,
        "languages": dict(zip(spool.language_names, by_language, strict=True)),
        "digest": digest.hexdigest(),
    }


def _batch_encoder(tokenizer: Tokenizer, encode: Encode) -> Callable[[_Numbered], _Batch]:
    dtype = token_dtype(tokenizer.vocab_size)
    end = np.array([tokenizer.end_id], dtype=np.uint32)

    def work(batch: _Numbered) -> _Batch:
        first, texts = batch
        rows = encode(first, texts)
        tokens = np.concatenate([part for row in rows for part in (row, end)], dtype=dtype, casting="unsafe")
        return _Batch(tokens, [len(row) + 1 for row in rows], tokenizer.round_trips_batch(texts, rows))

    return work


def _batches(texts: Iterator[bytes]) -> Iterator[_Numbered]:
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
