"""Our GGUF exports in llama.cpp itself: the same ids of a text, the same logits, the same greedy continuation.

llama.cpp computes in float32 from an F32 file, hence 1e-5; its GELU is a table of float16 (GPT-2: 1e-3), and for the
smaller types it rounds what it multiplies to the type as well.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from gguf_models import gguf_file, sentencepiece_directory
from llama_cpp import ask, needs_llama_cpp
from tiny_sentencepiece import lines
from wenlu.bundle import load_bundle, save_bundle
from wenlu.gguf_export import GGUFType, export_gguf
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings

TEXT = "我们用 Python 3 训练模型；don't stop: reading 12 books, 学而时习之，不亦说乎？ The  end.\n\n\t—"
TOLERANCE = {"gpt2": 1e-3}
ROUNDED = {"f16": 2e-3, "bf16": 2e-2, "q8_0": 5e-2}

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def program() -> Path:
    return needs_llama_cpp()


def logits_behind(path: Path, text: str) -> torch.Tensor:
    """Ours, of the last position."""
    bundle = load_bundle(path)
    with torch.no_grad():
        return bundle.language_model(torch.tensor([bundle.tokenizer.encode(text)]))[0, -1]


def trained(path: Path, kind: str) -> None:
    """Write a model directory, trained for a moment on this project's guides in both languages."""
    texts = [line for language in ("en", "zh") for line in lines(language)[:400]]
    tokenizer = Tokenizer.train(texts, TokenizerSettings(vocab_size=1200))
    settings = ModelSettings(kind=kind, num_layers=2, hidden_size=96, num_heads=4)
    size = tokenizer.vocab_size
    model = build_model(settings, vocab_size=size, end_id=tokenizer.end_id, sequence_length=256)
    ids, draw = torch.tensor(tokenizer.encode("\n".join(texts))), torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        starts = torch.randint(0, len(ids) - 65, (8,), generator=draw).tolist()
        rows = torch.stack([ids[start : start + 65] for start in starts])
        loss = cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.75 * math.log(size)
    path.mkdir()
    save_bundle(path, model=model, tokenizer=tokenizer)


@pytest.mark.parametrize(
    "kind", ["gpt2", "llama tied", "llama biases", "llama 3", "llama linear", "mistral", "qwen2", "qwen3"]
)
def test_logits_of_random_models(kind: str, program: Path, tmp_path: Path) -> None:
    path, _ = gguf_file(tmp_path, kind)
    answer, expected = ask(program, path, TEXT * 3, num_tokens=1), logits_behind(path, TEXT * 3)
    error = (torch.tensor(answer.logits) - expected).abs().max() / expected.abs().max()
    assert answer.prompt == Tokenizer.load(path).encode(TEXT * 3) and len(answer.prompt) > 64  # beyond Llama 3's
    assert error <= TOLERANCE.get(kind, 1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_sentencepiece_cuts_the_guides_into_the_same_ids(family: str, program: Path, tmp_path: Path) -> None:
    tokenizer, target = sentencepiece_directory(tmp_path, family), tmp_path / "model.gguf"
    export_gguf(tmp_path / "model", target, type="f32")
    for text in (TEXT, " x", "😀\n\n<b>", "\n".join(lines("en")[:200]), "\n".join(lines("zh")[:200])):
        assert ask(program, target, text, num_tokens=0).prompt == tokenizer.encode(text)


@pytest.mark.parametrize("type", ROUNDED)
def test_smaller_types_are_read(type: GGUFType, program: Path, tmp_path: Path) -> None:
    path, _ = gguf_file(tmp_path, "llama", type)
    expected = logits_behind(path, TEXT)
    error = (torch.tensor(ask(program, path, TEXT, num_tokens=1).logits) - expected).abs().max() / expected.abs().max()
    assert error <= ROUNDED[type]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_a_trained_model_continues_alike(kind: str, program: Path, tmp_path: Path) -> None:
    """The guides are cut into the same ids, and each greedy token is ours (GPT-2's up to its GELU)."""
    trained(tmp_path / "model", kind)
    target = tmp_path / "model.gguf"
    export_gguf(tmp_path / "model", target, type="f32")
    bundle = load_bundle(target)
    whole = "\n".join(line for language in ("en", "zh") for line in lines(language)[:200])
    assert ask(program, target, whole, num_tokens=0).prompt == bundle.tokenizer.encode(whole)
    for prompt in ("The model", "训练模型时", "Every number"):
        answer = ask(program, target, prompt, num_tokens=48)
        row = torch.tensor([answer.prompt + answer.tokens])
        with torch.no_grad():
            logits = bundle.language_model(row)[0, len(answer.prompt) - 1 : -1]
        lost = logits.max(dim=1).values - logits.gather(1, row[0, len(answer.prompt) :, None])[:, 0]
        assert len(answer.tokens) == 48 and lost.max() <= TOLERANCE.get(kind, 0.0) * logits.abs().max()
