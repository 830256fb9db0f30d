"""Too little memory is one message with advice, and what was saved before stays whole; loading a corpus needs none."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from forking import fork, wait
from promises import Figure, Lane
from resident import in_fresh_process
from skips import needs_posix
from small_world import STEPS, STOPPED_AT, stopped_run
from tiny_training import losses, tiny_texts
from wenlu.cli.main import main
from wenlu.core.publication import verify
from wenlu.core.runs import Run
from wenlu.data.loader import Loader
from wenlu.data.settings import DataSettings
from wenlu.data.store import DocumentIndex, Store, TokenStore
from wenlu.data.tokens import build_store
from wenlu.tokenization.tokenizer import TokenizerSettings

MIB = 1 << 20
ADVICE = r"(?s)memory.*batch_size.*accumulation.*wenlu plan"
HEAVY = ("train.batch_size=18", "train.sequence_length=512", "train.attention=eager")  # 38 MB for one layer's scores
LIGHT = ("train.batch_size=2",)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A packed corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("\n".join(tiny_texts(200)), encoding="utf-8")
    settings = DataSettings(paths=(str(folder / "text.txt"),), document="line", validation_fraction=0.2)
    return build_store(folder / "store", settings, tokenizer_settings=TokenizerSettings(kind="characters"))


def with_memory(mib: int, words: Sequence[object], folder: Path) -> tuple[int, str]:
    """Run a command in a child that may take so many MiB more than it has; its exit code and all that it said."""

    def child() -> int:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        limit = pages * resource.getpagesize() + mib * MIB
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        found = CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (folder / "said").write_text(f"{found.output}\n{found.exc_info}", encoding="utf-8")
        return found.exit_code

    code = wait(fork(child))
    return code, (folder / "said").read_text(encoding="utf-8") if (folder / "said").exists() else "nothing"


@pytest.mark.promise("T12")
def test_training_that_does_not_fit(store: Store, tmp_path: Path, figure: Figure) -> None:
    needs_posix()
    run = tmp_path / "run"
    stopped_run(run, store, "qwen3", "model.hidden_size=16", *HEAVY)
    for mib in (40, 100):
        code, said = with_memory(mib, ["train", "--resume", run], tmp_path)
        assert code == 1, said
        assert re.search(ADVICE, said) and "Traceback" not in said, said
        assert Run(run).status()["state"] == "failed"
        verify(run / "checkpoints" / f"step-{STOPPED_AT:08d}")
    code, said = with_memory(4000, ["train", "--resume", run], tmp_path)
    assert code == 0, said
    assert len(losses(run)) == STEPS
    figure("40 and 100 MiB more than the process has: 2 errors with advice, code 1; with 4,000 the run goes on")


@pytest.mark.promise("T12")
def test_packing_that_does_not_fit(tmp_path: Path, figure: Figure) -> None:
    needs_posix()
    text = tmp_path / "text.txt"
    text.write_text(("the quick brown fox 你好世界 " * 100 + "\n") * 200, encoding="utf-8")
    words = ["data", "pack", text, "--kind", "bpe", "--vocab-size", 300, "-o", tmp_path / "store", "--document", "line"]
    words += ["--set", "data.deduplicate=none"]
    few = (1, 8, 64, 256, 500)
    for mib in few:
        code, said = with_memory(mib, words, tmp_path)
        assert code == 1, f"{mib} MiB: {code} {said}"
        assert re.search(r"(?s)memory.*wenlu doctor", said) and "Traceback" not in said, said
        assert not (tmp_path / "store").exists()
    code, said = with_memory(700, words, tmp_path)
    assert code == 0, said
    figure(f"packing with {few} MiB: {len(few)} errors with advice, code 1, nothing left; with 700 it is packed")


@pytest.mark.promise("T12")
def test_an_accelerator_without_memory(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    for path in (run, whole):
        stopped_run(path, store, "qwen3", "model.hidden_size=16", *LIGHT)
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB\nIf reserved but"

    def no_memory(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError(said)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", no_memory)
        found = CliRunner().invoke(main, ["train", "--resume", str(run)], prog_name="wenlu")
    assert found.exit_code == 1
    assert re.search(ADVICE, found.stderr) and "Tried to allocate 2.00 GiB" in found.stderr
    assert "Traceback" not in found.stderr and "If reserved" not in found.stderr
    verify(run / "checkpoints" / f"step-{STOPPED_AT:08d}")
    for path in (run, whole):
        assert CliRunner().invoke(main, ["train", "--resume", str(path)], prog_name="wenlu").exit_code == 0
    assert losses(run) == losses(whole)
    figure("CUDA out of memory, simulated: advice, code 1, and the run that goes on is the unbroken one to the bit")


def read_corpus(megabytes: int) -> list[float]:
    """Read every batch of a corpus with as many MB of tokens: (tokens read, growth of the resident memory in MiB)."""
    document, vocab_size = 8000, 50_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.bin"
        with path.open("wb") as file:
            file.truncate(megabytes * 1_000_000)  # holes: nothing is written to the disk
        tokens = np.memmap(path, dtype="<u2", mode="r")
        count = len(tokens) // document
        index = DocumentIndex(
            bounds=np.arange(count + 1, dtype=np.int64) * document,
            original_bytes=np.full(count, 3 * document, dtype=np.int64),
            characters=np.full(count, 3 * document, dtype=np.int64),
            languages=np.zeros(count, dtype=np.uint16),
            lossless=np.ones(count, dtype=np.bool_),
        )
        store = TokenStore(tokens, index, end_id=0, vocab_size=vocab_size, path=path)
        before, most, read, number = resident_mib(), 0.0, 0, 0
        loader = Loader(store, sequence_length=4096, batch_size=16, seed=1)
        while loader.epochs_at(number) < 1:
            read += loader.batch(number)["labels"].numel()
            most = max(most, resident_mib() - before)
            number += 1
        return [read, most]


def resident_mib() -> float:
    """What this process holds in memory now."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096 / MIB


@pytest.mark.promise("T12")
def test_reading_a_corpus_takes_no_memory(lane: Lane, figure: Figure) -> None:
    needs_posix()
    megabytes = lane(ci=256, nightly=1000)
    (read, growth), _ = in_fresh_process(read_corpus, megabytes)  # type: ignore[misc]
    assert read >= megabytes * 1_000_000 // 2
    assert growth <= 50
    figure(f"{megabytes} MB of tokens read: resident memory grows by {growth:.0f} MiB")
