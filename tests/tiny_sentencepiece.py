"""Small SentencePiece models, trained by their own package on this project's guides in English and Chinese."""

from __future__ import annotations

import functools
import io
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"

# How the models of these families were trained, as far as it matters.
SETTINGS: dict[str, dict[str, object]] = {
    "t5": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "xlmroberta": {"model_type": "unigram"},
    "albert": {
        "model_type": "unigram", "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1,
        "control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]"],
    },
    "llama": {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "split_digits": True, "allow_whitespace_only_pieces": True,
    },
    "gemma": {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "user_defined_symbols": ["<b>", "\n\n"],
        "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3,
    },
    "source": {"model_type": "unigram"},
    "target": {"model_type": "unigram"},
}  # fmt: skip


@functools.cache
def lines(language: str) -> list[str]:
    """The lines of the guides in ``en`` or ``zh``."""
    return [line for path in sorted((DOCS / language).glob("*.md")) for line in path.read_text("utf-8").splitlines()]


@functools.cache
def is_tied(family: str, text: str) -> bool:
    """Whether several segmentations are best, up to float32: which one is taken is nobody's promise. BPE has none."""
    import sentencepiece

    if SETTINGS[family]["model_type"] != "unigram":
        return False
    processor = sentencepiece.SentencePieceProcessor(model_proto=model(family))
    scores = [one.score for one in processor.nbest_encode(text, nbest_size=2, return_type="proto").nbests]
    return len(scores) == 2 and scores[0] - scores[1] < 1e-3


@functools.cache
def model(family: str) -> bytes:
    """The serialized model of a family."""
    import sentencepiece

    languages = {"source": ["zh"], "target": ["en"]}.get(family, ["en", "zh"])
    text = [line for language in languages for line in lines(language)[:250] if line]
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=buffer,
        vocab_size=2200 if family in ("source", "target") else 2600,
        character_coverage=0.995,
        num_threads=1,
        hard_vocab_limit=False,
        minloglevel=2,
        **SETTINGS[family],
    )
    return buffer.getvalue()
