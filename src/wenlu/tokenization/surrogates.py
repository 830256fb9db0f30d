"""Half characters: a lone surrogate is no character, has no UTF-8 form, and is refused with its place."""

from __future__ import annotations

from wenlu.core.errors import TokenizerError


def utf8_bytes(text: str, *, where: str, start: int = 0) -> bytes:
    """The UTF-8 form of a text; ``start`` is where it begins in the text that ``where`` names.

    Raises TokenizerError ``surrogate``, with the position in characters and the code point.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            "tokenization.surrogate", where=where, position=start + error.start, found=f"U+{ord(text[error.start]):04X}"
        ) from None
