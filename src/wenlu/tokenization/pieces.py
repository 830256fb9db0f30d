"""Text and special tokens in a row, encoded as one text in which only the given tokens are special.

Encoded piece by piece, a text behind a special token would be the beginning of a text to a tokenizer that puts a blank
there. So the pieces are joined, the special tokens under names that are drawn anew in every process: no text has them.
"""

from __future__ import annotations

import functools
import json
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as LibraryTokenizer

from wenlu.tokenization.special import renamed
from wenlu.tokenization.tokenizer import Tokenizer, refused


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[str | int], *, where: str) -> list[int]:
    """The ids of pieces: texts, in which nothing is special, and ids of special tokens; ``where`` is for errors.

    Raises TokenizerError ``surrogate``, or ``gave_up`` where the library does.
    """
    return list(_encode(tokenizer, [pieces], where)[0].ids)


def encode_parts(tokenizer: Tokenizer, parts: Sequence[Sequence[str | int]], *, where: str) -> list[list[int]]:
    """The ids of each part of one text, encoded as the whole that it is.

    Where a token would reach from one part into another, the text is cut between them, and each side encoded by itself:
    so it is when the model reads the first part and writes the second.

    Raises TokenizerError: see ``encode_pieces``.
    """
    encoding, ends = _encode(tokenizer, parts, where)
    reaches = [(bisect_right(ends, start), bisect_left(ends, end)) for start, end in encoding.offsets if start < end]
    cuts = sorted({cut for first, last in reaches for cut in range(first + 1, last + 1)})
    if cuts:
        stretches = pairwise([0, *cuts, len(parts)])
        return [ids for start, stop in stretches for ids in encode_parts(tokenizer, parts[start:stop], where=where)]
    found: list[list[int]] = [[] for _ in parts]
    for id, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
        found[min(bisect_right(ends, start), len(parts) - 1)].append(id)
    return found


def _encode(tokenizer: Tokenizer, parts: Sequence[Sequence[str | int]], where: str) -> tuple[Encoding, list[int]]:
    """The parts as one text, and where each ends in it."""
    library, names = _secret_encoder(tokenizer.encoder_json, tokenizer.special_ids)
    texts = ["".join(piece if isinstance(piece, str) else names[piece] for piece in pieces) for pieces in parts]
    text = "".join(texts)
    try:
        return library.encode(text, add_special_tokens=False), list(accumulate(map(len, texts)))
    except BaseException as error:
        raise refused(error, [text], [where]) from error


@functools.lru_cache(maxsize=2)
def _secret_encoder(encoder_json: str, special_ids: frozenset[int]) -> tuple[LibraryTokenizer, Mapping[int, str]]:
    """A copy of a tokenizer whose special tokens have secret names, and these names by id."""
    description = json.loads(encoder_json)
    nonce = secrets.token_hex(16)
    names = {id: f"\ufdd0{nonce}{id}\ufdd1" for id in sorted(special_ids)}
    known = {token["id"]: token for token in description["added_tokens"]}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    secret: list[dict[str, Any]] = [
        {**flags, **known.get(id, {}), "id": id, "content": name, "special": True, "normalized": False}
        for id, name in names.items()
    ]
    others = [token for id, token in known.items() if id not in names]
    description["added_tokens"] = sorted([*secret, *others], key=lambda token: int(token["id"]))
    description["post_processor"] = None
    model = renamed(description["model"], lambda id, piece: names.get(id, piece))
    if (unknown := description["model"].get("unk_token")) in description["model"]["vocab"]:
        model["unk_token"] = names.get(description["model"]["vocab"][unknown], unknown)
    description["model"] = model
    return LibraryTokenizer.from_str(json.dumps(description)), names
