"""Text and special tokens in a row, encoded as one text in which only the given tokens are special.

Encoded piece by piece, a text behind a special token would be the beginning of a text to a tokenizer that puts a blank
there. So the pieces are joined, the special tokens under names that are drawn anew in every process: no text has them.
"""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as LibraryTokenizer

from wenlu.core.errors import TokenizerError
from wenlu.tokenization.surrogates import utf8_bytes
from wenlu.tokenization.tokenizer import Tokenizer


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[str | int], *, where: str) -> list[int]:
    """The ids of pieces: texts, in which nothing is special, and ids of special tokens; ``where`` is for errors.

    Raises TokenizerError ``surrogate``, or ``gave_up`` where the library does.
    """
    library, names = _secret_encoder(tokenizer.encoder_json, tokenizer.special_ids)
    text = "".join(piece if isinstance(piece, str) else names[piece] for piece in pieces)
    utf8_bytes(text, where=where)
    try:
        return list(library.encode(text, add_special_tokens=False).ids)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # derives from BaseException and has no public name
            raise
        raise TokenizerError("tokenization.gave_up", where=where, reason=str(error)) from error


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
    model = description["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [[names.get(id, piece), score] for id, (piece, score) in enumerate(model["vocab"])]
    else:
        if model.get("unk_token") in model["vocab"]:
            unknown = model["vocab"][model["unk_token"]]
            model["unk_token"] = names.get(unknown, model["unk_token"])
        model["vocab"] = {names.get(id, piece): id for piece, id in model["vocab"].items()}
    return LibraryTokenizer.from_str(json.dumps(description)), names
