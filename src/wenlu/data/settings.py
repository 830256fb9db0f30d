"""The ``[data]`` table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from wenlu.core.errors import SettingsError
from wenlu.core.settings import refuse_outside

EncoderName = Literal["auto", "reference", "fast"]


@dataclass(frozen=True)
class DataSettings:
    """Which files are read, what a document is, what is cleaned, dropped and held out.

    ``paths`` are files, folders, wildcards, or one packed store. ``document`` says how txt and md files are divided:
    ``auto`` is ``file``. Rows of jsonl, csv, tsv and parquet files are documents; their text is in ``text_field``.
    Documents longer than ``maximum_characters`` are cut into parts at line ends. ``encoding`` is that of files
    without a byte order mark; ``bad_bytes = "replace"`` puts U+FFFD for each byte that does not fit.
    ``cleaning = "standard"`` makes line ends LF, removes control characters, white space at line ends and blank lines
    around a document; ``unicode = "nfc"`` composes characters as well. Held-out documents are chosen by the hash of
    their text, unless ``validation_paths`` (``test_paths``) give them. ``encoder`` never changes a store, only the time
    that it takes: see ``wenlu.tokenization.fast``.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    paths: tuple[str, ...] = ()
    document: Literal["auto", "file", "blank_line", "line"] = "auto"
    text_field: str = "text"
    encoding: str = "utf-8"
    bad_bytes: Literal["refuse", "replace"] = "refuse"
    cleaning: Literal["standard", "none"] = "standard"
    unicode: Literal["none", "nfc"] = "none"
    minimum_characters: int = 1
    maximum_characters: int = 1_000_000
    deduplicate: Literal["exact", "none"] = "exact"
    validation_fraction: float = 0.05
    validation_paths: tuple[str, ...] = ()
    test_fraction: float = 0.0
    test_paths: tuple[str, ...] = ()
    encoder: EncoderName = "auto"

    def __post_init__(self) -> None:
        bounds = {
            "0 <= x < 1": ("validation_fraction", "test_fraction"),
            ">= 1": ("minimum_characters",),
            f">= {max(100, self.minimum_characters)}": ("maximum_characters",),
        }
        refuse_outside("data.range", "data", self, bounds)
        if "" in (*self.paths, *self.validation_paths, *self.test_paths):  # a shell's unset variable
            raise SettingsError("data.no_paths")
        if (both := self.validation_fraction + self.test_fraction) >= 1:
            setting = "data.validation_fraction + data.test_fraction"
            raise SettingsError("data.range", setting=setting, value=both, bounds="< 1")
        try:
            "".encode(self.encoding)
        except LookupError as error:
            raise SettingsError("data.unknown_encoding", value=self.encoding) from error
