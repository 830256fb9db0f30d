"""Long measurements in cells: a finished cell is kept in bench-results/, and a second call continues after it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from wenlu.core.machine import allowed_cores, processor

RESULTS = Path("bench-results")

Row = Mapping[str, object]


class Cells:
    """The finished cells of one measurement, ``bench-results/<name>.jsonl``, a JSON object a line.

    A cell is found again by its key, which must say everything that decides it. Lines of another machine or another
    PyTorch do not count.
    """

    def __init__(self, name: str) -> None:
        self.path = RESULTS / f"{name}.jsonl"
        self._machine = {"processor": processor()[0], "cores": allowed_cores(), "torch": torch.__version__}
        self._done: dict[str, dict[str, object]] = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                if record["machine"] == self._machine:
                    self._done[self._name(record["key"])] = record["result"]

    def cell(self, key: Row, measure: Callable[[], Row]) -> dict[str, object]:
        """The result of this cell: from the file, or measured now and appended."""
        name = self._name(key)
        if name not in self._done:
            started = time.perf_counter()
            result = dict(measure())
            record = {"key": dict(key), "result": result, "machine": self._machine, "at": time.strftime("%F %T")}
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._done[name] = result
            print(f"  measured in {time.perf_counter() - started:.0f} s: {name}", flush=True)
        return self._done[name]

    @staticmethod
    def _name(key: Row) -> str:
        return json.dumps(key, sort_keys=True, ensure_ascii=False)
