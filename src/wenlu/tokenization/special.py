"""Special tokens cannot be written: inside a text their strings are text, for every tokenizer.

The library's switch ``encode_special_tokens`` stops the search for their strings, but a vocabulary that lists them
among its ordinary pieces (as SentencePiece's Unigram does, and a word list may) still finds them. Such entries are
renamed, in the copy that encodes, to a string that no text can come to.

Added tokens that a foreign directory does not mark as special (Qwen's ``<tool_call>``) are ordinary vocabulary there,
and stay what its own library makes of them: they are found in a text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from wenlu.core.errors import TokenizerError

UNREACHABLE = "\ufdd0 \ufdd0"
"""Begins names that no text comes to: noncharacters around a blank, where pre-tokenizers cut or which they change."""


def as_text_only(library: Tokenizer, description: Mapping[str, Any], *, unwritable: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer with the same ids that never gives the id of a special token, except for the unknown.

    Nor does it give the ids of the ``unwritable`` tokens.

    Raises TokenizerError ``special_is_text`` where that cannot be had.
    """
    library.encode_special_tokens = True
    writable = written_specials(library)
    model = description["model"]
    if model["type"] == "Unigram" and model["unk_id"] is not None:  # the piece for the unknown is found in a text, too
        unwritable = [*unwritable, model["vocab"][model["unk_id"]][0]]
    if not writable and not unwritable:
        return library
    try:
        encoder = Tokenizer.from_str(json.dumps(_without(description, [*writable, *unwritable])))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError("tokenization.special_is_text", token=[*writable, *unwritable][0]) from error
    encoder.encode_special_tokens = True
    still = [token for token in writable if _is_written(encoder, token, library.token_to_id(token))]
    if still:
        raise TokenizerError("tokenization.special_is_text", token=still[0])
    return encoder


def written_specials(library: Tokenizer) -> list[str]:
    """The special tokens whose string, found in a text, would become their id."""
    library.encode_special_tokens = True
    added = library.get_added_tokens_decoder()
    return [token.content for id, token in added.items() if token.special and _is_written(library, token.content, id)]


def _is_written(library: Tokenizer, token: str, id: int | None) -> bool:
    forms = (token, f" {token} ", f"a{token}a", f"字{token}字")
    unknown = library.encode("\ue000\ufdd1", add_special_tokens=False).ids
    return id not in unknown and any(id in library.encode(form, add_special_tokens=False).ids for form in forms)


def _without(description: Mapping[str, Any], tokens: list[str]) -> dict[str, object]:
    """The description of a tokenizer whose model knows these tokens under unreachable names."""
    names = {token: f"{UNREACHABLE}{number}" for number, token in enumerate(tokens)}
    model = renamed(description["model"], lambda _, piece: names.get(piece, piece))
    kept = [token for token in description["added_tokens"] if token["content"] not in names]
    return {**description, "model": model, "added_tokens": kept, "post_processor": None}


def renamed(model: Mapping[str, Any], name: Callable[[int, str], str]) -> dict[str, Any]:
    """The model of a tokenizer.json with other names for its pieces, which are told by their ids and old names."""
    if isinstance(model["vocab"], list):
        return {**model, "vocab": [[name(id, piece), score] for id, (piece, score) in enumerate(model["vocab"])]}
    return {**model, "vocab": {name(id, piece): id for piece, id in model["vocab"].items()}}
