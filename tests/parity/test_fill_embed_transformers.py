"""Guesses for masks and vectors of texts against transformers, on small random encoders and on MiniLM.

All is float32, so the tolerance is that of every family: 1e-5 of the largest value.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from skips import needs_model
from tiny_tokenizers import corpus, tiny
from wenlu.bundle import Bundle, load_bundle, save_bundle
from wenlu.exchange import export_hf
from wenlu.generation.embedding import EmbeddingSettings, Pooling, embed, read_settings
from wenlu.generation.fill import fill
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tokenization.kinds import TokenizerKind, TokenizerSettings

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TOLERANCE = 1e-5
SPECIAL = ("[MASK]", "[CLS]", "[SEP]")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
MASKED = (
    "The quick brown [MASK] jumps over the lazy dog.",
    "[MASK] model reads [MASK] as numbers",
    "文炉是一个[MASK]模型工作台，用中文和[MASK]训练模型。",
    "reading 12 books[MASK](or 345)  [MASK]  isn't",
    "[MASK]",
)
TEXTS = (
    "The quick brown fox",
    "a",
    "文炉是一个语言模型工作台",
    "",
    "A model reads text as numbers; " * 6,
    "Mixed 中文",
)


def randomize(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


def make_bert(folder: Path) -> None:
    """BERT's files as they are published: vocab.txt and nothing that names a special token."""
    learned = tokenizers.BertWordPieceTokenizer(lowercase=True)
    learned.train_from_iterator(corpus(), vocab_size=300, min_frequency=1)
    learned.save_model(str(folder))
    config = transformers.BertConfig(vocab_size=learned.get_vocab_size(), **SIZES)
    save(transformers.BertForMaskedLM(config), folder)


def make_roberta(folder: Path) -> None:
    """RoBERTa's: a tokenizer.json whose mask takes in the blanks before it."""
    learned = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learned.train_from_iterator(corpus(), vocab_size=420, min_frequency=2, special_tokens=special)
    learned.save_model(str(folder))
    mask = tokenizers.AddedToken("<mask>", lstrip=True, special=True)
    transformers.RobertaTokenizer.from_pretrained(str(folder), mask_token=mask).save_pretrained(str(folder))
    config = transformers.RobertaConfig(vocab_size=learned.get_vocab_size(), max_position_embeddings=200, **SIZES)
    save(transformers.RobertaForMaskedLM(config), folder)


def save(model: transformers.PreTrainedModel, folder: Path) -> None:
    randomize(model)
    model.save_pretrained(folder)


def make_ours(kind: str, words: TokenizerKind) -> Callable[[Path], None]:
    """A tokenizer and a model made here, as a run makes them, and exported."""

    def make(folder: Path) -> None:
        tokenizer = tiny(words, TokenizerSettings(kind=words, vocab_size=420, special_tokens=SPECIAL))
        settings = ModelSettings(kind=kind, num_layers=2, hidden_size=32, num_heads=4)
        sizes = {"vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id, "sequence_length": 200}
        model = build_model(settings, **sizes)
        randomize(model)
        (folder / "ours").mkdir()
        save_bundle(folder / "ours", model=model, tokenizer=tokenizer)
        export_hf(folder / "ours", folder / "hf")

    return make


MAKERS: dict[str, Callable[[Path], None]] = {
    "bert": make_bert,
    "roberta": make_roberta,
    "our WordPiece": make_ours("bert", "wordpiece"),
    "our BPE": make_ours("roberta", "bpe"),
    "our Unigram": make_ours("distilbert", "unigram"),
}


@pytest.fixture(params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    MAKERS[request.param](tmp_path)
    return tmp_path / "hf" if (tmp_path / "hf").is_dir() else tmp_path


def reference_embeddings(path: Path, texts: list[str], pooling: Pooling, *, normalize: bool = True) -> np.ndarray:
    """By the formula, one text after the other, so that there is no padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    model = transformers.AutoModel.from_pretrained(str(path)).eval()
    rows = []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        row = states.mean(dim=0) if pooling == "mean" else states[0]
        rows.append((row / row.norm() if normalize else row).numpy())
    return np.stack(rows)


def test_guesses_equal_the_reference(folder: Path) -> None:
    bundle = load_bundle(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    model = transformers.AutoModelForMaskedLM.from_pretrained(str(folder)).eval()
    assert bundle.task == "masked_lm"
    filled = fill(bundle.model, bundle.tokenizer, MASKED, top=7)
    for text, found in zip(MASKED, filled, strict=True):
        batch = tokenizer(text.replace("[MASK]", tokenizer.mask_token), return_tensors="pt")
        with torch.no_grad():
            logits = model(**batch).logits[batch["input_ids"] == tokenizer.mask_token_id]
        values, indices = logits.softmax(dim=-1).topk(7, dim=-1)
        assert [[guess.id for guess in mask.guesses] for mask in found.masks] == indices.tolist(), text
        probabilities = torch.tensor([[guess.probability for guess in mask.guesses] for mask in found.masks])
        assert ((probabilities - values).abs().max() / values.max()).item() <= TOLERANCE
        assert all(text[mask.start : mask.end].strip() == "[MASK]" for mask in found.masks)
        own = fill(bundle.model, bundle.tokenizer, [text.replace("[MASK]", tokenizer.mask_token)], top=7)
        assert [mask.guesses[0].id for mask in own[0].masks] == [mask.guesses[0].id for mask in found.masks]


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_vectors_equal_the_reference(folder: Path, pooling: Pooling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wenlu.generation.batches.TOKENS_PER_BATCH_ON_CPU", 90)  # several batches, some padded
    bundle = load_bundle(folder)
    for normalize in (True, False):
        expected = reference_embeddings(folder, list(TEXTS), pooling, normalize=normalize)
        settings = EmbeddingSettings(pooling, normalize)
        found = embed(bundle.model, bundle.tokenizer, TEXTS, settings).vectors
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_the_encoder_of_an_encoder_decoder_embeds(tmp_path: Path) -> None:
    tokenizer = tiny("bpe")
    config = transformers.T5Config(vocab_size=tokenizer.vocab_size, d_model=32, d_kv=8, d_ff=48, num_layers=2)
    model = transformers.T5ForConditionalGeneration(config).eval()
    save(model, tmp_path)
    tokenizer.save(tmp_path)
    bundle = load_bundle(tmp_path)
    texts = ["The quick brown fox", "a"]
    found = embed(bundle.model, bundle.tokenizer, texts, EmbeddingSettings(normalize=False)).vectors
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            expected = model.encoder(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0].mean(dim=0).numpy()
        assert np.abs(vector - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_minilm_makes_the_vectors_of_transformers() -> None:
    bundle: Bundle = load_bundle(needs_model("minilm"))
    settings = read_settings(bundle.path)
    assert settings == EmbeddingSettings("mean", True, 256)  # what sentence-transformers wrote into its folder
    texts = [*TEXTS, "Berlin is the capital of Germany.", "What is Germany's capital?", "Birds sing in spring."]
    expected = reference_embeddings(bundle.path, texts, "mean")
    found = embed(bundle.model, bundle.tokenizer, texts, settings).vectors
    assert np.abs(found - expected).max() <= TOLERANCE
    question, answer, other = found[-2], found[-3], found[-1]
    assert question @ answer > 0.7 > 0.3 > question @ other
