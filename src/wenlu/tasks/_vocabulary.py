"""What objectives that corrupt text must know of a vocabulary: marks, and where words and sentences begin and end.

Everything is a table by id, so that a window is looked up in a few array operations, and is read off the tokens alone:
a token store keeps no text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wenlu.core.errors import TokenizerError
from wenlu.data.store import Int64Array
from wenlu.tokenization.script import language_of
from wenlu.tokenization.streaming import ByteTable
from wenlu.tokenization.tokenizer import Tokenizer

MASK = ("[MASK]", "<mask>")
START = ("[CLS]", "<s>")
SEPARATOR = ("[SEP]", "</s>")
MARKS = (MASK, START, SEPARATOR)
"""The names that a mark goes by, ours first."""

BoolArray = npt.NDArray[np.bool_]

_SENTENCE_END = re.compile(r"""[.!?。！？…]["'”’」』）)\]]*\s*$|\n\s*$""")
_SPECIAL = b"\n"  # what a special token is for the segmenter


class Vocabulary:
    """The tables of one tokenizer; ``of`` makes them once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.end_id, self.pad_id, self.size = tokenizer.end_id, tokenizer.pad_id, tokenizer.vocab_size
        self._specials = {tokenizer.token(id): id for id in tokenizer.special_ids}
        self.is_special: BoolArray = np.zeros(self.size, dtype=np.bool_)
        self.is_special[list(tokenizer.special_ids)] = True
        self.ordinary: Int64Array = np.setdiff1d(np.array(tokenizer.ids()), list(tokenizer.special_ids))
        surfaces = [_SPECIAL] * self.size
        for id in self.ordinary.tolist():
            surfaces[id] = _surface(tokenizer, id) or b" "
        self._bytes = ByteTable(surfaces)
        texts = [surface.decode("utf-8", "ignore") for surface in surfaces]
        self._glued: BoolArray = np.array([0x80 <= surface[0] < 0xC0 for surface in surfaces])  # never begins a word
        pieces = tokenizer.kind == "wordpiece"
        if pieces:
            for id in self.ordinary.tolist():
                self._glued[id] = tokenizer.token(id).startswith("##") and not _is_ideograph(texts[id][:1])
        self._begins_inside: BoolArray = np.array([not pieces and _in_word(text[:1]) for text in texts])
        self._ends_inside: BoolArray = np.array([_in_word(text[-1:]) or text == " " for text in texts])
        self.ends_sentence: BoolArray = np.array([_SENTENCE_END.search(text) is not None for text in texts])
        self.ends_sentence[self.is_special] = False

    @classmethod
    @functools.lru_cache(maxsize=2)
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """The tables of a tokenizer, made on the first call."""
        return cls(tokenizer)

    def mark(self, names: Sequence[str]) -> int:
        """The id of the special token that goes by one of these names.

        Raises:
            TokenizerError: ``tasks.token_missing``.
        """
        for name in names:
            if name in self._specials:
                return self._specials[name]
        raise TokenizerError("tasks.token_missing", token=names[0], others=", ".join(names))

    def words(self, ids: Int64Array) -> Int64Array:
        """The number of the word that each token belongs to, counted from 0.

        Letters in a row are a word, as the pieces of WordPiece that begin with ``##`` say, or as the letters of the
        tokens do; every ideograph, mark and digit is one by itself, and a space belongs to what follows.
        """
        return np.cumsum(self._begins_word(ids)) - 1

    def chinese_words(self, ids: Int64Array) -> Int64Array:
        """The same with the ideographs in a row cut into words by jieba."""
        import rjieba

        before, data = self._bytes.decode(ids.astype(np.uint32))
        text = _UNPAIRED.sub("?", data.decode("utf-8", "surrogateescape"))  # half characters at the window's ends
        ends = np.cumsum([len(word.encode()) for word in rjieba.cut(text)])
        by_jieba = np.searchsorted(ends, before[1:] - 1, side="right")
        same = np.concatenate([np.zeros(1, dtype=np.bool_), by_jieba[1:] == by_jieba[:-1]])
        return np.cumsum(self._begins_word(ids) & ~(same & ~self.is_special[ids])) - 1

    def _begins_word(self, ids: Int64Array) -> BoolArray:
        inside = np.zeros(len(ids), dtype=np.bool_)
        inside[1:] = self._begins_inside[ids[1:]] & self._ends_inside[ids[:-1]]
        return ~(inside | self._glued[ids])


_UNPAIRED = re.compile("[\udc80-\udcff]")


def _surface(tokenizer: Tokenizer, id: int) -> bytes:
    """The bytes that a token puts into a text; of WordPiece, with a space before every word that is no ideograph."""
    known = tokenizer.token_bytes(id)
    if known is not None:
        return known
    token = tokenizer.token(id)
    if token.startswith("##") and len(token) > 2:
        return token.removeprefix("##").encode()
    return (f" {token}" if _in_word(token[:1]) else token).encode()


def _in_word(character: str) -> bool:
    """Whether words are written with more than one of these."""
    return character.isalpha() and not _is_ideograph(character)


def _is_ideograph(character: str) -> bool:
    return not character.isascii() and language_of(character) == "zh"
