"""A text in which somebody marks what is hidden: by ``[MASK]``, or by the tokenizer's own mask."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wenlu.core.errors import TokenizerError
from wenlu.tokenization.kinds import MASK_TOKEN
from wenlu.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class MaskedText:
    """The ids of a text with masks in it, and the characters of each mask with the blanks that it takes in."""

    text: str
    ids: list[int]
    spans: tuple[tuple[int, int], ...]


def encode_masked(tokenizer: Tokenizer, text: str, *, where: str | None = None) -> MaskedText:
    """Encode what stands between the masks; no other special token can be written. ``where`` is for errors.

    Raises:
        TokenizerError: ``tokenization.no_mask_token``.
    """
    if tokenizer.mask_id is None:
        raise TokenizerError("tokenization.no_mask_token")
    names = "|".join(re.escape(name) for name in dict.fromkeys((tokenizer.token(tokenizer.mask_id), MASK_TOKEN)))
    before, after = (r"\s*" if strips else "" for strips in tokenizer.mask_strips)
    spans = [match.span() for match in re.finditer(f"{before}(?:{names}){after}", text)]
    starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(text)]
    pieces = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    ids = tokenizer.encode(pieces[0], where=where)
    for piece in pieces[1:]:
        ids += [tokenizer.mask_id, *tokenizer.encode(piece, where=where)]
    return MaskedText(text, ids, tuple(spans))


def unmasked(tokenizer: Tokenizer, masked: MaskedText, tokens: dict[int, int]) -> str:
    """The text with tokens in the place of masks, counted from 0; the other masks stay as they are written."""
    result, last = "", 0
    for number, (start, end) in enumerate(masked.spans):
        result += masked.text[last:start]
        result = _put(tokenizer, result, tokens[number]) if number in tokens else result + masked.text[start:end]
        last = end
    return result + masked.text[last:]


def _put(tokenizer: Tokenizer, text: str, token_id: int) -> str:
    """The text with a token behind it: in WordPiece a continuation goes to the word before; no space is doubled."""
    data, token = tokenizer.token_bytes(token_id), tokenizer.token(token_id)
    if data is None and token_id not in tokenizer.special_ids and token.startswith("##") and len(token) > 2:
        return text.rstrip() + token.removeprefix("##")
    surface = token if data is None else data.decode(errors="replace")
    return text + (surface if text and not text[-1].isspace() else surface.lstrip(" "))
