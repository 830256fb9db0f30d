"""What every reader in the folder must do, found by discovery: a new reader needs a sample here and passes the same."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from wenlu.core.errors import DataError, WenluError
from wenlu.data.documents import DataSettings, Report, read_documents
from wenlu.data.files import find_files, readers

TEXTS = ["第一篇 文章", "second text <|endoftext|> <unk>", '第三，\t“引号”, "quotes" 👩‍👩‍👧']


def _lines(path: Path) -> None:
    path.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")


def _json(path: Path) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")


def _table(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([["id", "text"], *enumerate(TEXTS)])


def _parquet(path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": TEXTS}), path)


SAMPLES: dict[str, Callable[[Path], None]] = {
    "txt": _lines,
    "text": _lines,
    "md": _lines,
    "markdown": _lines,
    "jsonl": _json,
    "ndjson": _json,
    "csv": _table,
    "tsv": _table,
    "parquet": _parquet,
}


@pytest.fixture(params=sorted(readers()))
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small file of each format."""
    path = tmp_path / f"sample.{request.param}"
    SAMPLES[request.param](path)
    return path


def settings_for(path: Path) -> DataSettings:
    return DataSettings(paths=(str(path),), document="line")


def test_texts_come_out_as_they_are(sample: Path) -> None:
    report = Report()
    documents = list(read_documents(settings_for(sample), report))
    assert [document.text for document in documents] == TEXTS
    assert [document.original_bytes for document in documents] == [len(text.encode()) for text in TEXTS]
    assert not report.changed and not report.dropped and report.documents == 3
    assert report.bytes == sum(len(text.encode()) for text in TEXTS)
    assert all(document.source.startswith(f"{sample}:") for document in documents)


def test_reading_is_streamed(sample: Path) -> None:
    """The first document is there before the second one was asked for."""
    source = find_files([str(sample)], Report())[0]
    records = readers()[source.format].read(source, settings_for(sample), Report())
    assert isinstance(records, Iterator)
    assert next(records).text == TEXTS[0]
    records.close()  # type: ignore[attr-defined]


def test_compressed_equals_plain(sample: Path) -> None:
    packed = sample.with_name(sample.name + ".gz")
    packed.write_bytes(gzip.compress(sample.read_bytes()))
    sample.unlink()
    if sample.suffix == ".parquet":  # compressed in itself; refused by name
        with pytest.raises(DataError, match="unpack it first"):
            list(read_documents(settings_for(packed), Report()))
        return
    assert [document.text for document in read_documents(settings_for(packed), Report())] == TEXTS


def test_any_truncation_or_noise_is_read_or_refused_with_the_file_name(sample: Path) -> None:
    whole = sample.read_bytes()
    contents = [whole[:length] for length in range(0, len(whole), 7)]
    contents += [
        whole[:place] + noise + whole[place + 1 :] for place in range(0, len(whole), 11) for noise in (b"\0", b"\xff")
    ]
    for content in contents:
        sample.write_bytes(content)
        try:
            list(read_documents(settings_for(sample), Report()))
        except WenluError as error:
            assert isinstance(error, DataError) and str(sample) in str(error)
