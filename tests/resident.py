"""Run a function of a test file in a process of its own and tell how much memory was resident there at most."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def in_fresh_process(function: Callable[..., object], *arguments: object) -> tuple[object, float]:
    """What a function at the top of a test file gives (as JSON has it), and the peak in MiB.

    The process is a new one: a forked one would begin with all that this one holds.
    """
    path = Path(sys.modules[function.__module__].__file__ or "")
    words = [sys.executable, __file__, str(path), function.__name__, json.dumps(arguments)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, encoding="utf-8")
    assert ended.returncode == 0, ended.stderr
    result, peak = json.loads(ended.stdout.splitlines()[-1])
    return result, peak


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    _, file, name, arguments = sys.argv
    sys.path.insert(0, str(Path(file).parent))
    given = json.loads(arguments)
    made = getattr(importlib.import_module(Path(file).stem), name)(*given)
    print(json.dumps([made, _peak()]))
