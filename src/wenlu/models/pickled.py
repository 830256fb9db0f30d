"""Weights that are only there as a pickle, turned into safetensors by a child process that can do little else.

``torch.load(weights_only=True)`` builds tensors and plain containers and calls nothing that the file names. Should that
ever fail, the child has no network where the system lets it give that up, memory for three times the file, a time
limit, and ends at the first connection, program, loaded library or file opened for writing.

    python -P -m wenlu.models.pickled SOURCE TARGET [SOURCE TARGET ...]
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wenlu.core.downloads import refuse_pointer
from wenlu.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "trainer_state")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_STARTUP_SECONDS, _BYTES_PER_SECOND = 60, 20_000_000
_SPARE_BYTES = 1 << 30
_STOPPED = 77
_FORBIDDEN: tuple[str, ...] = ("socket.", "subprocess.", "pickle.", "pty.", "os.system", "os.exec", "os.fork")
_FORBIDDEN += ("os.posix_spawn", "os.spawn", "ctypes.dlopen", "shutil.", "os.remove", "os.rename", "os.rmdir")
_FORBIDDEN += ("os.link", "os.symlink", "os.chmod")
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def convert(directory: Path, target: Path, *, weights: str, index: str) -> tuple[list[str], list[str]]:
    """Write the pickled weights of a directory into ``target`` as ``weights``, or as shards with an ``index``.

    Gives the names of the files that were read, and of their entries that are no tensors.

    Raises:
        CheckpointError: ``models.pickle_none``, ``models.pickle_several``, ``models.pickle_failed``.
    """
    if (directory / PICKLE_INDEX).is_file():
        try:
            shards = json.loads((directory / PICKLE_INDEX).read_text(encoding="utf-8"))["weight_map"]
            files = {str(shard): f"{Path(str(shard)).stem}.safetensors" for shard in shards.values()}
            weight_map = {str(name): files[str(shard)] for name, shard in shards.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise CheckpointError("models.weights_damaged", path=directory / PICKLE_INDEX, detail=error) from error
        (target / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1), encoding="utf-8")
    else:
        names = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLE_SUFFIXES and path.is_file())
        names = [PICKLE] if PICKLE in names else [name for name in names if not name.startswith(_NOT_WEIGHTS)]
        if len(names) != 1:
            id = "models.pickle_several" if names else "models.pickle_none"
            raise CheckpointError(id, path=directory, files=", ".join(names))
        files = {names[0]: weights}
    paths = {directory / name: target / written for name, written in files.items()}
    for path in paths:
        if path.parent != directory or not path.is_file():
            raise CheckpointError("models.weights_missing", path=path, parts="-")
        refuse_pointer(path)
    return sorted(files), _in_child(paths)


def _in_child(paths: Mapping[Path, Path]) -> list[str]:
    """Convert files in a child; gives the names of entries that are no tensors."""
    size = sum(path.stat().st_size for path in paths)
    words = [str(place.absolute()) for pair in paths.items() for place in pair]
    command = [sys.executable, "-P", "-m", "wenlu.models.pickled", *words]
    first = next(iter(paths))
    seconds = _STARTUP_SECONDS + size / _BYTES_PER_SECOND
    try:
        child = subprocess.run(command, capture_output=True, timeout=seconds, text=True, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError("models.pickle_failed", path=first, detail=f"> {seconds:.0f} s") from error
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        raise CheckpointError("models.pickle_failed", path=first, detail=lines[-1][:500])
    skipped: list[str] = json.loads(child.stdout)
    return skipped


def main(words: list[str]) -> None:
    """The child: read each SOURCE, write each TARGET, print the names of entries that are no tensors."""
    if sys.platform == "linux":  # go where there is no network; a system that does not let us is not asked twice
        ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    import torch
    from safetensors.torch import save_file

    pairs = [(Path(source), Path(target)) for source, target in zip(words[::2], words[1::2], strict=True)]
    _limit(sum(source.stat().st_size for source, _ in pairs))
    sys.addaudithook(_watch)
    skipped: list[str] = []
    for source, target in pairs:
        try:
            state = torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
            tensors, others = _tensors(state)
            save_file(tensors, target, metadata={"format": "pt"})
        except Exception as error:  # whatever a file can make torch raise
            raise SystemExit(_in_one_line(error)) from error
        skipped += others
    sys.stdout.write(json.dumps(skipped))


def _in_one_line(error: Exception) -> str:
    """What torch says is wrong, without its advice to read the file in another way."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    told = re.search(r"WeightsUnpickler error: (.*?)(?: Please | Check |$)", words)
    return told[1] if told else words


def _tensors(state: object) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a state dict, each with memory of its own, and the names of what is none."""
    from torch import Tensor

    for _ in _WRAPPERS:
        inner = [state[key] for key in _WRAPPERS if isinstance(state, dict) and isinstance(state.get(key), dict)]
        state = inner[0] if inner else state
    if not isinstance(state, dict):
        raise SystemExit(f"{type(state).__name__} is no dictionary of tensors")
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        if isinstance(value, Tensor):
            storage = value.untyped_storage().data_ptr()
            whole = value.is_contiguous() and storage not in seen
            tensors[str(name)] = value.detach() if whole else value.detach().clone().contiguous()
            seen.add(storage)
    if not tensors:
        raise SystemExit("no tensors")
    return tensors, [str(name) for name in state if str(name) not in tensors]


def _limit(size: int) -> None:
    """Bound memory and processor time from here on."""
    if sys.platform == "win32":
        return
    import resource

    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        memory = pages * resource.getpagesize() + 3 * size + _SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    seconds = int(_STARTUP_SECONDS + size / _BYTES_PER_SECOND)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    """End the process at what no reading of tensors needs; an exception could be caught."""
    flags = arguments[2] if event == "open" else 0
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event.startswith(_FORBIDDEN):
        sys.stderr.write(f"stopped at {event}\n")
        sys.stderr.flush()
        os._exit(_STOPPED)


if __name__ == "__main__":
    main(sys.argv[1:])
