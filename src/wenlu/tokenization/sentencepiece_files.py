"""SentencePiece models (Kudo and Richardson 2018) as tokenizers of the library, with the ids that their models expect.

Normalization, pieces and scores are those of the file. Around them each family counts ids in its own way:

    T5, mT5    the file's ids, then the sentinels <extra_id_99> to <extra_id_0>
    XLM-R      <s> <pad> </s> <unk>, the file's pieces from its fourth, <mask>
    Marian     the ids of vocab.json; the pieces of the source come from one file and those of the target from another
    others     the file's ids: ALBERT, Llama, Gemma
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from wenlu.core.errors import TokenizerError
from wenlu.tokenization.special import UNREACHABLE

MODEL_FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "sentencepiece.model")
MARIAN_FILES = ("source.spm", "target.spm", "vocab.json")
SPACE = "▁"
_UNKNOWN_PENALTY = 10.0  # below the worst score, as in unigram_model.cc
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5  # ModelProto.SentencePiece.Type


class Piece(NamedTuple):
    """A token of a model."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """A file, read, with its pieces in the order of their ids.

    ``charsmap`` is the compiled normalization; ``collapses`` says that blanks at the ends and doubled ones are removed,
    ``begins`` that a text begins with a blank.
    """

    path: Path
    pieces: list[Piece]
    unigram: bool
    byte_fallback: bool
    charsmap: bytes
    collapses: bool
    begins: bool

    @property
    def unknown_id(self) -> int:
        """The id of the piece for what no other covers."""
        return next(id for id, piece in enumerate(self.pieces) if piece.kind == _UNKNOWN)


def read_model(path: Path) -> Model:
    """Read a file.

    Raises:
        TokenizerError: ``tokenization.sentencepiece_missing`` without the package, ``tokenization.unreadable``,
            ``tokenization.sentencepiece_kind`` for a model of words or characters.
    """
    try:
        proto = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    except ImportError as error:
        raise TokenizerError("tokenization.sentencepiece_missing", path=path) from error
    try:
        proto.ParseFromString(path.read_bytes())
    except OSError:
        raise
    except Exception as error:  # protobuf's own, which derives from it
        raise TokenizerError("tokenization.unreadable", path=path, reason=str(error)) from error
    # The shortest decimals that mean the same float32, which survive being written and read.
    pieces = [Piece(piece.piece, float(str(np.float32(piece.score))), piece.type) for piece in proto.pieces]
    if not any(piece.kind == _UNKNOWN for piece in pieces):
        raise TokenizerError("tokenization.unreadable", path=path, reason="no unknown piece")
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    plain = normalizer.escape_whitespaces and not trainer.treat_whitespace_as_suffix
    if trainer.model_type not in (_UNIGRAM, _BPE) or not plain:
        raise TokenizerError("tokenization.sentencepiece_kind", path=path, found=trainer.model_type)
    return Model(
        path,
        pieces,
        unigram=trainer.model_type == _UNIGRAM,
        byte_fallback=trainer.byte_fallback,
        charsmap=normalizer.precompiled_charsmap,
        collapses=normalizer.remove_extra_whitespaces,
        begins=normalizer.add_dummy_prefix,
    )


def build(model: Model, family: str, config: Mapping[str, object]) -> Tokenizer:
    """The tokenizer of a model as its family (``t5``, ``xlmroberta``, ``albert``, ``llama``, ...) counts ids."""
    if family in ("t5", "mt5", "umt5"):
        extra = config.get("extra_ids", 100)
        sentinels = range(extra if isinstance(extra, int) else 100)
        names = {piece.text for piece in model.pieces}
        added = [Piece(f"<extra_id_{number}>", 0.0, _CONTROL) for number in reversed(sentinels)]
        return _library(replace(model, pieces=[*model.pieces, *(piece for piece in added if piece.text not in names)]))
    if family == "xlmroberta":
        first = [Piece(name, 0.0, _CONTROL) for name in ("<s>", "<pad>", "</s>")] + [Piece("<unk>", 0.0, _UNKNOWN)]
        return _library(replace(model, pieces=[*first, *model.pieces[3:], Piece("<mask>", 0.0, _CONTROL)]))
    if family == "albert":
        return _library(model, before=_albert_normalizers(config))
    return _library(model)


def build_marian(model: Model, vocabulary: Path) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of one side of a Marian model, and the pieces of the other side, which no text may come to.

    What this side lacks is looked up, a whole run of characters at once, among the pieces of the other side.

    Raises:
        TokenizerError: ``tokenization.unreadable`` for a vocab.json that does not number its tokens from 0.
    """
    try:
        ids = json.loads(vocabulary.read_text(encoding="utf-8"))
        tokens = sorted(ids, key=lambda token: int(ids[token]))
        if [ids[token] for token in tokens] != list(range(len(tokens))) or "<unk>" not in ids:
            raise ValueError("ids")
    except (ValueError, TypeError, AttributeError) as error:
        raise TokenizerError("tokenization.unreadable", path=vocabulary, reason=str(error)) from error
    own = {piece.text: piece for piece in model.pieces if piece.kind in (_NORMAL, _USER_DEFINED)}
    letters = set("".join(own)) | {" "}
    lone = min((piece.score for piece in own.values()), default=0.0) - _UNKNOWN_PENALTY
    special = {"<unk>": _UNKNOWN, "</s>": _CONTROL, "<pad>": _CONTROL, "<s>": _CONTROL}
    pieces = [own.get(token) or Piece(token, lone, special.get(token, _NORMAL)) for token in tokens]
    codes = [token for token in tokens if token.startswith(">>") and token.endswith("<<")]
    writable = {*own, *special, *codes}
    others = [token for token in tokens if token not in writable]
    looked_up = [token for token in others if letters.isdisjoint(token)]
    library = _library(replace(model, pieces=pieces), after=[_unknown_runs(letters, looked_up)])
    library.add_tokens([AddedToken(code, normalized=False) for code in codes])
    return library, [token for token in others if not letters.isdisjoint(token)]


def _unknown_runs(letters: set[str], known: Sequence[str]) -> normalizers.Normalizer:
    """Makes one unknown character of every longer run of characters outside ``letters`` that is not ``known``."""
    stranger = f"[^{re.escape(''.join(sorted(letters)))}]"
    names = "|".join(re.escape(token) for token in known if len(token) > 1) or "(?!)"
    run = f"(?<!{stranger})(?={stranger}{{2}})(?!(?:{names})(?!{stranger})){stranger}+"
    return normalizers.Replace(Regex(run), "\ufdd1")


def _library(
    model: Model, *, before: Sequence[normalizers.Normalizer] = (), after: Sequence[normalizers.Normalizer] = ()
) -> Tokenizer:
    """The pipeline that a file describes: normalize, mark spaces, cut into pieces."""
    names = [f"{UNREACHABLE}{id}" if piece.kind == _UNUSED else piece.text for id, piece in enumerate(model.pieces)]
    if model.unigram:
        scores = list(zip(names, _unigram_scores(model), strict=True))
        library = Tokenizer(models.Unigram(scores, unk_id=model.unknown_id, byte_fallback=model.byte_fallback))
    else:
        ids, unknown = {name: id for id, name in enumerate(names)}, names[model.unknown_id]
        bpe = models.BPE(ids, _merges(model), unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback)
        library = Tokenizer(bpe)
    steps = list(before)
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.collapses:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += after
    steps += [normalizers.Prepend(SPACE)] if model.begins else []
    library.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    if not any(SPACE in name[1:] for name in names):  # no piece spans two words: words can be looked up one by one
        library.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    ends = [decoders.Strip(" ", left=1, right=0)] if model.begins else []
    fallback = [decoders.ByteFallback()] if model.byte_fallback else []
    library.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), *fallback, decoders.Fuse(), *ends])
    library.add_special_tokens([piece.text for piece in model.pieces if piece.kind in (_CONTROL, _UNKNOWN)])
    if not model.unigram:
        defined = [piece.text for piece in model.pieces if piece.kind == _USER_DEFINED]
        library.add_tokens([AddedToken(text, normalized=False) for text in defined])
    return library


def _unigram_scores(model: Model) -> list[float]:
    """The scores, with SentencePiece's own bonus for symbols that a user defined (unigram_model.cc)."""
    best = max((piece.score for piece in model.pieces if piece.kind == _NORMAL), default=0.0)
    return [
        len(piece.text.encode()) * best - 0.1 if piece.kind == _USER_DEFINED else piece.score for piece in model.pieces
    ]


def _merges(model: Model) -> list[tuple[str, str]]:
    """The merges of a BPE model, which lists only their results: the best result first, then its shorter left side."""
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == _NORMAL}
    ids = {piece.text: id for id, piece in enumerate(model.pieces) if piece.kind == _NORMAL}
    merges = [
        (-score, len(text[:cut]), ids[text[:cut]], (text[:cut], text[cut:]))
        for text, score in scores.items()
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    return [pair for *_, pair in sorted(merges)]


def _albert_normalizers(config: Mapping[str, object]) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not config.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    return [*steps, normalizers.Lowercase()] if config.get("do_lower_case", True) else steps
