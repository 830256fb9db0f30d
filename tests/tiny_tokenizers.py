"""One small tokenizer of every kind, trained once a test session on a few sentences."""

from __future__ import annotations

import functools
from typing import get_args

from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.processors import TemplateProcessing

from wenlu.tokenization.hf import Files
from wenlu.tokenization.kinds import END_TOKEN, PAD_TOKEN
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerKind, TokenizerSettings

KINDS: tuple[TokenizerKind, ...] = get_args(TokenizerKind)

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "A model reads text as numbers; the tokenizer decides which numbers.",
    "Don't stop: reading 12 books (or 345) isn't hard!",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？",
    "文炉是一个语言模型工作台，用中文和英文训练模型。",
    "我们用 Python 3 训练模型，模型读文本。😀 很好 👍🏽！",
    "Mixed 中文 and English 文字 in one line.\n\tA new line, with a tab.",
)


def corpus() -> list[str]:
    """The sentences, each often enough to be learnt."""
    return [f"{sentence}\n{SENTENCES[(number + 1) % len(SENTENCES)]}" for number, sentence in enumerate(SENTENCES)] * 4


@functools.cache
def tiny(kind: TokenizerKind, settings: TokenizerSettings | None = None) -> Tokenizer:
    """The tokenizer of a kind; with ``settings``, trained with them instead of 420 tokens."""
    return Tokenizer.train(corpus(), settings or TokenizerSettings(kind=kind, vocab_size=420))


def tiny_with_start(*, written: bool) -> Tokenizer:
    """Byte-level, with a start token ``<s>`` that is put before texts, as Llama's is, or (not ``written``) is not."""
    library = LibraryTokenizer.from_str(tiny("bpe").serialized)
    library.add_special_tokens(["<s>"])
    special = [("<s>", library.token_to_id("<s>"))]
    if written:
        library.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B:1", special_tokens=special)
    return Tokenizer(Files(library, END_TOKEN, PAD_TOKEN, None, {"bos_token": "<s>"}))
