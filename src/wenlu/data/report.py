"""The account of a corpus: everything read, dropped, cut or changed, and why; for ``data.json`` and the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal

from wenlu.core.log import Notice, notice, warn

DropReason = Literal["empty", "null", "too_short", "duplicate", "held_out_elsewhere"]
ChangeReason = Literal["line_ends", "control_characters", "white_space", "nfc", "bad_bytes", "surrogates"]
SkipReason = Literal["unknown_format", "about_the_corpus", "given_twice"]
EXAMPLES_KEPT = 5


@dataclass
class Tally:
    """How many documents something happened to, and how many characters it took away or changed in them."""

    documents: int = 0
    characters: int = 0

    def add(self, characters: int, *, documents: int = 1) -> None:
        self.documents += documents
        self.characters += characters


@dataclass
class FileAccount:
    """One file that was read."""

    path: str
    bytes: int
    sha256: str
    encoding: str = ""
    documents: int = 0


@dataclass
class SkipAccount:
    """Files of a folder that were not read, for one reason."""

    files: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Counts of one pass over a corpus."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    kept: Tally = field(default_factory=Tally)
    dropped: defaultdict[DropReason, Tally] = field(default_factory=lambda: defaultdict(Tally))  # left out
    changed: defaultdict[ChangeReason, Tally] = field(default_factory=lambda: defaultdict(Tally))
    suspicious: defaultdict[Literal["misread"], Tally] = field(default_factory=lambda: defaultdict(Tally))  # but kept
    cut_documents: int = 0
    cut_parts: int = 0
    files: list[FileAccount] = field(default_factory=list)
    skipped: dict[SkipReason, SkipAccount] = field(default_factory=dict)
    replaced_bytes: int = 0  # by the reader, since the last document
    place: Callable[[], int] = int  # how many bytes of the file that is being read were taken from the disk

    def settle_replaced(self) -> None:
        """Count the bytes that the reader replaced since the last document."""
        if self.replaced_bytes:
            self.changed["bad_bytes"].add(self.replaced_bytes)
        self.replaced_bytes = 0

    def skip(self, reason: SkipReason, path: str) -> None:
        """Count a file that is not read."""
        account = self.skipped.setdefault(reason, SkipAccount())
        account.files += 1
        if len(account.examples) < EXAMPLES_KEPT:
            account.examples.append(path)

    def happened(self) -> dict[str, list[tuple[str, Tally]]]:
        """What was dropped, what was changed, and what looks suspicious, each by its reason."""
        return {what: sorted(getattr(self, what).items()) for what in ("dropped", "changed", "suspicious")}

    def as_record(self) -> dict[str, object]:
        """The account as ``data.json`` holds it."""
        return {
            "read": {"documents": self.documents, "characters": self.characters, "bytes": self.bytes},
            "kept": asdict(self.kept),
            **{what: {reason: asdict(tally) for reason, tally in tallies} for what, tallies in self.happened().items()},
            "cut": {"too_long": {"documents": self.cut_documents, "parts": self.cut_parts}},
            "skipped_files": {reason: asdict(account) for reason, account in sorted(self.skipped.items())},
            "files": [asdict(account) for account in self.files],
        }

    def announce(self) -> None:
        """Say on the terminal what was not taken as it was."""
        for reason, account in sorted(self.skipped.items()):
            examples = ", ".join(account.examples)
            notice("data.skipped_files", count=account.files, reason=_said(reason), examples=examples)
        for why, tally in sorted(self.dropped.items()):
            notice("data.dropped", count=tally.documents, characters=tally.characters, reason=_said(why))
        for what, tally in sorted(self.changed.items()):
            notice("data.changed", count=tally.documents, characters=tally.characters, reason=_said(what))
        for doubt, tally in sorted(self.suspicious.items()):
            warn("data.suspicious", count=tally.documents, characters=tally.characters, reason=_said(doubt))
        if self.cut_documents:
            notice("data.cut", count=self.cut_documents, parts=self.cut_parts)


def _said(reason: str) -> Notice:
    """A reason in the reader's language."""
    return Notice(f"data.reason_{reason}")
