"""Tokenizers as Hugging Face directories: what is read, and what is written beside tokenizer.json.

Read, in this order:

    source.spm, target.spm, vocab.json    Marian: one side of it
    tokenizer.json            any fast tokenizer
    spiece.model, tokenizer.model, ...    SentencePiece, through its own package
    vocab.txt                 BERT's WordPiece
    vocab.json, merges.txt    byte-level BPE: GPT-2, RoBERTa, BART; Qwen2 by the class that tokenizer_config.json names

with the names of the special tokens from tokenizer_config.json, special_tokens_map.json and added_tokens.json, and the
chat template from chat_template.jinja or tokenizer_config.json. The family, where a file alone does not tell it, is the
``tokenizer_class`` of tokenizer_config.json, else the ``model_type`` of config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from wenlu.core.downloads import refuse_pointer
from wenlu.core.errors import TokenizerError
from wenlu.core.log import warn
from wenlu.tokenization import sentencepiece_files
from wenlu.tokenization.kinds import END_TOKEN, PAD_TOKEN, QWEN2_PATTERN, UNKNOWN_TOKEN, byte_level
from wenlu.tokenization.template import BERT, has_template, set_template

Side = Literal["source", "target"]

CHAT_TEMPLATE = "chat_template.jinja"
FILES: tuple[str, ...] = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
FILES += (CHAT_TEMPLATE, *sentencepiece_files.MARIAN_FILES)
_END_NAMES = ("eos_token", "sep_token")
_END_CANDIDATES = (END_TOKEN, "</s>", "<|im_end|>", "[SEP]")
_PAD_CANDIDATES = (PAD_TOKEN, "<pad>", "[PAD]")
_UNKNOWN_CANDIDATES = (UNKNOWN_TOKEN, "<unk>")
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib")

# Written back as they were read; what else a tokenizer_config.json says is in tokenizer.json, or was never read.
KEPT = frozenset(
    {*_SPECIAL_NAMES, "additional_special_tokens", "extra_special_tokens", "chat_template", "model_max_length"}
    | {"padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces"}
)
# Read, and from then on part of tokenizer.json.
EXPRESSED = frozenset(
    {"tokenizer_class", "added_tokens_decoder", "add_bos_token", "add_eos_token", "extra_ids", "do_lower_case"}
    | {"strip_accents", "tokenize_chinese_chars", "keep_accents", "add_prefix_space"}
)

_ROBERTA = ("<s> $A </s>", "<s> $A </s> </s> $B </s>")
_TEMPLATES = {
    **dict.fromkeys(("bert", "distilbert", "electra", "albert"), BERT),
    **dict.fromkeys(("roberta", "xlmroberta", "bart"), _ROBERTA),
    **dict.fromkeys(("t5", "mt5"), ("$A </s>", "$A </s> $B </s>")),
    "marian": ("$A </s>", "$A $B </s>"),
}


@dataclass(frozen=True)
class Files:
    """What a directory holds: the library's tokenizer and the roles of its special tokens.

    ``config`` is what tokenizer_config.json keeps (None: it is to be written), ``chat_template`` the text of its own
    file if it has one; ``extra`` holds files that tokenizer.json cannot stand for, and ``unwritable`` the tokens that
    no text may come to.
    """

    library: Tokenizer
    end_token: str
    pad_token: str
    unknown_token: str | None
    config: Mapping[str, object] | None = None
    chat_template: str | None = None
    extra: Mapping[str, bytes] = field(default_factory=dict)
    unwritable: Sequence[str] = ()


def read(directory: Path, *, side: Side = "source") -> Files:
    """Read a Hugging Face tokenizer directory; of Marian's two tokenizers, the one of that ``side``.

    Raises TokenizerError: ``no_files``, ``unreadable``, ``no_end_token``, ``pickle_refused``, ``remote_code``, ...
    """
    config = read_config(directory)
    family = _family(directory, config)
    library, unwritable, extra = _library(directory, config, family, side)
    add_template(library, family, config, whole=not extra and (directory / "tokenizer.json").is_file())
    named = {name: token for name in _SPECIAL_NAMES if (token := content(config.get(name)))}
    known = library.get_vocab(with_added_tokens=True)
    special = {token.content for token in library.get_added_tokens_decoder().values() if token.special}
    library.add_special_tokens([token for token in named.values() if token in known and token not in special])
    end = _first([*(named.get(name) for name in _END_NAMES), *_END_CANDIDATES], known)
    if end is None:
        raise TokenizerError("tokenization.no_end_token", path=directory, candidates=", ".join(_END_CANDIDATES))
    pad = _first([named.get("pad_token"), *_PAD_CANDIDATES], known)
    unknown = _first([_model_unknown(library), named.get("unk_token"), *_UNKNOWN_CANDIDATES], known)
    kept = {key: config[key] for key in config if key in KEPT}
    template = _text(directory / CHAT_TEMPLATE)
    return Files(library, end, pad or end, unknown, kept, template, extra, unwritable)


def read_config(directory: Path) -> dict[str, object]:
    """tokenizer_config.json over special_tokens_map.json; a directory needs neither.

    Raises TokenizerError: ``unreadable``, ``remote_code``.
    """
    config = _json(directory / "special_tokens_map.json") | _json(directory / "tokenizer_config.json")
    if config.get("auto_map"):
        path = directory / "tokenizer_config.json"
        raise TokenizerError("tokenization.remote_code", path=path, found=config["auto_map"])
    return config


def own_config(tokens: Mapping[str, str | None], special_tokens: Sequence[str]) -> dict[str, object]:
    """What tokenizer_config.json says of a tokenizer of ours, from its end, pad and unknown token by their roles."""
    roles = {**tokens, "mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    named: dict[str, object] = {role: token for role, token in roles.items() if token in special_tokens}
    rest = [token for token in special_tokens if token not in named.values()]
    named |= {"additional_special_tokens": rest} if rest else {}
    return {**named, "clean_up_tokenization_spaces": False, "model_max_length": 10**30}


def config_text(config: Mapping[str, object], *, marian: bool) -> str:
    """The text of tokenizer_config.json for ``AutoTokenizer`` of transformers, which then reads tokenizer.json."""
    name = "MarianTokenizer" if marian else "PreTrainedTokenizerFast"
    return json.dumps({"tokenizer_class": name, **config}, ensure_ascii=False, indent=2) + "\n"


def _library(
    directory: Path, config: Mapping[str, object], family: str, side: Side
) -> tuple[Tokenizer, Sequence[str], Mapping[str, bytes]]:
    """The library's tokenizer, the tokens that no text may come to, and the files to keep."""
    if not directory.is_dir():
        raise TokenizerError("tokenization.no_directory", path=directory)
    path = directory
    try:
        if all((directory / name).is_file() for name in sentencepiece_files.MARIAN_FILES):
            path = directory / f"{side}.spm"
            return _marian(directory, sentencepiece_files.read_model(path))
        if (path := directory / "tokenizer.json").is_file():
            content = path.read_text(encoding="utf-8")
            _refuse_cut_pieces(content)
            library = Tokenizer.from_str(content)
            library.no_truncation()
            library.no_padding()
            return library, (), {}
        for name in sentencepiece_files.MODEL_FILES:
            if (path := directory / name).is_file():
                library = sentencepiece_files.build(sentencepiece_files.read_model(path), family, config)
                _add_tokens(library, directory, config)
                return library, (), {}
        if (path := directory / "vocab.txt").is_file():
            return _wordpiece(path, config), (), {}
        if (path := directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
            return _byte_level(directory, config, family), (), {}
    except TokenizerError:
        refuse_pointer(path)
        raise
    except OSError as error:
        raise TokenizerError("tokenization.unreadable", path=path, reason=error.strerror or str(error)) from error
    except Exception as error:  # the library raises bare Exception for every broken file
        refuse_pointer(path)
        raise TokenizerError("tokenization.unreadable", path=path, reason=str(error)) from error
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise TokenizerError("tokenization.pickle_refused", path=directory, files=", ".join(pickles))
    raise TokenizerError("tokenization.no_files", path=directory)


def _refuse_cut_pieces(content: str) -> None:
    """Refuse a BPE whose merges lack the prefix of pieces inside words: the library cuts so many bytes off whatever
    stands there, and ends the whole process where that is inside a letter.

    Raises ValueError.
    """
    model = json.loads(content).get("model") or {}
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in (model.get("merges") if prefix else None) or ():
        right = merge.split(" ")[-1] if isinstance(merge, str) else merge[-1]
        if not right.startswith(prefix):
            raise ValueError(f"merges: {right!r}; continuing_subword_prefix: {prefix!r}")


def _marian(directory: Path, model: sentencepiece_files.Model) -> tuple[Tokenizer, Sequence[str], Mapping[str, bytes]]:
    library, unwritable = sentencepiece_files.build_marian(model, directory / "vocab.json")
    known = library.get_vocab()
    lost = [piece.text for piece in model.pieces if piece.kind == 1 and piece.text not in known]
    if lost:
        warn("tokenization.pieces_lost", path=model.path, count=len(lost), names=", ".join(lost[:5]))
    extra = {name: (directory / name).read_bytes() for name in sentencepiece_files.MARIAN_FILES}
    return library, unwritable, extra


def _family(directory: Path, config: Mapping[str, object]) -> str:
    """Whose tokenizer it is, in small letters: ``bert``, ``xlmroberta``, ``t5``, ...; empty where nobody says."""
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    if name in ("", "PreTrained", "TokenizersBackend"):
        name = str(_json(directory / "config.json").get("model_type") or "")
    if not name and (directory / "vocab.txt").is_file():
        name = "bert"
    return name.replace("-", "").replace("_", "").lower()


def add_template(library: Tokenizer, family: str, config: Mapping[str, object], *, whole: bool = False) -> None:
    """The special tokens around a text, where no tokenizer.json says them; ``whole``: there is one."""
    if has_template(library):
        return
    if not whole and ("add_bos_token" in config or "add_eos_token" in config):
        start, end = content(config.get("bos_token")), content(config.get("eos_token"))
        before = [start] if start and config.get("add_bos_token") else []
        after = [end] if end and config.get("add_eos_token") else []
        single, second = [*before, "$A", *after], [*before, "$B", *after]
        set_template(library, " ".join(single), " ".join([*single, *(f"{word}:1" for word in second)]))
        return
    if family in _TEMPLATES:
        set_template(library, *_TEMPLATES[family])


def _wordpiece(path: Path, config: Mapping[str, object]) -> Tokenizer:
    vocab = {line: number for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")) if line}
    vocab = {token.removesuffix("\r"): number for token, number in vocab.items()}
    unknown = content(config.get("unk_token")) or UNKNOWN_TOKEN
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


def _byte_level(directory: Path, config: Mapping[str, object], family: str) -> Tokenizer:
    library = Tokenizer(models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt")))
    if family.startswith("qwen"):
        library.normalizer, library.pre_tokenizer = normalizers.NFC(), byte_level(QWEN2_PATTERN)
    else:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
    library.decoder = decoders.ByteLevel()
    _add_tokens(library, directory, config)
    vocab = library.get_vocab()
    if END_TOKEN in vocab:
        library.add_special_tokens([END_TOKEN])
    if {"<s>", "<pad>", "</s>", "<mask>"} <= vocab.keys():  # RoBERTa and BART, whose files name no special token
        mask = AddedToken("<mask>", lstrip=True, normalized=False)
        library.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", mask])
        set_template(library, *_ROBERTA)
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
    model = json.loads(library.to_str())["model"]
    token = model.get("unk_token")
    if token is None and isinstance(model.get("unk_id"), int):
        token = library.id_to_token(model["unk_id"])
    return cast("str | None", token)


def content(value: object) -> str | None:
    """The text of a special token, which files give as a string or as an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _first(candidates: Sequence[str | None], known: Mapping[str, int]) -> str | None:
    return next((token for token in candidates if token is not None and token in known), None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, ValueError) as error:
        refuse_pointer(path)
        raise TokenizerError("tokenization.unreadable", path=path, reason=str(error)) from error


def _json(path: Path) -> dict[str, object]:
    try:
        text = _text(path)
        value = {} if text is None else json.loads(text)
    except ValueError as error:
        refuse_pointer(path)
        raise TokenizerError("tokenization.unreadable", path=path, reason=str(error)) from error
    if not isinstance(value, dict):
        raise TokenizerError("tokenization.unreadable", path=path, reason=type(value).__name__)
    return value
