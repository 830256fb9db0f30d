"""Packing under hostile conditions: killed at any moment, lines without end, runs without a place to cut."""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forking import break_call, fork, kill_after, kill_self, wait
from promises import Figure, Lane
from resident import in_fresh_process
from skips import needs_posix
from tiny_tokenizers import KINDS, tiny
from wenlu.core.errors import DataError
from wenlu.data.deduplication import DigestSet, text_digest
from wenlu.data.documents import DataSettings, Report, read_documents
from wenlu.data.spool import Spool
from wenlu.data.tokens import Store, build_store
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings

SMALL = TokenizerSettings(vocab_size=300)
LINES = ["床前明月光，疑是地上霜。", "白日依山尽，黄河入海流。", "a fox and a dog <|endoftext|>", "👩‍👩‍👧 é"]
RUNS = {"a": "a", "blank": " ", "的": "的", "emoji": "😀"}
PART = 1_000_000  # characters, after which a line is cut
RECURRING = 200  # parts after which a very long line repeats itself, so that it takes no more disk
SECONDS_PER_MB = 10  # the promise is 2; a slow machine is no failure, the square of the length would be


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of four formats; most documents stand in an earlier file already."""
    folder = tmp_path_factory.mktemp("corpus")
    for file in range(6):
        texts = [
            f"{(number * 7 + file * 20) % 90}: {LINES[number % 4]}\n{'又' * (number % 30)}" for number in range(30)
        ]
        rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        table = "text\n" + "".join(f'"{text}"\n' for text in texts)
        (folder / f"{file}.jsonl").write_text(rows, encoding="utf-8")
        (folder / f"{file}.csv").write_text(table, encoding="utf-8")
        (folder / f"{file}.txt.gz").write_bytes(gzip.compress("\n\n".join(texts).encode()))
    return folder


def pack(paths: list[str], target: Path, *, workers: int = 1, replace: bool = False) -> Store:
    settings = DataSettings(tuple(paths), document="blank_line", validation_fraction=0.1, test_fraction=0.1)
    return build_store(target, settings, tokenizer_settings=SMALL, workers=workers, replace=replace)


def files_of(store: Path, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    files = {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name not in without}


def texts_of(store: Store) -> list[str]:
    splits = [store.split(name) for name in ("train", "validation", "test")]  # type: ignore[arg-type]
    return [
        store.tokenizer.decode(split.document(number)[:-1].tolist())
        for split in splits
        for number in range(split.num_documents)
    ]


@pytest.mark.promise("T17")
def test_any_order_of_files_and_number_of_workers_gives_the_same_store(
    corpus: Path, tmp_path: Path, lane: Lane, figure: Figure
) -> None:
    first = pack([str(corpus)], tmp_path / "first")
    settings = DataSettings((str(corpus),), document="blank_line")
    documents = [document.text for document in read_documents(settings, Report())]
    assert sorted(texts_of(first)) == sorted(set(documents)), "another set of duplicates was removed"
    assert 2 * len(set(documents)) < len(documents)
    paths = sorted(str(path) for path in corpus.iterdir())
    tries = lane(ci=6, nightly=40)
    for number in range(tries):
        random.Random(number).shuffle(paths)
        again = pack(paths, tmp_path / str(number), workers=1 + number % 3)
        without = ("data.json", "MANIFEST.json")  # they name the paths as they were given
        assert files_of(again.path, without=without) == files_of(first.path, without=without)
        for key in ("read", "kept", "dropped", "splits"):
            assert again.record[key] == first.record[key]
    figure(f"{tries} orders of files on 1 to 3 workers: {tries} equal stores, the same duplicates removed")


@pytest.mark.promise("T17")
def test_packing_goes_on_after_a_kill_at_any_moment(corpus: Path, tmp_path: Path, lane: Lane, figure: Figure) -> None:
    needs_posix()
    whole = pack([str(corpus)], tmp_path / "whole").path
    expected = files_of(whole)
    target = tmp_path / "killed" / "store"

    def killed(number: int, workers: int) -> bool:
        """Whether a build that is killed at its n-th change of the disk got that far; the next one must be whole."""

        def build() -> int:
            break_call(number, kill_self)
            pack([str(corpus)], target, workers=workers, replace=True)
            return 0

        reached = wait(fork(build)) != 0
        _check_restart(corpus, target, expected, workers=workers)
        return reached

    moment, step = 0, lane(ci=2, nightly=1)
    while killed(moment, workers=1 + moment // step % 2):
        moment += step
    assert moment > 20
    draw = random.Random(17)
    for _ in range(tries := lane(ci=6, nightly=100)):
        child = fork(lambda: pack([str(corpus)], target, workers=2, replace=True) is None)
        kill_after(child, draw.uniform(0, 0.2))
        _check_restart(corpus, target, expected, workers=1)
    kills = f"{moment // step} kills at every {'second ' * (step - 1)}change of the disk"
    figure(f"{kills}, {tries} at random: all restarts gave the same bytes")


def _check_restart(corpus: Path, target: Path, expected: dict[str, bytes], *, workers: int) -> None:
    if target.exists():
        assert files_of(target) == expected, "a killed process left a store that is not whole"
    assert files_of(pack([str(corpus)], target, workers=workers, replace=True).path) == expected
    assert [path.name for path in target.parent.iterdir()] == ["store"], "leftovers of a killed process"


# ---- lines without end ----


def one_line(megabytes: int) -> Iterator[bytes]:
    filler = ("the quick brown fox 学而时习之 " * (PART // 20))[: PART - 12]
    size = number = 0
    while size < megabytes * 1e6:
        block = f"{number % RECURRING:11} {filler}".encode()
        yield block
        size, number = size + len(block), number + 1


def tiny_lines(count: int) -> Iterator[bytes]:
    for start in range(0, count, 100_000):
        yield "".join(f"{number:x}\n" for number in range(start, min(start + 100_000, count))).encode()


def one_row(megabytes: int) -> Iterator[bytes]:
    yield b'{"text": "'
    for _ in range(megabytes // 4):
        yield "😀".encode() * 1_000_000


SOURCES: dict[str, Callable[[int], Iterator[bytes]]] = {"line": one_line, "lines": tiny_lines, "row": one_row}


def read_pipe(folder: str, source: str, amount: int, document: str) -> dict[str, float]:
    """Read a pipe as ``wenlu data pack`` does, up to the store; runs in a process of its own."""
    pipe = Path(folder, "pipe.jsonl" if source == "row" else "pipe.txt")
    os.mkfifo(pipe)
    writer = fork(lambda: _write(pipe, SOURCES[source](amount)))
    report, seen = Report(), DigestSet()
    settings = DataSettings((str(pipe),), document=document)  # type: ignore[arg-type]
    started = time.process_time()
    refused = 0
    with Spool(Path(folder, "spool")) as spool:
        try:
            for text in read_documents(settings, report):
                digest = text_digest(text.text)
                if seen.add(digest):
                    spool.add(text.text, original_bytes=text.original_bytes, hash=0, file=1, language="", split="train")
        except DataError:
            refused = 1
        characters = sum(len(text) for text in spool.texts("train"))
    seconds = time.process_time() - started
    if not refused:
        assert wait(writer) == 0
    return {"seconds": seconds, "bytes": report.bytes, "kept": characters, "refused": refused}


def _write(pipe: Path, blocks: Iterator[bytes]) -> int:
    with pipe.open("wb") as file:
        for block in blocks:
            file.write(block)
    return 0


def measured(folder: Path, *arguments: object) -> tuple[dict[str, float], float]:
    folder.mkdir()
    result, peak = in_fresh_process(read_pipe, str(folder), *arguments)
    assert isinstance(result, dict) and peak <= 1024
    return result, peak


@pytest.mark.promise("T18")
def test_a_line_without_end_takes_no_more_memory(tmp_path: Path, lane: Lane, figure: Figure) -> None:
    needs_posix()
    megabytes = lane(ci=256, nightly=10_000)
    short, low = measured(tmp_path / "short", "line", megabytes // 4, "auto")
    long, high = measured(tmp_path / "long", "line", megabytes, "auto")
    assert long["bytes"] >= megabytes * 1e6 and long["kept"] > 0
    assert high < low + 50
    ratio = (long["seconds"] / long["bytes"]) / (short["seconds"] / short["bytes"])
    assert ratio < 5, "far from linear"
    figure(
        f"one line of {megabytes} MB: {high:.0f} MiB resident; a byte takes {ratio:.2f} of the time in a quarter of it"
    )


@pytest.mark.nightly
@pytest.mark.promise("T18")
def test_a_row_without_end_is_refused_within_the_memory(tmp_path: Path, figure: Figure) -> None:
    needs_posix()
    refused, peak = measured(tmp_path / "row", "row", 400, "auto")
    assert refused["refused"]
    figure(f"a row of JSON Lines of 400 MB: refused at {peak:.0f} MiB resident")


@pytest.mark.promise("T18")
@pytest.mark.parametrize("document", ["auto", "line"])
def test_many_tiny_lines(tmp_path: Path, lane: Lane, figure: Figure, document: str) -> None:
    needs_posix()
    count = lane(ci=5_000_000, nightly=100_000_000) if document == "auto" else lane(ci=100_000, nightly=5_000_000)
    short, _ = measured(tmp_path / "short", "lines", count // 4, document)
    long, peak = measured(tmp_path / "long", "lines", count, document)
    assert long["bytes"] > 2 * count
    ratio = long["seconds"] / short["seconds"] / 4
    assert ratio < 5, "far from linear"
    figure(f"{count:,} lines ({document}): {peak:.0f} MiB resident; a line takes {ratio:.2f} of the time in a quarter")


# ---- runs without a place to cut ----


@pytest.mark.promise("T19")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_one_character_is_packed_in_linear_time(tmp_path: Path, lane: Lane, figure: Figure, name: str) -> None:
    rates = []
    for length in (lane(ci=100_000, nightly=1_000_000), lane(ci=1_000_000, nightly=10_000_000)):
        text = "x" + RUNS[name] * length + "x"
        (tmp_path / f"{length}.txt").write_text(text, encoding="utf-8")
        whole = {"cleaning": "none", "maximum_characters": len(text), "validation_fraction": 0.0}
        settings = DataSettings((str(tmp_path / f"{length}.txt"),), **whole)  # type: ignore[arg-type]
        started = time.process_time()
        store = build_store(tmp_path / str(length), settings, tokenizer_settings=SMALL)
        rates.append((time.process_time() - started) / len(text.encode()) * 1e6)
        assert "".join(texts_of(store)) == text
    assert rates[-1] < SECONDS_PER_MB
    figure(f"{length:,} times {name}: trained, encoded and packed in {rates[1]:.2f} s a MB ({rates[0]:.2f} at a tenth)")


@pytest.mark.promise("T19")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_runs_in_linear_time(kind: str, lane: Lane, figure: Figure) -> None:
    length = lane(ci=100_000, nightly=1_000_000)
    slowest = 0.0
    for run in RUNS.values():
        text = f"{run * length} x"
        started = time.process_time()
        Tokenizer.train([text], TokenizerSettings(kind=kind, vocab_size=420))  # type: ignore[arg-type]
        ids = tiny(kind).encode(text)  # type: ignore[arg-type]
        tiny(kind).decode(ids)  # type: ignore[arg-type]
        slowest = max(slowest, (time.process_time() - started) / len(text.encode()) * 1e6)
    assert slowest < SECONDS_PER_MB
    figure(f"{kind}: {length:,} times the same character trained on, encoded and decoded in {slowest:.2f} s a MB")
