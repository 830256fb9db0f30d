"""Cleaned documents on disk while a store is made: read once, then walked over as often as needed in little memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wenlu.data.store import SPLITS, Int64Array, Split

_ROW = np.dtype(
    [
        ("bytes", "<i8"),  # of the cleaned text in UTF-8
        ("original_bytes", "<i8"),
        ("characters", "<i8"),
        ("hash", "<u8"),
        ("file", "<u4"),
        ("language", "<u2"),
        ("split", "<u2"),
    ]
)
_PACKED = struct.Struct("<qqqQIHH")  # a row on disk


class Spool:
    """Documents and a row of numbers for each, in the order they were added."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._texts_path, self._rows_path = directory / "texts.utf8", directory / "rows.bin"
        self._texts = self._texts_path.open("wb")
        self._rows = self._rows_path.open("wb")
        self.language_names: list[str] = []
        self.num_documents = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *failure: object) -> None:
        self._texts.close()
        self._rows.close()

    def add(self, text: str, *, original_bytes: int, hash: int, file: int, language: str, split: Split) -> None:
        """Append one document; ``hash`` is 64 bits of its digest, ``file`` the number of its file."""
        if language not in self.language_names:
            self.language_names.append(language)
        encoded = text.encode()
        self._texts.write(encoded)
        code = self.language_names.index(language)
        row = (len(encoded), original_bytes, len(text), hash, file, code, SPLITS.index(split))
        self._rows.write(_PACKED.pack(*row))
        self.num_documents += 1

    def rows(self) -> npt.NDArray[np.void]:
        """The rows of all documents, mapped from disk: fields bytes, original_bytes, characters, hash, file ..."""
        self._flush()
        return np.memmap(self._rows_path, dtype=_ROW, mode="r") if self.num_documents else np.empty(0, dtype=_ROW)

    def move(self, document: int, split: Split) -> None:
        """Put one document into another split."""
        self._flush()
        rows = np.memmap(self._rows_path, dtype=_ROW, mode="r+")
        rows["split"][document] = SPLITS.index(split)
        rows.flush()

    def in_split(self, split: Split) -> Int64Array:
        """Numbers of the documents of a split."""
        return np.flatnonzero(self.rows()["split"] == SPLITS.index(split)).astype(np.int64)

    def texts(self, split: Split | None = None) -> Iterator[str]:
        """The texts of a split, or all, streamed."""
        return map(bytes.decode, self.encoded(split))

    def encoded(self, split: Split | None = None) -> Iterator[bytes]:
        """The same as UTF-8."""
        return self._read(np.arange(self.num_documents) if split is None else self.in_split(split))

    def sample(self, per_language: int) -> list[str]:
        """Texts of every language, so many of each where there are, spread over all documents."""
        languages = self.rows()["language"]
        chosen = [np.flatnonzero(languages == code) for code in range(len(self.language_names))]
        spread = [numbers[:: max(1, -(-len(numbers) // per_language))] for numbers in chosen]
        return [text.decode() for text in self._read(np.sort(np.concatenate(spread)))]

    def _read(self, numbers: Int64Array) -> Iterator[bytes]:
        sizes = self.rows()["bytes"].astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        with self._texts_path.open("rb") as file:
            for start, size in zip(starts[numbers].tolist(), sizes[numbers].tolist(), strict=True):
                file.seek(start)
                yield file.read(size)

    def _flush(self) -> None:
        if not self._rows.closed:
            self._texts.flush()
            self._rows.flush()
