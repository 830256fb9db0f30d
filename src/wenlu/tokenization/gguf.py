"""The tokenizer of a GGUF file, and what a GGUF file says of one of ours.

llama.cpp knows the rules that cut a text by name, one name for each published tokenizer; the names here are those whose
rules are known to be the same. ``default`` and no name mean GPT-2's rules, as transformers reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from wenlu.core.errors import TokenizerError, WenluError
from wenlu.core.gguf import Header, read_header
from wenlu.tokenization import sentencepiece_files
from wenlu.tokenization.hf import Files, add_template
from wenlu.tokenization.kinds import QWEN2_PATTERN
from wenlu.tokenization.special import UNREACHABLE

LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
GPT2, LLAMA3, QWEN2, SMOLLM = "gpt-2", "llama-bpe", "qwen2", "smollm"
_SAME_RULES: Final = {
    GPT2: ("", "default", "gpt-2", "phi-2", "olmo", "jais", "mpt"),
    LLAMA3: ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"),
    QWEN2: ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"),
    SMOLLM: ("smollm", "starcoder", "refact", "command-r", "codeshell"),
}
_WHOLE_WORDS = LLAMA3  # its words that are tokens are taken whole, whatever the merges say
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # the kinds of tokens in a file
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read(path: Path) -> Files:
    """Read the tokenizer of a GGUF file with its special tokens and chat template.

    Raises:
        TokenizerError: ``gguf_unsupported`` for a kind or for rules that are not known here, ``unreadable``,
            ``no_end_token``.
        CheckpointError: ``core.gguf_*``.
    """
    header = read_header(path)
    tokens = header.values("tokenizer.ggml.tokens", str)
    kinds = header.values("tokenizer.ggml.token_type", int) or [_NORMAL] * len(tokens)
    if not tokens or len(kinds) != len(tokens):
        header.refuse("tokenizer.ggml.token_type", len(kinds), len(tokens) or "1 ...")
    roles: dict[str, str] = {}
    for role, name in _ROLES.items():
        key = f"tokenizer.ggml.{name}_token_id"
        if (id := header.integer(key)) is not None:
            roles[role] = tokens[id] if 0 <= id < len(tokens) else header.refuse(key, id, f"0 ... {len(tokens) - 1}")
    end = roles.get("eos_token")
    if end is None:
        raise TokenizerError("tokenization.no_end_token", path=path, candidates="tokenizer.ggml.eos_token_id")
    kind = header.value("tokenizer.ggml.model", "")
    kinds_read = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in kinds_read:
        raise TokenizerError("tokenization.gguf_unsupported", path=path, found=kind, known=", ".join(kinds_read))
    try:
        library = kinds_read[kind](header, tokens, kinds)
    except WenluError:
        raise
    except Exception as error:  # the library raises bare Exception for a broken vocabulary
        raise TokenizerError("tokenization.unreadable", path=path, reason=str(error)) from error
    library.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in roles.values()])
    begins = header.value("tokenizer.ggml.add_bos_token", default=kind == "llama")
    ends = header.value("tokenizer.ggml.add_eos_token", default=False)
    if begins or ends:
        add_template(library, "", {**roles, "add_bos_token": begins, "add_eos_token": ends})
    template = header.value("tokenizer.chat_template", "") or None
    return Files(library, end, roles.get("pad_token", end), roles.get("unk_token"), roles, template)


def describe(description: Mapping[str, Any], *, size: int, where: Path) -> dict[str, object]:
    """The keys ``tokenizer.ggml.*`` of a tokenizer (tokenizer.json, parsed) for a model with ``size`` embeddings.

    A byte-level BPE with rules that llama.cpp knows, whose normalization, NFC at most, is not part of a file; or
    SentencePiece's BPE.

    Raises:
        TokenizerError: ``gguf_unsupported``.
    """
    model, normalizer = description["model"], description["normalizer"]
    rules = _plain(description["pre_tokenizer"])
    name = next((name for name in _SAME_RULES if _plain(_described(name)) == rules), None)
    tokens, kinds = [f"[PAD{id}]" for id in range(size)], [_UNUSED] * size
    odd: list[str] = []
    if model["type"] == "BPE":
        for token, id in model["vocab"].items():
            if not token.startswith(UNREACHABLE):
                tokens[id], kinds[id] = token, _NORMAL
        for added in description["added_tokens"]:
            tokens[added["id"]], kinds[added["id"]] = added["content"], _CONTROL if added["special"] else _USER_DEFINED
        merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in model["merges"]]
        odd = _oddities(description, whole_words=name == _WHOLE_WORDS)
        if name is not None and not odd and (not normalizer or normalizer["type"] == "NFC"):
            written = [" ".join(merge) for merge in merges]
            return {"model": "gpt2", "pre": name, "tokens": tokens, "token_type": kinds, "merges": written}
        if not odd and model["byte_fallback"] and (scored := _by_scores(description, merges, tokens, kinds)):
            return scored
    found = ", ".join([model["type"], *odd, json.dumps(rules, ensure_ascii=False)[:200]])
    known = ", ".join([*_SAME_RULES, "llama (SentencePiece)"])
    raise TokenizerError("tokenization.gguf_unsupported", path=where, found=found, known=known)


def _oddities(description: Mapping[str, Any], *, whole_words: bool) -> list[str]:
    """What changes ids and has no place in a file: settings of the model, and how added tokens are found in a text."""
    model, added = description["model"], description["added_tokens"]
    odd = [key for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model[key]]
    if model["ignore_merges"] != whole_words:
        odd.append(f"ignore_merges: {model['ignore_merges']}")
    flags = ["lstrip", "rstrip", "single_word"]
    flags += ["normalized"] if model["byte_fallback"] else []  # spaces, which are beside them, are changed there
    return odd + [f"{one['content']}: {flag}" for one in added if not one["special"] for flag in flags if one[flag]]


def _by_scores(
    description: Mapping[str, Any], merges: list[list[str]], tokens: list[str], kinds: list[int]
) -> dict[str, object] | None:
    """The keys of SentencePiece's BPE, whose merges are told by the scores of their results; None where they are not.

    Then these keys would be read as another tokenizer. Scores of other pieces are never looked at.
    """
    model = description["model"]
    if model["unk_token"] not in tokens:
        return None
    for id, token in enumerate(tokens):
        kinds[id] = _BYTE if kinds[id] == _NORMAL and _BYTE_PIECE.fullmatch(token) else kinds[id]
    kinds[tokens.index(model["unk_token"])] = _UNKNOWN
    ranks = {piece: rank for rank, piece in enumerate(dict.fromkeys(map("".join, merges)))}
    scores = [-float(ranks.get(token, len(ranks) + id)) for id, token in enumerate(tokens)]
    begins = '"Prepend"' in json.dumps(description["normalizer"])
    again = json.loads(_from_pieces(Path(), tokens, scores, kinds, begins).to_str())
    same = all(again["model"][key] == model[key] for key in ("unk_token", "fuse_unk", "ignore_merges"))
    same = same and [list(merge) for merge in again["model"]["merges"]] == merges
    same = same and all(again[key] == description[key] for key in ("normalizer", "decoder"))
    if not same or description["pre_tokenizer"] not in (None, again["pre_tokenizer"]):
        return None
    named = {"tokens": tokens, "scores": scores, "token_type": kinds}
    return {"model": "llama", "pre": "default", "add_space_prefix": begins, **named}


def _byte_level(header: Header, tokens: list[str], kinds: list[int]) -> Tokenizer:
    rules = header.value("tokenizer.ggml.pre", "")
    name = next((name for name, same in _SAME_RULES.items() if rules in same), None)
    if name is None:
        known = ", ".join(rule for same in _SAME_RULES.values() for rule in same if rule)
        raise TokenizerError("tokenization.gguf_unsupported", path=header.path, found=rules, known=known)
    vocabulary = {token: id for id, token in enumerate(tokens) if kinds[id] != _UNUSED}
    merges = [tuple(merge.split(" ")) for merge in header.values("tokenizer.ggml.merges", str)]
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocabulary.keys():
            header.refuse("tokenizer.ggml.merges", " ".join(merge)[:80], "tokenizer.ggml.tokens")
    library = Tokenizer(models.BPE(vocabulary, cast(list[tuple[str, str]], merges), ignore_merges=name == _WHOLE_WORDS))
    library.pre_tokenizer = _rules(name)
    library.decoder = decoders.ByteLevel()
    for kind, add in ((_CONTROL, library.add_special_tokens), (_USER_DEFINED, library.add_tokens)):
        add([AddedToken(token, normalized=False) for token, own in zip(tokens, kinds, strict=True) if own == kind])
    return library


def _sentencepiece(header: Header, tokens: list[str], kinds: list[int]) -> Tokenizer:
    begins = header.value("tokenizer.ggml.add_space_prefix", default=True)
    return _from_pieces(header.path, tokens, header.values("tokenizer.ggml.scores", float), kinds, begins)


def _from_pieces(path: Path, tokens: list[str], scores: list[float], kinds: list[int], begins: bool) -> Tokenizer:
    """SentencePiece's BPE, whose merges follow from the scores."""
    pieces = [sentencepiece_files.Piece(*piece) for piece in zip(tokens, scores, kinds, strict=True)]
    model = sentencepiece_files.Model(
        path, pieces, unigram=False, byte_fallback="<0x00>" in tokens, charsmap=b"", collapses=False, begins=begins
    )
    return sentencepiece_files.build(model, "llama", {})


def _rules(name: str) -> pre_tokenizers.PreTokenizer:
    """How a text is cut before its bytes are merged."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name in (GPT2, SMOLLM))
    if name == GPT2:
        return words
    pattern = Regex(LLAMA3_PATTERN if name == LLAMA3 else QWEN2_PATTERN)
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits if name == SMOLLM else pre_tokenizers.Split(pattern, "isolated"), words])


def _described(name: str) -> object:
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = _rules(name)
    return json.loads(library.to_str())["pre_tokenizer"]


def _plain(rules: object) -> object:
    """Rules without what only moves offsets."""
    if isinstance(rules, dict):
        return {key: _plain(value) for key, value in rules.items() if key != "trim_offsets"}
    return [_plain(rule) for rule in rules] if isinstance(rules, list) else rules
