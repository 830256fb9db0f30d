"""The five kinds of tokenizer: how each cuts a text, what it learns, and how ids become text again.

    bpe         byte-level byte-pair encoding; every text comes back exactly; llama.cpp calls the pattern qwen2
    wordpiece   BERT's: words and ``##`` continuations, every Chinese character on its own; spaces are not kept exactly
    unigram     SentencePiece's: the likeliest segmentation under a unigram model; a space is written as U+2581
    words       whole words with the space before them, single Chinese characters, single marks
    characters  single code points

All but bpe know only what they saw in training; everything else is ``[UNK]``. In every kind a mark of punctuation is
never in one piece with letters, so that no special token such as ``<|endoftext|>`` can arise from a text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TokenizerKind = Literal["bpe", "wordpiece", "unigram", "words", "characters"]

END_TOKEN = "<|endoftext|>"
PAD_TOKEN = "<|pad|>"
UNKNOWN_TOKEN = "[UNK]"
MASK_TOKEN = "[MASK]"

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORD_PATTERN = r" ?\p{Han}| ?[\p{L}\p{M}&&[^\p{Han}]]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]|\s"
CHARACTER_PATTERN = r"[\s\S]"
MARK_PATTERN = r"[^ \p{L}\p{M}\p{N}]"
"""What stands alone before Unigram sees the text: punctuation, symbols, line ends."""

TIGHT_SPACE_PATTERN = r"(?<=[\p{Han}，。、；：？！…“”‘’（）《》「」]) | (?=[\p{Han}，。、；：？！…“”‘’（）《》「」])"
"""The spaces that joining WordPiece tokens puts around Chinese and that nobody writes."""

BYTE_ALPHABET_SIZE = 256
UNIGRAM_SEEDS_PER_TOKEN = 10
"""Candidates that Unigram begins with; the library's million takes twice the time for 0.2 % fewer tokens at 8192."""
LONGEST_WORD = 100
"""WordPiece takes a longer word for unknown, as BERT does."""


@dataclass(frozen=True)
class TokenizerSettings:
    """What kind of tokenizer to train, and how large: the ``[tokenizer]`` table of a run."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: TokenizerKind = "bpe"
    vocab_size: int = 8192
    """Upper bound of the vocabulary, special tokens included."""
    min_frequency: int = 2
    """How often a pair, word or character must occur to be learnt; Unigram does not read it."""
    normalization: Literal["none", "nfc", "nfkc"] = "none"
    lowercase: bool = False
    special_tokens: tuple[str, ...] = ()
    """Further special tokens, after ``<|endoftext|>``, ``<|pad|>`` and, except for bpe, ``[UNK]``."""
    max_training_bytes: int = 32 * 1024**2
    """More text than this is thinned out evenly; training needs up to 65 bytes of memory a byte of Chinese text."""

    @property
    def all_special_tokens(self) -> tuple[str, ...]:
        """Special tokens in the order of their ids, from 0."""
        unknown = () if self.kind == "bpe" else (UNKNOWN_TOKEN,)
        return tuple(dict.fromkeys((END_TOKEN, PAD_TOKEN, *unknown, *self.special_tokens)))


@dataclass(frozen=True)
class Alphabet:
    """The characters that WordPiece and Unigram know, and those that also stand inside a word; sorted."""

    all: Sequence[str] = ()
    inner: Sequence[str] = ()


def untrained(settings: TokenizerSettings) -> Tokenizer:
    """The pipeline of a kind with an empty vocabulary."""
    model, pre_tokenizer, decoder = _parts(settings.kind)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    steps = _normalizers(settings)
    if steps:
        tokenizer.normalizer = steps[0] if len(steps) == 1 else normalizers.Sequence(steps)
    return tokenizer


def byte_level(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Cuts a text by a pattern, and makes letters of its bytes."""
    by_byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), by_byte])


def trainer(settings: TokenizerSettings, alphabet: Alphabet) -> trainers.Trainer:
    """The library's trainer for a kind; WordPiece's and Unigram's texts hold no character outside the alphabet."""
    special_tokens = _special_tokens(settings)
    common: dict[str, Any] = {"vocab_size": settings.vocab_size, "show_progress": False}
    if settings.kind == "unigram":
        seeds = min(1_000_000, UNIGRAM_SEEDS_PER_TOKEN * settings.vocab_size)
        common |= {"special_tokens": special_tokens, "unk_token": UNKNOWN_TOKEN, "seed_size": seeds}
        return trainers.UnigramTrainer(**common)
    common |= {"special_tokens": special_tokens, "min_frequency": settings.min_frequency}
    if settings.kind == "bpe":
        return trainers.BpeTrainer(**common, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    if settings.kind == "wordpiece":
        # Left to itself the trainer numbers the ## letters in the order of a hash table, which differs every time.
        special_tokens += [f"##{letter}" for letter in alphabet.inner]
        common |= {"initial_alphabet": list(alphabet.all), "continuing_subword_prefix": "##"}
        return trainers.WordPieceTrainer(**common)
    return trainers.WordLevelTrainer(**common)


def finished(trained: Tokenizer, settings: TokenizerSettings) -> Tokenizer:
    """What the trainer left, with the special tokens that were asked for and scores that survive being written."""
    if settings.kind not in ("wordpiece", "unigram"):
        return trained
    tokenizer = untrained(settings)
    if settings.kind == "wordpiece":
        vocab = trained.get_vocab(with_added_tokens=True)
        tokenizer.model = models.WordPiece(vocab, unk_token=UNKNOWN_TOKEN, max_input_chars_per_word=LONGEST_WORD)
    else:
        pieces = json.loads(trained.to_str())["model"]["vocab"]
        scores = [(str(piece), round(float(score), 6)) for piece, score in pieces]
        unknown = [piece for piece, _ in scores].index(UNKNOWN_TOKEN)
        tokenizer.model = models.Unigram(scores, unk_id=unknown, byte_fallback=False)
    tokenizer.add_special_tokens(_special_tokens(settings))
    return tokenizer


def _special_tokens(settings: TokenizerSettings) -> list[str | AddedToken]:
    """The special tokens; where a token holds the space before it, so does what hides one (as RoBERTa's mask does)."""
    spaced = settings.kind in ("bpe", "unigram", "words")
    hiding = AddedToken(MASK_TOKEN, lstrip=True, normalized=False, special=True)
    return [hiding if spaced and token == MASK_TOKEN else token for token in settings.all_special_tokens]


def smallest_vocabulary(settings: TokenizerSettings) -> int:
    """The least ``vocab_size`` that these settings can honour."""
    return len(settings.all_special_tokens) + (BYTE_ALPHABET_SIZE if settings.kind == "bpe" else 1)


def _parts(kind: TokenizerKind) -> tuple[models.Model, pre_tokenizers.PreTokenizer, decoders.Decoder]:
    """The model of a kind without its vocabulary, what cuts a text for it, and what joins its tokens."""
    if kind == "bpe":
        return models.BPE(), byte_level(QWEN2_PATTERN), decoders.ByteLevel()
    if kind == "wordpiece":
        model = models.WordPiece(unk_token=UNKNOWN_TOKEN, max_input_chars_per_word=LONGEST_WORD)
        joined = [decoders.WordPiece(prefix="##", cleanup=True), decoders.Fuse()]
        tight = decoders.Replace(Regex(TIGHT_SPACE_PATTERN), "")
        return model, pre_tokenizers.BertPreTokenizer(), decoders.Sequence([*joined, tight])
    if kind == "unigram":
        marks = pre_tokenizers.Split(Regex(MARK_PATTERN), "isolated")
        pre_tokenizer = pre_tokenizers.Sequence([marks, pre_tokenizers.Metaspace(prepend_scheme="never")])
        return models.Unigram(), pre_tokenizer, decoders.Metaspace(prepend_scheme="never")
    pattern = WORD_PATTERN if kind == "words" else CHARACTER_PATTERN
    pieces = pre_tokenizers.Split(Regex(pattern), "isolated")
    return models.WordLevel(unk_token=UNKNOWN_TOKEN), pieces, decoders.Fuse()


def _normalizers(settings: TokenizerSettings) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if settings.normalization != "none":
        steps.append(normalizers.NFC() if settings.normalization == "nfc" else normalizers.NFKC())
    if settings.kind == "wordpiece":
        flags = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": False}
        steps.append(normalizers.BertNormalizer(**flags, lowercase=settings.lowercase))
    elif settings.lowercase:
        steps.append(normalizers.Lowercase())
    return steps
