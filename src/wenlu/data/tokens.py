"""Making a token store: documents are read, cleaned, de-duplicated and split, the tokenizer is trained when none is
given, and the ids are streamed to disk. The files depend on the texts and settings only: not on the order in which
paths were given, nor on the number of workers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from wenlu.core import machine, runs
from wenlu.core.errors import CheckpointError, DataError, RunError, SettingsError
from wenlu.core.locking import hold
from wenlu.core.log import Notice, notice, warn
from wenlu.core.publication import file_sha256, publish, storage_errors, sweep
from wenlu.core.settings import refuse_changed, unused_setting
from wenlu.data import splitting
from wenlu.data.deduplication import DigestSet, text_digest
from wenlu.data.documents import read_documents
from wenlu.data.encoding import write_splits
from wenlu.data.files import find_files
from wenlu.data.report import EXAMPLES_KEPT, DropReason, Report
from wenlu.data.settings import DataSettings
from wenlu.data.spool import Spool
from wenlu.data.store import FORMAT, SPLITS, Split, Store, TokenStore, token_dtype
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings

__all__ = ["SPLITS", "PackSettings", "Split", "Store", "TokenStore", "build_store", "corpus_key", "prepared_store"]

CONVERSION = 1
"""To be raised when the same files and settings give other documents or tokens than before."""

_LEAST_BYTES = 512 << 20  # enough to train a tokenizer on as much text as it reads
_HELD_OUT_NAMES = ("dev.", "valid.", "validation.", "test.", "eval.")
_RUNNING_TEXT = ("txt", "text", "md", "markdown")
_LEFTOVER = re.compile(r"\.([0-9a-f]{32})\.(?:spool\.)?(?:tmp|old)-\d+")  # of a store in the cache


@dataclass(frozen=True)
class PackSettings:
    """What ``wenlu data`` reads: the tables ``[data]`` and ``[tokenizer]``."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    data: DataSettings = field(default_factory=DataSettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)


def build_store(
    target: Path,
    settings: DataSettings,
    *,
    tokenizer: Tokenizer | None = None,
    tokenizer_settings: TokenizerSettings | None = None,
    workers: int = 1,
    replace: bool = False,
    in_cache: bool = False,
) -> Store:
    """Read ``settings.paths`` and publish a store at ``target``; without a tokenizer one is trained on the train split.

    Needs disk space for the cleaned texts beside ``target`` while it runs; they are removed at the end. A store
    ``in_cache`` that another process is making is waited for and taken.

    Raises:
        DataError: see ``read_documents``; ``data.empty_corpus``; ``core.target_exists`` unless ``replace``.
        RunError: ``core.run_locked`` at once, when another process makes the same store, not in the cache;
            ``data.memory``.
        SettingsError: a changed setting that nothing reads.
    """
    _check_settings(settings, tokenizer, tokenizer_settings)
    available = machine.memory().free
    if available is not None and available < _LEAST_BYTES:  # the tokenizers' library would end the whole process
        raise RunError("data.memory", needed=_LEAST_BYTES / 1e6, available=available / 1e6)
    report = Report()
    with _scratch(target, in_cache=in_cache) as scratch:
        if target.exists() and not replace:
            raise DataError("core.target_exists", path=target)
        if in_cache and (made_meanwhile := _cached(target)) is not None:
            return made_meanwhile
        spool = _collect(settings, report, scratch / "documents")
        report.announce()
        if not len(spool.rows()):
            dropped = sum(tally.documents for tally in report.dropped.values())
            raise DataError("data.empty_corpus", files=len(report.files), read=report.documents, dropped=dropped)
        spool, rule = splitting.complete(spool, settings, scratch / "divided")
        if not len(spool.in_split("train")):
            raise DataError("data.empty_split")
        if tokenizer is None:
            notice("data.training_tokenizer")
            tokenizer = Tokenizer.train(spool.texts("train"), tokenizer_settings or TokenizerSettings())
        write = functools.partial(_write, spool, tokenizer, settings, report, rule, workers)
        publish(target, write, replace=replace)
    return Store.open(target, verify=False)


def prepared_store(
    settings: DataSettings, *, tokenizer: Tokenizer | None = None, tokenizer_settings: TokenizerSettings | None = None
) -> Store:
    """The store for these settings: a given store directory, or one in the cache, made when it is not there yet.

    The cache's key is the contents of all files, the settings and the tokenizer. A damaged one is made anew.
    """
    found = existing_store(settings, tokenizer=tokenizer, tokenizer_settings=tokenizer_settings)
    if isinstance(found, Store):
        return found
    return build_store(
        found, settings, tokenizer=tokenizer, tokenizer_settings=tokenizer_settings, replace=True, in_cache=True
    )


def existing_store(
    settings: DataSettings, *, tokenizer: Tokenizer | None = None, tokenizer_settings: TokenizerSettings | None = None
) -> Store | Path:
    """The given or cached store for these settings, or the place in the cache where one would be made."""
    stores = [path for path in map(Path, settings.paths) if Store.is_store(path)]
    if stores and len(settings.paths) > 1:
        raise SettingsError("training.mixed_data", path=stores[0], count=len(settings.paths))
    if stores:
        return Store.open(stores[0])
    key = corpus_key(settings, tokenizer, tokenizer_settings or TokenizerSettings())
    target = runs.wenlu_home() / "stores" / key[:32]
    return _cached(target) or target


def _cached(target: Path) -> Store | None:
    """The store of the cache, if it is there and whole."""
    if not target.exists():
        return None
    try:
        store = Store.open(target)
    except (CheckpointError, DataError) as error:
        warn("data.cache_damaged", path=target, reason=error)
        return None
    notice("data.cache_used", path=target)
    return store


# ---- reading ----


def _collect(settings: DataSettings, report: Report, directory: Path) -> Spool:
    """All kept documents; given held-out files first, so that train documents equal to theirs are dropped."""
    seen, held_out = DigestSet(), DigestSet()
    exact = settings.deduplicate == "exact"
    given: dict[Split | None, tuple[str, ...]] = {"validation": settings.validation_paths, "test": settings.test_paths}
    given = {split: paths for split, paths in given.items() if paths} | {None: settings.paths}
    with Spool(directory) as spool:
        for split, paths in given.items():
            before = len(report.files)
            for document in read_documents(settings, report, paths=paths):
                digest = text_digest(document.text)
                again: DropReason | None = None
                if exact and split is None and digest in held_out:
                    again = "held_out_elsewhere"
                elif exact and not (held_out if split else seen).add(digest):
                    again = "duplicate"
                if again is not None:  # reading had counted it as kept
                    report.dropped[again].add(len(document.text))
                    report.kept.add(-len(document.text), documents=-1)
                    continue
                hash = int.from_bytes(digest[16:24], "little")  # other bits than the sets of digests keep
                spool.add(
                    document.text,
                    original_bytes=document.original_bytes,
                    hash=hash,
                    file=0 if split else len(report.files) - before,
                    language=document.language,
                    split=split or splitting.split_of(hash, settings),
                )
    return spool


# ---- writing ----


def _write(
    spool: Spool, tokenizer: Tokenizer, settings: DataSettings, report: Report, rule: str, workers: int, directory: Path
) -> None:
    tokenizer.save(directory / "tokenizer")
    dtype = token_dtype(tokenizer.vocab_size)
    notice("data.store_size", megabytes=int(spool.rows()["bytes"].sum()) * dtype.itemsize / 3e6)
    summaries = write_splits(directory, spool, tokenizer, encoder=settings.encoder, workers=workers)
    header = {
        "format": FORMAT,
        "dtype": dtype.name,
        "vocab_size": tokenizer.vocab_size,
        "end_id": tokenizer.end_id,
        "languages": spool.language_names,
        "tokenizer": tokenizer.fingerprint,
        "digests": {split: summary.pop("digest") for split, summary in summaries.items()},
    }
    record = {
        "format": FORMAT,
        "splits": summaries,
        "split_rule": rule,
        **report.as_record(),
        "settings": _deciding(settings),
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "sha256": tokenizer.fingerprint},
    }
    for name, content in (("store.json", header), ("data.json", record)):
        (directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


# ---- around it ----


def _check_settings(
    settings: DataSettings, tokenizer: Tokenizer | None, tokenizer_settings: TokenizerSettings | None
) -> None:
    """Refuse changed settings that nothing would read, and speak up where a file's name says that it is held out."""
    if tokenizer is not None and tokenizer_settings is not None:
        keys = [setting.name for setting in dataclasses.fields(tokenizer_settings)]
        refuse_changed(tokenizer_settings, "tokenizer", keys, because=Notice("data.because_tokenizer"))
    for split, paths in (("validation", settings.validation_paths), ("test", settings.test_paths)):
        if paths:
            because = Notice("data.because_paths", {"split": split})
            refuse_changed(settings, "data", [f"{split}_fraction"], because=because)
    sources = find_files(settings.paths, Report())
    held_out = [str(source) for source in sources if source.path.name.lower().startswith(_HELD_OUT_NAMES)]
    if held_out and len(held_out) < len(sources):
        warn("data.looks_held_out", count=len(held_out), examples=", ".join(held_out[:EXAMPLES_KEPT]))
    formats = {source.format for source in sources}
    if settings.document != "auto" and not formats & set(_RUNNING_TEXT):
        raise unused_setting("data.document", settings.document, because=Notice("data.because_no_running_text"))
    if formats <= set(_RUNNING_TEXT):
        refuse_changed(settings, "data", ["text_field"], because=Notice("data.because_no_rows"))


@contextmanager
def _locked(target: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a store; what killed processes left of it is removed first."""
    with hold(target.parent / f".{target.name}.lock", target, wait=wait, remove=True):
        sweep(target.parent, {target.name, f"{target.name}.spool"}.__contains__, all_processes=True)
        yield


@contextmanager
def _scratch(target: Path, *, in_cache: bool) -> Iterator[Path]:
    """A directory for temporary files beside the target, and the target's lock.

    What killed processes left of the cache's other keys is removed too, unless a lock is held: then somebody is making
    that store, perhaps on another machine.
    """
    with _locked(target, wait=in_cache):
        left = (_LEFTOVER.fullmatch(entry.name) for entry in target.parent.iterdir() if in_cache)
        for name in {match[1] for match in left if match}:
            with suppress(RunError, OSError), _locked(target.parent / name):
                pass
        path = target.parent / f".{target.name}.spool.tmp-{os.getpid()}"
        shutil.rmtree(path, ignore_errors=True)
        try:
            with storage_errors(target):
                yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def corpus_key(settings: DataSettings, tokenizer: Tokenizer | None, tokenizer_settings: TokenizerSettings) -> str:
    """A digest of what decides a store: the contents of all files, the settings, the tokenizer, and how we convert."""
    digest = hashlib.sha256(f"store {FORMAT} conversion {CONVERSION}\n".encode())
    for paths in (settings.paths, settings.validation_paths, settings.test_paths):
        for source in find_files(paths, Report()) if paths or paths is settings.paths else ():
            if not source.path.is_file():
                raise DataError("data.pipe_not_cached", path=source)
            digest.update(f"{source}\0{file_sha256(source.path)}\n".encode())
        digest.update(b"\n")
    digest.update(json.dumps(_deciding(settings), sort_keys=True).encode())
    chosen = tokenizer.fingerprint if tokenizer else json.dumps(dataclasses.asdict(tokenizer_settings), sort_keys=True)
    digest.update(chosen.encode())
    return digest.hexdigest()


def _deciding(settings: DataSettings) -> dict[str, object]:
    """The settings that decide what is in a store; the encoder does not."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if name != "encoder"}
