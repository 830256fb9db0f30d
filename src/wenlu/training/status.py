"""Who trains on what: versions, the commit, the machine, and the corpus, as a run's files tell of them."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

from wenlu.core.errors import CheckpointError, DataError
from wenlu.core.version import __version__
from wenlu.data.store import Store, TokenStore
from wenlu.models.device import describe_device, pick_device
from wenlu.tasks._base import CorpusObjective, Objective
from wenlu.training.precision import environment
from wenlu.training.settings import RunSettings


def describe_process(settings: RunSettings) -> dict[str, object]:
    """Versions, commit, seed, device, process and time, for ``status.json``."""
    name = settings.train.device
    device = pick_device("cpu" if name == "auto" else name)  # auto is left open where a model is counted, not trained
    return {
        "versions": {"wenlu": __version__, "python": platform.python_version(), **environment(device)},
        "commit": commit(),
        "seed": settings.train.seed,
        "device": f"{describe_device(device)}, {settings.train.threads} threads, {settings.train.precision}",
        "pid": os.getpid(),
        "started": time.time(),
        **dict.fromkeys(("ended", "signal", "error")),
    }


def commit() -> str | None:
    """The commit of Wenlu's own source when it runs from a repository, else None."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    try:
        command = ["git", "--no-optional-locks", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def describe_data(store: Store) -> dict[str, object]:
    """``data.json``: how the corpus was made, and the fingerprints and sizes of its splits."""
    splits = {
        name: {"fingerprint": split.fingerprint, "documents": split.num_documents, "tokens": split.num_tokens}
        for name, split in (("train", store.train), ("validation", store.validation), ("test", store.test))
    }
    return {"store": os.fspath(store.path), "fingerprint": store.fingerprint, "splits": splits, "made": store.record}


def describe_corpus(train: TokenStore, task: Objective) -> str:
    """``data`` of ``state.json``: the fingerprint, and what documents are read after where that is not the end token.

    Objectives that make rows of their own put their own marks around them.
    """
    if isinstance(task, CorpusObjective) or train.context_id == train.end_id:
        return train.fingerprint
    return f"{train.fingerprint} after {train.context_id}"


def refuse_other_corpus(then: str, train: TokenStore, task: Objective, *, path: Path) -> None:
    """Refuse to go on with another corpus than ``then``, of the checkpoint ``path``, or in another way with the same.

    Raises:
        DataError: ``training.data_changed``.
        CheckpointError: ``training.start_token`` when an earlier Wenlu read its documents after the end token.
    """
    now = describe_corpus(train, task)
    if then == train.fingerprint != now:
        raise CheckpointError("training.start_token", path=path, then=train.end_id, now=train.context_id)
    if then != now:
        raise DataError("training.data_changed", then=then, now=now)
