"""The token store: the same bytes however it is made, and no damage that stays unseen."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from forking import fork, wait
from promises import Figure, Lane
from skips import needs_posix
from wenlu.core.errors import CheckpointError, DataError, RunError, SettingsError
from wenlu.core.locking import hold
from wenlu.data.store import SPLITS
from wenlu.data.tokens import DataSettings, Store, build_store, prepared_store
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings

SMALL = TokenizerSettings(vocab_size=300)
POEMS = ["床前明月光，疑是地上霜。", "白日依山尽，黄河入海流。", "a fox <|endoftext|> <unk> and a dog 👩‍👩‍👧", "x"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for file in range(3):
        rows = [{"text": f"{file} {row}: {POEMS[row % 4]} \r\n{'又' * row}"} for row in range(40)]
        rows.append({"text": "the same in every file"})
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{file}.jsonl").write_text(content, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    settings = DataSettings(paths=(str(corpus),), validation_fraction=0.1, test_fraction=0.1)
    return build_store(tmp_path_factory.mktemp("stores") / "store", settings, tokenizer_settings=SMALL)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_everything_is_there(store: Store) -> None:
    texts = []
    for split in SPLITS:
        tokens = store.split(split)
        assert tokens.num_documents > 0
        for number in range(tokens.num_documents):
            ids = tokens.document(number)
            assert ids[-1] == tokens.end_id and (ids[:-1] != tokens.end_id).all()
            text = store.tokenizer.decode(ids[:-1].tolist())
            assert tokens.characters[number] == len(text)
            assert tokens.original_bytes[number] >= len(text.encode())
            assert tokens.language(number) in ("zh", "en", "mixed", "other")
            texts.append(text)
        assert tokens.lossless.all() and tokens.tokens.dtype == np.uint16
        assert tokens.num_tokens == len(tokens.tokens)
    expected = {f"{f} {row}: {POEMS[row % 4]}\n{'又' * row}".rstrip() for f in range(3) for row in range(40)}
    assert set(texts) == {*expected, "the same in every file"} and len(texts) == 121


def test_the_record_accounts_for_everything(store: Store) -> None:
    record = json.loads((store.path / "data.json").read_text(encoding="utf-8"))
    assert record["read"]["documents"] == 123
    assert record["dropped"] == {"duplicate": {"documents": 2, "characters": 44}}
    assert record["kept"]["documents"] == 121 == sum(split["documents"] for split in record["splits"].values())
    assert record["changed"]["line_ends"]["documents"] == 120
    assert record["split_rule"] == "hash"
    assert [Path(file["path"]).name for file in record["files"]] == ["0.jsonl", "1.jsonl", "2.jsonl"]
    characters = sum(int(store.split(split).characters.sum()) for split in SPLITS)
    assert record["kept"]["characters"] == characters


def test_files_do_not_depend_on_order_or_workers(corpus: Path, store: Store, tmp_path: Path) -> None:
    for number, workers in enumerate((1, 2, 3)):
        paths = [str(path) for path in corpus.iterdir()]
        random.Random(number).shuffle(paths)
        settings = DataSettings(paths=tuple(paths), validation_fraction=0.1, test_fraction=0.1)
        again = build_store(tmp_path / str(number), settings, tokenizer_settings=SMALL, workers=workers)
        ours, theirs = files_of(store.path), files_of(again.path)
        for name in ("data.json", "MANIFEST.json"):  # they name the paths that were given
            del ours[name], theirs[name]
        assert ours == theirs
        assert again.fingerprint == store.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]  # no temporary files are left


def test_read_equals_the_map(store: Store) -> None:
    tokens = store.train
    assert tokens.read(3, 50).tolist() == tokens.tokens[3:50].tolist()
    assert tokens.read(5, 5).tolist() == []


@pytest.mark.promise("T9")
def test_every_flipped_bit_is_found(store: Store, tmp_path: Path, lane: Lane, figure: Figure) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    draw = random.Random(1)
    names = [name for name, content in files_of(store.path).items() if content]
    flips = lane(ci=120, nightly=600)
    for trial in range(flips):
        name = names[trial % len(names)]
        path = tmp_path / "store" / name
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises((CheckpointError, DataError)) as caught:
            Store.open(tmp_path / "store")
        assert name in str(caught.value) or name == "MANIFEST.json"
        path.write_bytes(whole)
    Store.open(tmp_path / "store")
    figure(f"{flips} flips in the {len(names)} files of a store: {flips} refused")


@pytest.mark.promise("T10")
@pytest.mark.parametrize("name", ["train.bin", "train.index.safetensors", "store.json", "data.json"])
def test_truncated_and_missing_files(store: Store, tmp_path: Path, name: str, figure: Figure) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    path = tmp_path / "store" / name
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-1], whole + b"\0"):
        path.write_bytes(content)
        for verify in (True, False):
            if not verify and len(content) > len(whole) // 2:
                continue  # only the digest can tell
            with pytest.raises((CheckpointError, DataError)):
                Store.open(tmp_path / "store", verify=verify)
    path.unlink()
    with pytest.raises((CheckpointError, DataError)):
        Store.open(tmp_path / "store")
    figure(f"{name}: cut (also where digests are not compared), lengthened or missing: refused")


def test_a_newer_format_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    header = json.loads((tmp_path / "store/store.json").read_text(encoding="utf-8"))
    (tmp_path / "store/store.json").write_text(json.dumps(header | {"format": 99}), encoding="utf-8")
    with pytest.raises(DataError, match="format 99; this version reads 1"):
        Store.open(tmp_path / "store", verify=False)
    with pytest.raises(DataError, match="not a token store"):
        Store.open(tmp_path)


def test_given_held_out_files_are_kept_out_of_training(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("one\ntwo\nthree\nfour\n", encoding="utf-8")
    (tmp_path / "dev.txt").write_text("two\ntwo\nfive\n", encoding="utf-8")
    settings = DataSettings(
        paths=(str(tmp_path / "train.txt"),), validation_paths=(str(tmp_path / "dev.txt"),), document="line"
    )
    store = build_store(tmp_path / "store", settings, tokenizer_settings=SMALL)

    def texts(split: str) -> list[str]:
        tokens = store.train if split == "train" else store.validation
        return [store.tokenizer.decode(tokens.document(n)[:-1].tolist()) for n in range(tokens.num_documents)]

    assert texts("train") == ["one", "three", "four"] and texts("validation") == ["two", "five"]
    assert store.record["dropped"] == {
        "duplicate": {"documents": 1, "characters": 3},
        "held_out_elsewhere": {"documents": 1, "characters": 3},
    }
    assert store.record["split_rule"] == "given"


def test_text_that_does_not_round_trip_is_marked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"lower case {n}" for n in range(40)), encoding="utf-8")
    (tmp_path / "b.txt").write_text("UPPER CASE", encoding="utf-8")
    settings = DataSettings(paths=(str(tmp_path),), document="line", validation_fraction=0.0)
    lowering = TokenizerSettings(vocab_size=300, lowercase=True)
    store = build_store(tmp_path / "store", settings, tokenizer_settings=lowering)
    assert store.train.lossless.tolist() == [True] * 40 + [False]
    assert store.validation.num_documents == 0 and store.record["split_rule"] == "nothing"


def test_large_vocabularies_take_four_bytes() -> None:
    from wenlu.data.store import token_dtype

    assert token_dtype(65536) == np.uint16 and token_dtype(65537) == np.uint32


def test_an_empty_corpus_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"(?s)no document is left.*1 files, 1 documents read, 1 dropped"):
        build_store(tmp_path / "out" / "store", DataSettings(paths=(str(tmp_path / "a.txt"),)))
    assert list((tmp_path / "out").iterdir()) == []


def _dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return int(process.stdout)


def test_what_a_killed_process_left_is_removed(corpus: Path, tmp_path: Path) -> None:
    for kind in ("spool.tmp", "tmp"):
        (tmp_path / f".store.{kind}-{_dead()}").mkdir()
        (tmp_path / f".store.{kind}-{os.getppid()}").mkdir()  # the number lives here, but it was another machine's
    build_store(tmp_path / "store", DataSettings(paths=(str(corpus / "0.jsonl"),)), tokenizer_settings=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_what_was_left_of_another_key_goes_when_nobody_holds_its_lock(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of processes say nothing: another machine, or another container, has its own."""
    needs_posix()
    monkeypatch.setenv("WENLU_HOME", str(tmp_path))
    stores, made = tmp_path / "stores", "a" * 32
    being_made = [stores / f".{made}.{kind}-{_dead()}" for kind in ("tmp", "spool.tmp")]
    given_up = [stores / f".{'b' * 32}.{kind}-{os.getppid()}" for kind in ("tmp", "spool.tmp")]
    spared = stores / ".notes.tmp-1"
    for folder in (*being_made, *given_up, spared):
        folder.mkdir(parents=True)
    with hold(stores / f".{made}.lock", stores / made):
        prepared_store(DataSettings(paths=(str(corpus / "0.jsonl"),)), tokenizer_settings=SMALL)
        assert all(folder.exists() for folder in being_made)
        assert not any(folder.exists() for folder in given_up)
    prepared_store(DataSettings(paths=(str(corpus / "1.jsonl"),)), tokenizer_settings=SMALL)
    assert [path for path in stores.iterdir() if path.name.startswith(".")] == [spared]


def test_a_store_that_a_killed_replacement_moved_aside_is_there_again(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / f".store.old-{os.getppid()}" / "mine").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        build_store(tmp_path / "store", DataSettings(paths=(str(corpus),)), tokenizer_settings=SMALL)
    assert caught.value.id == "core.target_exists"
    assert [path.name for path in tmp_path.rglob("*")] == ["store", "mine"]


def test_an_existing_store_is_not_overwritten(store: Store) -> None:
    before = files_of(store.path)
    with pytest.raises(DataError) as caught:
        build_store(store.path, DataSettings(paths=("x",)))
    assert caught.value.id in ("core.target_exists", "data.missing_file")
    assert files_of(store.path) == before


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"text_field": "body"}, "data.text_field"),
        ({"validation_paths": ("a.txt",), "validation_fraction": 0.2}, "data.validation_fraction"),
    ],
)
def test_settings_that_nothing_reads_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("text", encoding="utf-8")
    made = DataSettings(paths=("a.txt",), **settings)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=key):
        build_store(tmp_path / "store", made, tokenizer_settings=SMALL)


def test_document_mode_without_running_text_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"data\.document"):
        build_store(tmp_path / "store", DataSettings(paths=(str(corpus),), document="line"))


def test_the_cache_is_used_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENLU_HOME", str(tmp_path / "home"))
    source = tmp_path / "a.txt"
    source.write_text("\n".join(f"line {n}" for n in range(100)), encoding="utf-8")
    settings = DataSettings(paths=(str(source),), document="line")
    first = prepared_store(settings, tokenizer_settings=SMALL)
    stamp = (first.path / "MANIFEST.json").stat().st_mtime_ns
    again = prepared_store(settings, tokenizer_settings=SMALL)
    assert again.path == first.path and (again.path / "MANIFEST.json").stat().st_mtime_ns == stamp
    assert prepared_store(DataSettings(paths=(str(first.path),))).fingerprint == first.fingerprint
    (first.path / "train.bin").write_bytes(b"")
    assert prepared_store(settings, tokenizer_settings=SMALL).fingerprint == first.fingerprint  # made anew
    source.write_text(source.read_text(encoding="utf-8") + "\nmore", encoding="utf-8")
    assert prepared_store(settings, tokenizer_settings=SMALL).path != first.path
    tokenizer = Tokenizer.load(first.path / "tokenizer")
    assert prepared_store(settings, tokenizer=tokenizer).path != first.path


def test_a_disk_that_takes_no_more_tokens_is_named_with_its_reason(tmp_path: Path) -> None:
    needs_posix()
    (tmp_path / "long.txt").write_text("a fox and a dog " * 20_000, encoding="utf-8")
    tokenizer = Tokenizer.train(["a fox and a dog"], TokenizerSettings(kind="characters", vocab_size=50))
    settings = DataSettings(paths=(str(tmp_path / "long.txt"),), validation_fraction=0.0)

    def fill() -> int:
        import resource

        resource.setrlimit(
            resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY)
        )  # bytes: the text fits, its ids not
        try:
            build_store(tmp_path / "store", settings, tokenizer=tokenizer)
        except RunError as error:
            return 42 if "too large" in str(error) else 1
        return 2

    assert wait(fork(fill)) == 42
    assert not (tmp_path / "store").exists()
