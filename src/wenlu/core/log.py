"""How libraries speak: records on the logger ``wenlu``, with ids and values instead of finished texts.

``notice`` says something once, ``progress`` counts long work. Who runs the program decides how they look: ``wenlu.cli``
draws a live line on a terminal, plain lines when piped, and JSON lines with ``--json``. In a Python program without a
handler only warnings appear, on standard error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LOGGER = logging.getLogger("wenlu")


@dataclass(frozen=True)
class Notice:
    """A sentence for the user: an id of the catalogue's ``[text]`` and its values; formatted when it is read."""

    id: str
    values: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        from wenlu.core.messages import text

        return text(self.id, **self.values)


@dataclass
class Progress:
    """How far a long piece of work has come; ``total`` is None when nobody knows."""

    id: str
    total: float | None
    unit: str
    values: dict[str, object] = field(default_factory=dict)
    done: float = 0
    started: float = field(default_factory=time.monotonic)
    finished: bool = False
    detail: str = ""

    def advance(self, amount: float = 1, *, detail: str = "") -> None:
        """Count ``amount`` units as done; ``detail`` is a short free text beside the bar (loss, file name)."""
        self.done += amount
        self.detail = detail or self.detail
        LOGGER.info(self)

    def __str__(self) -> str:
        from wenlu.core.messages import text

        total = "" if self.total is None else f"/{self.total:,.0f}"
        return f"{text(self.id, **self.values)}: {self.done:,.0f}{total} {self.unit} {self.detail}".rstrip()


def notice(id: str, /, **values: object) -> None:
    """Tell the user something that is not an error."""
    LOGGER.info(Notice(id, values))


def warn(id: str, /, **values: object) -> None:
    """Tell the user something that may surprise: a fallback, a cut, a guess."""
    LOGGER.warning(Notice(id, values))


@contextmanager
def progress(id: str, /, *, total: float | None = None, unit: str = "", **values: object) -> Iterator[Progress]:
    """Count a long piece of work: ``with progress("data.tokenizing", total=n, unit="docs") as bar: bar.advance()``."""
    bar = Progress(id, total, unit, values)
    try:
        yield bar
    finally:
        bar.finished = True
        LOGGER.info(bar)
