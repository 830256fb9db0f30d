"""Damage to any file that Wenlu wrote is found where the file is used: one error, or a recovery that is announced.

Every place is a directory and the door that a user takes to it; a door is tried on the whole directory after each
damage, so that whatever an error leaves behind in the process would be seen.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import wenlu
from promises import Figure, Lane
from small_world import make_world
from tiny_training import losses
from wenlu.cli.main import main
from wenlu.core.errors import WenluError
from wenlu.core.publication import MANIFEST
from wenlu.core.runs import Run
from wenlu.training.run import resume_run

BLOCK_BYTES = 4096
NEWEST = "step-00000004"
LIMIT_SECONDS = 1.0
TEXT = "the quick brown fox 你好"
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
EDITABLE = TOKENIZER | {"config.json", "generation_config.json", "wenlu.toml"}


def use_model(path: Path) -> object:
    """What a model directory is for: the probability of a text."""
    return wenlu.load(path).score(TEXT).log_prob


def use_foreign_model(path: Path) -> object:
    """A model directory that nobody vouches for."""
    return use_model(path)


def use_store(path: Path) -> object:
    """What a store is for: its tokens and its tokenizer."""
    store = wenlu.open_store(path)
    return store.fingerprint, store.tokenizer.fingerprint, int(store.train.tokens.sum())


def use_run(path: Path) -> object:
    """What an interrupted run is for: a copy of it goes on to its end."""
    copy = path.with_name(f"{path.name}-resumed")
    shutil.copytree(path, copy)
    try:
        resume_run(copy)
        return losses(copy), Run(copy).status()["step"]
    finally:
        shutil.rmtree(copy)


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Nothing here loses its power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@dataclass(frozen=True)
class Place:
    """A directory, its door, and the file in it that a test damages."""

    directory: Path
    use: Callable[[Path], object]
    expected: object
    prefix: str = ""  # of the files to damage; "" for all

    def files(self) -> list[Path]:
        """The files that hold something, the manifest among them, but not the lock."""
        found = sorted((self.directory / self.prefix).rglob("*"))
        return [path for path in found if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    """A directory of every kind, each with what its door gives when it is whole."""
    world = tmp_path_factory.mktemp("world")
    make_world(world, hidden_size=32)
    found = {}
    for kind in ("gpt2", "qwen3", "lstm", "ngram", "mixture"):
        directory = world / "models" / kind
        found[kind] = Place(directory, use_model, use_model(directory))
    found["store"] = Place(world / "store", use_store, use_store(world / "store"))
    for kind in ("qwen3", "lstm"):
        run = world / "runs" / kind
        found[f"{kind} checkpoint"] = Place(
            run / "checkpoints" / NEWEST, use_model, use_model(run / "checkpoints" / NEWEST)
        )
    run = world / "runs" / "qwen3"
    found["run"] = Place(run, use_run, use_run(run), f"checkpoints/{NEWEST}")
    return found


@dataclass
class Answer:
    """How a door answered: with an error of ours, or with a result and what was said beside it."""

    error: WenluError | None = None
    result: object = None
    said: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of the processor

    def everything(self) -> str:
        return "\n".join([*self.said, str(self.error or "")])


class Hearing(logging.Handler):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def knock(place: Place) -> Answer:
    """Use a directory; any error but one of ours fails the test."""
    hearing = Hearing()
    logger = logging.getLogger("wenlu")
    logger.addHandler(hearing)
    answer, started = Answer(said=hearing.said), time.process_time()
    try:
        answer.result = place.use(place.directory)
    except WenluError as error:
        answer.error = error
    finally:
        logger.removeHandler(hearing)
    answer.seconds = time.process_time() - started
    return answer


def open_files() -> int:
    """How many files this process has open or mapped; those that only a cycle of garbage holds are let go first."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").count(".safetensors")
    return maps + len(list(Path("/proc/self/fd").iterdir()))


def flip(path: Path, draw: random.Random) -> tuple[bytes, bytes]:
    """Flip one bit; the contents before and after."""
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    path.write_bytes(damaged)
    return whole, bytes(damaged)


@pytest.mark.promise("T9")
def test_every_flipped_bit_is_found_where_the_file_is_used(
    places: dict[str, Place], lane: Lane, figure: Figure
) -> None:
    draw = random.Random(9)
    flips = lane(ci=200, nightly=1000)
    files = [(name, place, path) for name, place in places.items() for path in place.files()]
    refused = warned = recovered = 0
    for number in range(flips):
        name, place, path = files[number % len(files)]
        whole, damaged = flip(path, draw)
        answer = knock(place)
        path.write_bytes(whole)
        where = f"{name}: {path.name}: {answer}"
        said = answer.everything()
        if path.name != MANIFEST:
            assert f"/{path.relative_to(place.directory)}" in said, where
            assert hashlib.sha256(whole).hexdigest() in said, where
            assert hashlib.sha256(damaged).hexdigest() in said, where
        assert answer.error is not None or answer.said, where
        if place.use is use_run:
            assert answer.error is None and answer.result == place.expected, where  # from the checkpoint before
            recovered += 1
        elif answer.error is None:
            assert path.name in (*EDITABLE, MANIFEST, "state.json"), where
            warned += 1
        else:
            assert answer.error.exit_code == 2, where
            refused += 1
    for place in places.values():
        assert place.use(place.directory) == place.expected
    figure(
        f"{flips} flips in {len(files)} files: {flips} detected ({refused} refused, {recovered} recovered from the"
        f" checkpoint before, {warned} in texts of a model directory announced), all with file and both digests"
    )


def cuts(size: int, step: int) -> list[int]:
    """The sizes that a file is cut to: nothing, every step, all but the last byte."""
    return sorted({*range(0, size, step), size - 1})


def damages(path: Path, step: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every way in which a file is spoilt, and what does it."""
    whole = path.read_bytes()
    other = next(entry for entry in sorted(path.parent.iterdir()) if entry != path and entry.is_file())

    def swap() -> None:
        path.write_bytes(other.read_bytes())

    def make_directory() -> None:
        path.unlink()
        path.mkdir()

    for size in cuts(len(whole), step):
        yield f"cut to {size}", lambda size=size: path.write_bytes(whole[:size]) and None
    for end in (b"\n", b"\0" * BLOCK_BYTES):
        yield f"{len(end)} more bytes", lambda end=end: path.write_bytes(whole + end) and None
    yield f"replaced by {other.name}", swap
    yield "missing", path.unlink
    yield "a directory", make_directory


def repair(path: Path, whole: bytes) -> None:
    if path.is_dir():
        path.rmdir()
    path.write_bytes(whole)


def spoil_all(place: Place, files: list[Path], step: int) -> tuple[int, int, float]:
    """Spoil every file in every way: (cases, errors, processor seconds of the slowest); a wrong answer fails."""
    count = errors = 0
    slowest = 0.0
    for path in files:
        whole = path.read_bytes()
        for name, spoil in damages(path, step):
            spoil()
            answer = knock(place)
            repair(path, whole)
            where = f"{path.relative_to(place.directory)} {name}: {answer}"
            assert answer.error is not None or answer.result == place.expected or answer.said, where
            if answer.error is None and place.use is not use_model:
                assert answer.result == place.expected or "log.jsonl" in where, where
            if answer.error is not None:
                assert answer.error.exit_code in (1, 2), where
                assert "\n  what to do: " in str(answer.error), where
                errors += 1
            count += 1
            slowest = max(slowest, answer.seconds)
    assert place.use(place.directory) == place.expected, "nothing stays behind in the process"
    return count, errors, slowest


@pytest.mark.promise("T10")
@pytest.mark.parametrize("name", ["gpt2", "lstm", "ngram", "mixture", "store", "qwen3 checkpoint"])
def test_spoilt_files_of_published_directories(name: str, places: dict[str, Place], figure: Figure) -> None:
    place = places[name]
    knock(place)
    before = open_files()
    cases, errors, slowest = spoil_all(place, place.files(), BLOCK_BYTES)
    assert slowest < LIMIT_SECONDS
    assert open_files() == before
    figure(f"{name}: {cases} cases, {errors} errors of ours, the others announced; at most {slowest:.2f} s")


@pytest.mark.promise("T10")
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "lstm", "ngram", "mixture"])
def test_spoilt_files_of_a_model_without_a_manifest(
    name: str, places: dict[str, Place], tmp_path: Path, figure: Figure
) -> None:
    shutil.copytree(places[name].directory, tmp_path / name, ignore=shutil.ignore_patterns(MANIFEST))
    place = replace(places[name], directory=tmp_path / name, use=use_foreign_model)
    before = open_files()
    cases, errors, slowest = spoil_all(place, place.files(), BLOCK_BYTES)
    assert slowest < LIMIT_SECONDS
    assert open_files() == before
    figure(f"{name}, no manifest: {cases} cases, {errors} errors, the others harmless; at most {slowest:.2f} s")


@pytest.mark.promise("T10")
@pytest.mark.parametrize("name", ["run.toml", "status.json", "log.jsonl", "data.json"])
def test_spoilt_files_of_a_run(name: str, places: dict[str, Place], lane: Lane, figure: Figure) -> None:
    place = places["run"]
    path = place.directory / name
    step = max(64, path.stat().st_size // lane(ci=6, nightly=60))
    cases, errors, _ = spoil_all(place, [path], step)
    figure(f"{name}: {cases} cases, {errors} errors of ours, the others the same run or announced")


@pytest.mark.promise("T10")
def test_spoilt_files_of_the_newest_checkpoint(places: dict[str, Place], lane: Lane, figure: Figure) -> None:
    place = places["run"]
    files = place.files()
    chosen = random.Random(4).sample(files, lane(ci=3, nightly=len(files)))
    cases, errors, _ = spoil_all(place, chosen, lane(ci=1 << 16, nightly=BLOCK_BYTES))
    assert errors == 0
    figure(f"{cases} spoilt newest checkpoints: {cases} times announced, and the same run from the one before")


DOORS = [
    ("models/gpt2/model.safetensors", "score x --model models/gpt2", 2),
    ("models/ngram/tokenizer.json", "generate x --model models/ngram", 2),
    ("models/mixture/component_0/model.safetensors", "evaluate models/mixture --data store", 2),
    ("store/train.bin", "train --data store -o new", 2),
    ("store/train.index.safetensors", "evaluate models/gpt2 --data store", 2),
    ("store/MANIFEST.json", "data inspect store", 2),
    ("runs/qwen3/run.toml", "train --resume runs/qwen3", 2),
    ("runs/qwen3/log.jsonl", "train --resume runs/qwen3 --verify", 3),
    ("runs/qwen3/checkpoints/step-00000004/state.json", "train --resume runs/qwen3 --verify", 3),
]


@pytest.mark.promise("T10")
def test_the_command_line_says_it_in_one_message(places: dict[str, Place], tmp_path: Path, figure: Figure) -> None:
    world = places["store"].directory.parent
    for file, typed, code in DOORS:
        path = world / file
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        words = [
            str(tmp_path / word) if word == "new" else str(world / word) if "/" in word else word
            for word in typed.split()
        ]
        words = [str(world / word) if word == "store" else word for word in words]
        found = CliRunner().invoke(main, words, prog_name="wenlu")
        path.write_bytes(whole)
        assert found.exit_code == code, f"{file}: {found.output}"
        assert found.stderr.count("error: ") == 1 and "Traceback" not in found.output
        assert not (tmp_path / "new").exists()
    figure(f"{len(DOORS)} commands on half a file: {len(DOORS)} one-message errors with their exit codes")
