"""Tokenizers as Hugging Face directories: what is read, and what is written beside tokenizer.json.

Read, in this order:

    tokenizer.json            any fast tokenizer
    vocab.txt                 BERT's WordPiece
    vocab.json, merges.txt    byte-level BPE: GPT-2, RoBERTa; Qwen2 by the class that tokenizer_config.json names

with the names of the special tokens from tokenizer_config.json, special_tokens_map.json and added_tokens.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from wenlu.core.errors import TokenizerError
from wenlu.tokenization.kinds import END_TOKEN, PAD_TOKEN, QWEN2_PATTERN, UNKNOWN_TOKEN

_END_NAMES = ("eos_token", "sep_token")
_END_CANDIDATES = (END_TOKEN, "</s>", "<|im_end|>", "[SEP]")
_PAD_CANDIDATES = (PAD_TOKEN, "<pad>", "[PAD]")
_UNKNOWN_CANDIDATES = (UNKNOWN_TOKEN, "<unk>")
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib")


@dataclass(frozen=True)
class Files:
    """What a directory holds: the library's tokenizer and the roles of its special tokens."""

    library: Tokenizer
    end_token: str
    pad_token: str
    unknown_token: str | None


def read(directory: Path) -> Files:
    """Read a Hugging Face tokenizer directory.

    Raises TokenizerError: ``no_files``, ``unreadable``, ``no_end_token``, ``pickle_refused``.
    """
    config = _json(directory / "special_tokens_map.json") | _json(directory / "tokenizer_config.json")
    library = _library(directory, config)
    named = {name: content for name in _SPECIAL_NAMES if (content := _content(config.get(name)))}
    known = library.get_vocab(with_added_tokens=True)
    library.add_special_tokens([content for content in named.values() if content in known])
    end = _first([*(named.get(name) for name in _END_NAMES), *_END_CANDIDATES], known)
    if end is None:
        raise TokenizerError("tokenization.no_end_token", path=directory, candidates=", ".join(_END_CANDIDATES))
    pad = _first([named.get("pad_token"), *_PAD_CANDIDATES], known)
    unknown = _first([_model_unknown(library), named.get("unk_token"), *_UNKNOWN_CANDIDATES], known)
    return Files(library, end, pad or end, unknown)


def config_text(*, end_token: str, pad_token: str, unknown_token: str | None, special_tokens: Sequence[str]) -> str:
    """The text of tokenizer_config.json for ``AutoTokenizer`` of transformers."""
    roles = {"eos_token": end_token, "pad_token": pad_token, "unk_token": unknown_token}
    roles |= {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"} if special_tokens else {}
    named = {role: token for role, token in roles.items() if token in special_tokens}
    rest = [token for token in special_tokens if token not in named.values()]
    record: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    if rest:
        record["additional_special_tokens"] = rest
    record["clean_up_tokenization_spaces"] = False
    record["model_max_length"] = 10**30
    return json.dumps(record, ensure_ascii=False, indent=2) + "\n"


def _library(directory: Path, config: Mapping[str, object]) -> Tokenizer:
    if not directory.is_dir():
        raise TokenizerError("tokenization.no_directory", path=directory)
    path = directory
    try:
        if (path := directory / "tokenizer.json").is_file():
            library = Tokenizer.from_str(path.read_text(encoding="utf-8"))
            library.no_truncation()
            library.no_padding()
            return library
        if (path := directory / "vocab.txt").is_file():
            return _wordpiece(path, config)
        if (path := directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
            return _byte_level(directory, config)
    except OSError as error:
        raise TokenizerError("tokenization.unreadable", path=path, reason=error.strerror or str(error)) from error
    except Exception as error:  # the library raises bare Exception for every broken file
        raise TokenizerError("tokenization.unreadable", path=path, reason=str(error)) from error
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise TokenizerError("tokenization.pickle_refused", path=directory, files=", ".join(pickles))
    if any((directory / name).is_file() for name in _SENTENCEPIECE_FILES):
        raise TokenizerError("tokenization.sentencepiece", path=directory)
    raise TokenizerError("tokenization.no_files", path=directory)


def _wordpiece(path: Path, config: Mapping[str, object]) -> Tokenizer:
    vocab = {line: number for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")) if line}
    vocab = {token.removesuffix("\r"): number for token, number in vocab.items()}
    unknown = _content(config.get("unk_token")) or UNKNOWN_TOKEN
    library = Tokenizer(models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=100))
    accents = config.get("strip_accents")
    library.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=None if accents is None else bool(accents),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    library.add_special_tokens([t for t in (unknown, "[PAD]", "[CLS]", "[SEP]", "[MASK]") if t in vocab])
    return library


def _byte_level(directory: Path, config: Mapping[str, object]) -> Tokenizer:
    library = Tokenizer(models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt")))
    add_prefix_space = bool(config.get("add_prefix_space", False))
    if str(config.get("tokenizer_class", "")).startswith("Qwen2"):
        library.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated")
        by_byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.pre_tokenizer = pre_tokenizers.Sequence([split, by_byte])
    else:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    library.decoder = decoders.ByteLevel()
    _add_tokens(library, directory, config)
    if END_TOKEN in library.get_vocab():
        library.add_special_tokens([END_TOKEN])
    return library


def _add_tokens(library: Tokenizer, directory: Path, config: Mapping[str, object]) -> None:
    """Tokens beyond vocab.json, in the order of their ids: ``added_tokens_decoder``, else added_tokens.json."""
    added = config.get("added_tokens_decoder")
    if isinstance(added, dict):
        for _, entry in sorted(added.items(), key=lambda item: int(item[0])):
            token = AddedToken(str(entry["content"]), normalized=bool(entry.get("normalized", False)))
            (library.add_special_tokens if entry.get("special", True) else library.add_tokens)([token])
    else:
        added = _json(directory / "added_tokens.json")
        library.add_special_tokens(sorted(added, key=lambda token: cast(int, added[token])))


def _model_unknown(library: Tokenizer) -> str | None:
    unknown = json.loads(library.to_str())["model"]
    token = unknown.get("unk_token")
    if token is None and isinstance(unknown.get("unk_id"), int):
        token = library.id_to_token(unknown["unk_id"])
    return cast("str | None", token)


def _content(value: object) -> str | None:
    """The text of a special token, which files give as a string or as an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _first(candidates: Sequence[str | None], known: Mapping[str, int]) -> str | None:
    return next((token for token in candidates if token is not None and token in known), None)


def _json(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError("tokenization.unreadable", path=path, reason=str(error)) from error
    if not isinstance(value, dict):
        raise TokenizerError("tokenization.unreadable", path=path, reason=f"{type(value).__name__}")
    return value
