"""A run directory: settings, status, log, checkpoints, and the lock that lets one process write.

    runs/<name>/
      run.toml            the resolved settings          status.json   running | finished | failed | stopped
      log.jsonl           a line a step or evaluation    data.json     what the data was
      checkpoints/step-00002000/    published directories, see ``publication``
      best.json           a hint: which checkpoint scored best
      final/  reports/    lock

There is no file that says which checkpoint is the last: it is the newest whose manifest verifies.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from wenlu.core import publication
from wenlu.core.errors import CheckpointError, RunError
from wenlu.core.gguf import SUFFIX as GGUF_SUFFIX
from wenlu.core.locking import hold
from wenlu.core.log import notice, warn
from wenlu.core.plugins import closest
from wenlu.core.publication import storage_errors, verify, write_file_atomically

RUNS = Path("runs")
MODELS = "models"  # below wenlu_home: the fetched ones
_CHECKPOINT = re.compile(r"^step-(\d{8,})$")
_WRITTEN = frozenset({"run.toml", "status.json", "data.json", "best.json", "log.jsonl", "final"})


class Run:
    """One run directory. Reading needs no lock; whoever writes holds ``lock()``."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.settings_path = self.path / "run.toml"
        self._log: TextIO | None = None

    @classmethod
    def create(cls, path: Path) -> Run:
        """Make the directory of a new run.

        Raises:
            RunError: ``core.run_exists`` when a run is there already, or the disk refuses.
        """
        path = Path(path)
        if is_run(path):
            raise RunError("core.run_exists", path=path)
        with storage_errors(path):
            publication.make_directory(path / "checkpoints")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Run:
        """The run in this directory.

        Raises:
            CheckpointError: ``core.not_a_run``.
        """
        if not is_run(Path(path)):
            raise CheckpointError("core.not_a_run", path=path)
        return cls(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; what a killed writer left is taken over and its temporary files are removed.

        Raises:
            RunError: ``core.run_locked`` at once, when another process writes.
        """
        with hold(self.path / "lock", self.path):
            publication.sweep(self.path, _WRITTEN.__contains__, all_processes=True)
            publication.sweep(self.path / "checkpoints", _CHECKPOINT.match, all_processes=True)
            try:
                yield
            finally:
                self.close()

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Within its lock: a run that ends before its settings were written was none, and does not block its name."""
        try:
            yield
        finally:
            if not self.has_settings():
                with suppress(OSError):
                    for name in ("status.json", "lock"):
                        (self.path / name).unlink(missing_ok=True)
                    (self.path / "checkpoints").rmdir()
                    self.path.rmdir()

    def write_settings(self, toml: str) -> None:
        """Save the resolved settings, ``run.toml``."""
        write_file_atomically(self.settings_path, toml)

    def has_settings(self) -> bool:
        """Whether the resolved settings are there; an empty file is none, for it would mean the defaults."""
        return self.settings_path.is_file() and self.settings_path.stat().st_size > 0

    def write_status(self, **fields: object) -> None:
        """Change some fields of ``status.json``."""
        self._write_json("status.json", {**self.status(), **fields})

    def status(self) -> dict[str, object]:
        """``status.json``; empty before the first ``write_status``, and, with a warning, when it is damaged."""
        return self._read_json("status.json")

    def write_data(self, record: Mapping[str, object]) -> None:
        """Save what the data was: fingerprints, counts, what was left out and why."""
        self._write_json("data.json", record)

    def data(self) -> dict[str, object]:
        """``data.json``; empty before it was written."""
        return self._read_json("data.json")

    def write_best(self, checkpoint: Path, **fields: object) -> None:
        """Note which checkpoint scored best so far."""
        self._write_json("best.json", {"checkpoint": checkpoint.name, **fields})

    def best(self) -> dict[str, object]:
        """``best.json``; empty when nothing was scored yet."""
        return self._read_json("best.json")

    def best_checkpoint(self) -> Path | None:
        """The checkpoint that ``best.json`` names, if it is still there."""
        name = self.best().get("checkpoint")
        path = self.path / "checkpoints" / str(name)
        return path if name and path.is_dir() else None

    def append_log(self, record: Mapping[str, object]) -> None:
        """Add one line to ``log.jsonl`` and hand it to the system; floats keep every bit."""
        path = self.path / "log.jsonl"
        with storage_errors(path):
            if self._log is None:
                if path.exists():  # half a line that a kill left is removed first
                    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
                self._log = path.open("a", encoding="utf-8")
                publication.flush(self.path)
            self._log.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._log.flush()

    def sync_log(self) -> None:
        """Flush the log to the disk; done before a checkpoint is published, which must not be newer than its log."""
        if self._log is not None:
            with storage_errors(self.path / "log.jsonl"):
                os.fsync(self._log.fileno())

    def read_log(self) -> list[dict[str, Any]]:
        """All whole lines of ``log.jsonl``; a last line that a kill cut off is left out."""
        path = self.path / "log.jsonl"
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        except (ValueError, IsADirectoryError) as error:
            raise CheckpointError("core.log_damaged", path=path, detail=error) from error

    def cut_log(self, step: int) -> None:
        """Drop what a resume from a step's checkpoint will write again: later lines, and the run's final evaluation."""
        self.close()
        records = [record for record in self.read_log() if record.get("event") != "final_evaluation"]
        kept = [record for record in records if record.get("step", 0) <= step]
        last = max((record.get("step", 0) for record in kept), default=0)
        if last < step:
            warn("core.log_short", path=self.path / "log.jsonl", last=last, step=step)
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
        write_file_atomically(self.path / "log.jsonl", text)

    def close(self) -> None:
        """Close the log; what a full disk did not take was told when it was written."""
        if self._log is not None:
            with suppress(OSError):
                self._log.close()
            self._log = None

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of a step stands, or will."""
        return self.path / "checkpoints" / f"step-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """All published checkpoints, oldest first, whole or damaged."""
        found = (self.path / "checkpoints").glob("step-*")
        return sorted((path for path in found if _CHECKPOINT.match(path.name)), key=checkpoint_step)

    def newest_checkpoint(self, *, before: int | None = None) -> Path | None:
        """The newest checkpoint (of a step before this one) whose manifest verifies; damaged ones are announced."""
        older = [path for path in self.checkpoints() if before is None or checkpoint_step(path) < before]
        for checkpoint in reversed(older):
            try:
                verify(checkpoint)
            except (CheckpointError, RunError, OSError) as error:
                warn("core.checkpoint_skipped", path=checkpoint, reason=error)
            else:
                return checkpoint
        return None

    def retain(self, keep: int, protect: Collection[Path] = ()) -> list[Path]:
        """Delete the oldest checkpoints beyond ``keep``, and return them.

        Those in ``protect``, the best one, and the newest that verifies are never deleted.
        """
        old = self.checkpoints()[: -keep or None]
        if not old:
            return []
        names = {path.name for path in (*protect, self.newest_checkpoint(), self.best_checkpoint()) if path}
        doomed = [path for path in old if path.name not in names]
        for path in doomed:
            with storage_errors(path):
                publication.remove_directory(path)
        return doomed

    def _write_json(self, name: str, record: Mapping[str, object]) -> None:
        write_file_atomically(self.path / name, json.dumps(record, ensure_ascii=False, indent=1, default=str) + "\n")

    def _read_json(self, name: str) -> dict[str, object]:
        """A file that says what the checkpoints and the log say too: a damaged one stops nobody."""
        path = self.path / name
        with storage_errors(path):
            try:
                record = json.loads(path.read_bytes())
                if isinstance(record, dict):
                    return record
                detail: object = type(record).__name__
            except FileNotFoundError:
                return {}
            except (ValueError, IsADirectoryError) as error:
                detail = error
        warn("core.json_damaged", path=path, detail=detail)
        return {}


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name."""
    match = _CHECKPOINT.match(path.name)
    if match is None:
        raise CheckpointError("core.not_a_checkpoint", path=path)
    return int(match[1])


def is_run(path: Path) -> bool:
    """Whether a directory holds a run."""
    return (path / "run.toml").is_file() or (path / "status.json").is_file()


def runs_below(root: Path) -> list[Path]:
    """The directories of the runs in a folder, if it is there."""
    return sorted(filter(is_run, root.glob("*")))


def newest_run(root: Path = RUNS) -> Path:
    """The run that finished last.

    Raises:
        CheckpointError: ``core.no_run`` when none finished.
    """
    runs = runs_below(root)
    finished = [path for path in runs if Run(path).status().get("state") == "finished"]
    if not finished:
        raise CheckpointError("core.no_run", path=root, count=len(runs))
    return max(finished, key=lambda path: (path / "status.json").stat().st_mtime_ns)


def resolve_model(where: str | Path | None, *, root: Path = RUNS) -> Path:
    """The model directory that a user means by ``DIR | RUN | NAME``; None is the newest finished run, announced.

    A name is that of a run below ``root``, or of a fetched model. Of a run: its final model, else its best checkpoint,
    else its newest whole one. A GGUF file stands for itself, and for a directory that has no other model.

    Raises:
        CheckpointError: ``core.no_run``, ``core.model_not_found``, ``core.run_has_no_model`` or ``core.not_a_model``.
    """
    if where is None:
        path = newest_run(root)
        notice("core.newest_run_taken", path=path)
    else:
        given, fetched = Path(where), wenlu_home() / MODELS
        if given.suffix == GGUF_SUFFIX and given.is_file():
            return given
        found = next(filter(Path.is_dir, (given, root / where, fetched / where)), None)
        if found is None:
            known = [path.name for path in (*runs_below(root), *sorted(fetched.glob("*")))]
            near = closest(str(where), known) or "-"
            raise CheckpointError("core.model_not_found", where=where, root=root, suggestion=near)
        path = found
    if is_run(path):
        run = Run(path)
        final = path / "final"
        model = final if final.is_dir() else run.best_checkpoint() or run.newest_checkpoint()
        if model is None:
            raise CheckpointError("core.run_has_no_model", path=path, state=run.status().get("state", "?"))
        return model
    if not (path / "config.json").is_file():
        files = list(path.glob(f"*{GGUF_SUFFIX}"))
        if len(files) != 1:
            raise CheckpointError("core.not_a_model", path=path)
        return files[0]
    return path


def wenlu_home() -> Path:
    """Where fetched texts and prepared stores are kept: ``$WENLU_HOME``, else ``~/.cache/wenlu``."""
    return Path(os.environ.get("WENLU_HOME") or "~/.cache/wenlu").expanduser()
