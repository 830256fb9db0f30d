"""Text from standard input, for verbs whose argument may be ``-``."""

from __future__ import annotations

import sys

from wenlu.core.errors import RequestError


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
        raise RequestError(
            "generation.input_not_utf8", position=error.start, found=f"0x{raw[error.start]:02X}"
        ) from error
    return read.removesuffix("\n").removesuffix("\r")
