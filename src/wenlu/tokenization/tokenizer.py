"""The tokenizer: text to ids and back, with character offsets, for the five kinds and for Hugging Face directories.

What a text says is always text: a string such as ``<|endoftext|>`` inside it is encoded like any other, never as the
special token. Special tokens enter a sequence only by their ids.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import pre_tokenizers

from wenlu.core.errors import TokenizerError
from wenlu.core.gguf import SUFFIX as GGUF_SUFFIX
from wenlu.tokenization import gguf, hf, longtext, training
from wenlu.tokenization.kinds import END_TOKEN, MASK_TOKEN, PAD_TOKEN, UNKNOWN_TOKEN, TokenizerKind, TokenizerSettings
from wenlu.tokenization.offsets import with_joined_marks
from wenlu.tokenization.parallelism import make_forks_safe
from wenlu.tokenization.special import as_text_only
from wenlu.tokenization.streaming import ByteStreamDecoder, ByteTable, TextStreamDecoder
from wenlu.tokenization.surrogates import utf8_bytes
from wenlu.tokenization.template import Sequenced, Template

__all__ = ["Encoding", "IdArray", "Sequenced", "Tokenizer", "TokenizerKind", "TokenizerSettings"]

IdArray = npt.NDArray[np.uint32]

MASKS = (MASK_TOKEN, "<mask>")
"""What the token that hides another is called, where nobody says it."""

GROUP_CHARACTERS = 262_144
"""The library encodes texts of about so many characters at a time, which bounds its memory."""


@dataclass(frozen=True)
class Encoding:
    """The tokens of a text; offsets are half-open, in characters of the original text.

    A token that holds only some bytes of a character has the span of the whole character.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """Made by ``train`` or ``load``; never changes afterwards."""

    def __init__(self, files: hf.Files) -> None:
        """From the library's tokenizer and what is known of it; without a ``config`` it is our own."""
        library, unknown = files.library, files.unknown_token
        self.serialized: str = library.to_str(pretty=True)  # tokenizer.json, as ``save`` writes it
        description = json.loads(self.serialized)
        kind = longtext.kind_of(description)
        if kind is None:
            raise TokenizerError("tokenization.unknown_model", found=description["model"]["type"])
        self._library = library
        self._encoder = as_text_only(library, description, unwritable=files.unwritable)
        self._cuttable = longtext.cuttable(kind, description)
        self._normalizes = description["normalizer"] is not None
        self._by_byte = (description["decoder"] or {}).get("type") == "ByteLevel"
        self.kind: TokenizerKind = kind
        self._vocab = library.get_vocab(with_added_tokens=True)
        self._tokens = {id: token for token, id in self._vocab.items()}
        self.vocab_size: int = max(self._tokens) + 1
        self.end_id: int = self._vocab[files.end_token]
        self.pad_id: int = self._vocab[files.pad_token]
        self.unknown_id: int | None = None if unknown is None else self._vocab[unknown]
        added = library.get_added_tokens_decoder()
        self.special_ids: frozenset[int] = frozenset(id for id, token in added.items() if token.special)
        structural = {self.end_id, self.pad_id}
        self._hidden = self.special_ids - ({self.unknown_id} - structural)
        special = [self._tokens[id] for id in sorted(self.special_ids)]
        roles = {"eos_token": files.end_token, "pad_token": files.pad_token, "unk_token": unknown}
        self._config = files.config if files.config is not None else hf.own_config(roles, special)
        self._chat_template, self._extra = files.chat_template, files.extra
        self.start_id, self.cls_id, self.sep_id, self.mask_id = map(self._role, ("bos", "cls", "sep", "mask"))
        if self.mask_id is None:  # which files without a tokenizer_config.json do not say
            self.mask_id = next((self._vocab[mask] for mask in MASKS if self._vocab.get(mask) in added), None)
        mask = None if self.mask_id is None else added.get(self.mask_id)
        self.mask_strips: tuple[bool, bool] = (False, False) if mask is None else (mask.lstrip, mask.rstrip)

    @classmethod
    def train(cls, texts: Iterable[str], settings: TokenizerSettings) -> Tokenizer:
        """Learn a vocabulary from texts; equal texts and settings give an equal tokenizer, every time.

        Unigram is the exception: the library adds up its scores in an order that changes, so that they differ a little.
        Raises TokenizerError: no text, too small a vocabulary, lone surrogates, unusable special tokens.
        """
        make_forks_safe()
        unknown = None if settings.kind == "bpe" else UNKNOWN_TOKEN
        library = training.train(texts, settings)
        return cls(hf.Files(library, END_TOKEN, PAD_TOKEN, unknown))

    @classmethod
    def load(cls, directory: Path, *, side: hf.Side = "source") -> Tokenizer:
        """Read a directory that ``save`` or a Hugging Face library wrote, or a GGUF file; what is read: see ``hf``.

        Marian has two tokenizers with the same ids, for the ``side`` that is translated and for the translation.

        Raises TokenizerError when there is no such directory or its files cannot be used.
        """
        make_forks_safe()
        return cls(gguf.read(directory) if directory.suffix == GGUF_SUFFIX else hf.read(directory, side=side))

    def save(self, directory: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer reads.

        So are the chat template, where it came in a file of its own, and files that tokenizer.json cannot stand for.
        """
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(self.serialized, encoding="utf-8")
        config = hf.config_text(self._config, marian=bool(self._extra))
        (directory / "tokenizer_config.json").write_text(config, encoding="utf-8")
        if self._chat_template is not None:
            (directory / hf.CHAT_TEMPLATE).write_text(self._chat_template, encoding="utf-8")
        for name, content in self._extra.items():
            (directory / name).write_bytes(content)

    @property
    def chat_template(self) -> str | None:
        """The Jinja text that writes a conversation as a prompt, if the tokenizer's files have one."""
        template = self._chat_template or self._config.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None

    @property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens by their roles, as chat templates know them: ``bos_token``, ``eos_token``, ..."""
        roles = {role: hf.content(value) for role, value in self._config.items() if role.endswith("_token")}
        return {role: token for role, token in roles.items() if token}

    def with_special_tokens(self, first: Sequence[int], second: Sequence[int] | None = None) -> Sequenced:
        """The ids of one text or two with the special tokens that the model was trained with around them.

        BERT's is ``[CLS] a [SEP] b [SEP]`` with the segments 0 and 1, T5's ``a </s>``; a GPT adds nothing.
        """
        return self.template.apply(first, second)

    @functools.cached_property
    def template(self) -> Template:
        """Where the special tokens of ``with_special_tokens`` stand, and how many they are."""
        return Template(LibraryTokenizer.from_str(self.serialized))

    @functools.cached_property
    def context_id(self) -> int:
        """The token that a causal model reads before a text: the start token where the tokenizer puts it before texts,
        as Llama's puts ``<s>`` and BERT's ``[CLS]``; else the end token, which stands between documents.
        """
        first = next(iter(self.with_special_tokens([]).ids), None)
        return self.end_id if first is None or first not in (self.start_id, self.cls_id) else first

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json, as 64 hexadecimal digits."""
        return hashlib.sha256(self.serialized.encode("utf-8")).hexdigest()

    def encode(self, text: str, *, where: str | None = None) -> list[int]:
        """The ids of a text, without any special token; ``where`` names the text in an error."""
        return self.encode_batch([text], where=None if where is None else [where])[0]

    def encode_batch(self, texts: Sequence[str], *, where: Sequence[str] | None = None) -> list[list[int]]:
        """The ids of many texts, on the library's threads; ``where`` names each text in an error."""
        results: list[list[int]] = [[] for _ in texts]
        for encoder, numbers, group in self._groups(texts):
            try:
                encodings = encoder.encode_batch_fast(group, add_special_tokens=False)
            except BaseException as error:
                names = [where[number] if where else str(number + 1) for number in range(len(texts))]
                raise refused(error, texts, names) from error
            for number, encoding in zip(numbers, encodings, strict=True):
                results[number].extend(encoding.ids)
        return results

    def encode_with_offsets(self, text: str, *, where: str | None = None) -> Encoding:
        """The ids of a text with the tokens and the characters that each stands for."""
        try:
            encoding = self._encoder.encode(text, add_special_tokens=False)
        except BaseException as error:
            raise refused(error, [text], [where or "1"]) from error
        ids = encoding.ids
        offsets = with_joined_marks(text, encoding.offsets) if self._normalizes else encoding.offsets
        return Encoding(ids, [self.token(id) for id in ids], offsets)

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """The text of ids; special tokens are left out unless asked for, except ``[UNK]``, which is always shown.

        Raises TokenizerError for an id outside the vocabulary.
        """
        return self._decode(ids if keep_special else [id for id in ids if id not in self._hidden])

    def round_trips(self, text: str, ids: Sequence[int] | None = None) -> bool:
        """Whether decoding gives the text back, character by character; ``ids`` are its ids where known."""
        return self.decode(self.encode(text) if ids is None else ids) == text

    def round_trips_batch(self, texts: Sequence[bytes], rows: Sequence[IdArray]) -> list[bool]:
        """The same for many texts, in UTF-8 and with their ids, in a fraction of the time for byte-level tokenizers."""
        if self._by_byte:
            ids = np.concatenate([*rows, np.empty(0, dtype=np.uint32)])
            sizes, decoded = self._byte_table.decode(ids)
            ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
            same_sizes = (sizes[ends] == np.cumsum([len(text) for text in texts], dtype=np.int64)).all()
            if same_sizes and decoded == b"".join(texts):
                return [True] * len(texts)
        return [self.round_trips(text.decode(), row.tolist()) for text, row in zip(texts, rows, strict=True)]

    def token(self, id: int) -> str:
        """A token in readable form; bytes that are no whole character are written ``\\xe6``."""
        self._check([id])
        if self._by_byte and id not in self.special_ids:
            return self._bytes(id).decode("utf-8", errors="backslashreplace")
        return self._tokens[id]

    def token_bytes(self, id: int) -> bytes | None:
        """The UTF-8 bytes a token always stands for; None where that depends on its neighbours (WordPiece, special)."""
        self._check([id])
        if id in self.special_ids or self.kind == "wordpiece":
            return None
        if self._by_byte:
            return self._bytes(id)
        if id in self._fallback_ids:
            return bytes.fromhex(self._tokens[id][3:5])
        if self.kind in ("bpe", "unigram"):  # SentencePiece's, which writes a space so
            return self._tokens[id].replace("▁", " ").encode("utf-8")
        return self._decode([id]).encode("utf-8")

    def ids(self) -> list[int]:
        """All ids of the vocabulary, in order; foreign vocabularies may leave some out."""
        return sorted(self._tokens)

    def stream(self, *, keep_special: bool = False) -> ByteStreamDecoder | TextStreamDecoder:
        """A new decoder for ids that come one by one."""
        hidden = frozenset[int]() if keep_special else self._hidden
        if self._by_byte:
            return ByteStreamDecoder(self._bytes, hidden=hidden)
        return TextStreamDecoder(self._decode, hidden=hidden, fallback=self._fallback_ids)

    def _role(self, name: str) -> int | None:
        """The id of the special token that tokenizer_config.json names for a role; None where there is none."""
        return self._vocab.get(hf.content(self._config.get(f"{name}_token")) or "")

    def _decode(self, ids: Sequence[int]) -> str:
        self._check(ids)
        return self._library.decode(ids, skip_special_tokens=False)

    def _bytes(self, id: int) -> bytes:
        """What a byte-level decoder reads from a token: its letters stand for bytes, or else for themselves."""
        self._check([id])
        token = self._tokens[id]
        try:
            return bytes([_byte_of_letter()[letter] for letter in token])
        except KeyError:
            return token.encode("utf-8")

    def _check(self, ids: Sequence[int]) -> None:
        unknown = next((id for id in ids if id not in self._tokens), None)
        if unknown is not None:
            raise TokenizerError("tokenization.unknown_id", found=unknown, largest=self.vocab_size - 1)

    @functools.cached_property
    def encoder_json(self) -> str:
        """tokenizer.json of what encodes: as ``save`` writes it, with unreachable names for writable special tokens."""
        return self._encoder.to_str()

    @functools.cached_property
    def _byte_table(self) -> ByteTable:
        nothing = b"\xff"  # of special and missing ids: in no text
        ids = range(self.vocab_size)
        return ByteTable(
            [nothing if id in self.special_ids or id not in self._tokens else self._bytes(id) for id in ids]
        )

    @functools.cached_property
    def _fallback_ids(self) -> frozenset[int]:
        """Ids of the byte fallback of SentencePiece, ``<0x00>`` to ``<0xFF>``."""
        names = {f"<0x{byte:02X}>" for byte in range(256)}
        return frozenset(id for token, id in self._vocab.items() if token in names)

    @functools.cached_property
    def _whole_encoder(self) -> LibraryTokenizer:
        """Encodes what is one pre-token already, without looking for the pattern."""
        encoder = LibraryTokenizer.from_str(self.serialized)
        encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        encoder.encode_special_tokens = True
        return encoder

    def _groups(self, texts: Sequence[str]) -> Iterator[tuple[LibraryTokenizer, list[int], list[str]]]:
        """The pieces of the texts in order, in groups for the library: what encodes it, its texts' numbers, it."""
        numbers: list[int] = []
        group: list[str] = []
        size = 0
        for number, text in enumerate(texts):
            for piece in longtext.pieces(text, blanks=self.kind == "bpe") if self._cuttable else [longtext.Piece(text)]:
                if group and (piece.whole or size + len(piece.text) > GROUP_CHARACTERS):
                    yield self._encoder, numbers, group
                    numbers, group, size = [], [], 0
                if piece.whole:
                    yield self._whole_encoder, [number], [piece.text]
                    continue
                numbers.append(number)
                group.append(piece.text)
                size += len(piece.text)
        if group:
            yield self._encoder, numbers, group


def refused(error: BaseException, texts: Sequence[str], names: Sequence[str]) -> BaseException:
    """Our error for what the library raised on one of these texts."""
    for text, name in zip(texts, names, strict=True):
        try:
            utf8_bytes(text, where=name)
        except TokenizerError as surrogate:
            return surrogate
    if type(error).__name__ == "PanicException":  # derives from BaseException and has no public name
        longest = max(range(len(texts)), key=lambda number: len(texts[number]))
        return TokenizerError("tokenization.gave_up", where=names[longest], reason=str(error))
    return error


@functools.cache
def _byte_of_letter() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 letters are their own byte, the rest follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
