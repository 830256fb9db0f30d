"""Text from standard input and from files, for verbs whose argument may be ``-``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wenlu.core.errors import RequestError, SettingsError


def text_argument(given: str) -> str:
    """The argument itself, or for ``-`` everything on standard input but the last line end, read as UTF-8.

    Raises:
        RequestError: ``generation.input_not_utf8``.
    """
    if given != "-":
        return given
    raw = sys.stdin.buffer.read()
    try:
        read = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"0x{raw[error.start]:02X}"
        raise RequestError("generation.input_not_utf8", position=error.start, found=found) from error
    return read.removesuffix("\n").removesuffix("\r")


def text_arguments(given: Sequence[str], file: str | None, **reading: str | None) -> list[str]:
    """The arguments; or for a single ``-`` the lines of standard input, or those of a file, empty ones too.

    ``reading`` says how a file is read (see ``data.rows``).

    Raises:
        RequestError: ``generation.no_texts``, ``generation.texts_twice``; ``generation.input_not_utf8``.
        SettingsError: ``generation.no_file`` for a way of reading without a file.
        DataError: the file cannot be read.
    """
    if given and file is not None:
        raise RequestError("generation.texts_twice", file=file)
    chosen = {name: value for name, value in reading.items() if value is not None}
    texts = list(given)
    if file is not None:
        from wenlu.data.rows import read_rows

        texts = list(read_rows(file, **chosen))
    elif chosen:
        raise SettingsError("generation.no_file", names=", ".join(f"--{name.replace('_', '-')}" for name in chosen))
    elif texts == ["-"]:
        read = text_argument("-")
        texts = [line.removesuffix("\r") for line in read.split("\n")] if read else []
    if not texts:
        raise RequestError("generation.no_texts")
    return texts
