"""Looking at texts before they are packed: what is in them, and everything that would stop or surprise."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from wenlu.core.errors import DataError
from wenlu.core.messages import error_parts
from wenlu.data.deduplication import DigestSet, text_digest
from wenlu.data.documents import read_file, reading
from wenlu.data.files import find_files
from wenlu.data.report import Report, Tally
from wenlu.data.settings import DataSettings

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
_EXAMPLE_CHARACTERS = 80


@dataclass
class Inspection:
    """What was found; ``problems`` are the errors of files that could not be read to their end."""

    report: Report = field(default_factory=Report)
    languages: dict[str, Tally] = field(default_factory=dict)
    duplicates: int = 0
    length_quantiles: list[int] = field(default_factory=list)
    examples: list[tuple[str, str]] = field(default_factory=list)
    problems: list[DataError] = field(default_factory=list)

    def as_record(self) -> Mapping[str, object]:
        """The findings for ``--json``."""
        return {
            **self.report.as_record(),
            "duplicates": self.duplicates,
            "languages": {name: asdict(tally) for name, tally in sorted(self.languages.items())},
            "length_quantiles": dict(zip(map(str, QUANTILES), self.length_quantiles, strict=False)),
            "examples": [{"source": source, "text": text} for source, text in self.examples],
            "problems": [{"id": error.id, **error_parts(error.id, error.values)} for error in self.problems],
        }


def inspect_texts(settings: DataSettings, *, examples: int = 3) -> Inspection:
    """Read all files, going on with the next one after an error; in bounded memory.

    Raises:
        DataError: there is no file to read at all.
    """
    found = Inspection()
    seen = DigestSet()
    lengths = array("q")
    sources = find_files(settings.paths, found.report)
    with reading(sources) as bar:
        for source in sources:
            try:
                for document in read_file(source, settings, found.report, bar):
                    lengths.append(len(document.text))
                    found.languages.setdefault(document.language, Tally()).add(len(document.text))
                    found.duplicates += not seen.add(text_digest(document.text))
                    if len(found.examples) < examples:
                        beginning = " ".join(document.text[: 2 * _EXAMPLE_CHARACTERS].split())
                        found.examples.append((document.source, beginning[:_EXAMPLE_CHARACTERS]))
            except DataError as error:
                found.problems.append(error)
    if lengths:
        found.length_quantiles = [int(value) for value in np.quantile(np.array(lengths), QUANTILES, method="nearest")]
    return found
