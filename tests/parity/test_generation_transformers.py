"""Samplers and the settings file against Hugging Face transformers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import transformers
from transformers.generation import logits_process

from wenlu.core.errors import CheckpointError
from wenlu.generation import settings as settings_file
from wenlu.generation.sampling import (
    filtered,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
)
from wenlu.generation.settings import GenerationSettings
from wenlu.models.build import build_model
from wenlu.models.checkpoint import save_model
from wenlu.models.config import ModelSettings
from whole_sequences import generate

LOGITS = 3 * torch.randn(16, 500, generator=torch.Generator().manual_seed(0))
INPUT_IDS = torch.randint(0, 500, (16, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("penalty", [0.8, 1.3, 5.0])
def test_repetition_penalty(penalty: float) -> None:
    seen = torch.zeros(16, 500, dtype=torch.bool).scatter(1, INPUT_IDS, True)
    theirs = logits_process.RepetitionPenaltyLogitsProcessor(penalty)(INPUT_IDS, LOGITS.clone())
    assert torch.equal(penalize_repetition(LOGITS, seen, penalty=penalty), theirs)


@pytest.mark.parametrize("k", [1, 7, 499, 600])
def test_top_k(k: int) -> None:
    assert torch.equal(keep_top_k(LOGITS, k), logits_process.TopKLogitsWarper(k)(INPUT_IDS, LOGITS))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_top_p(p: float) -> None:
    assert torch.equal(keep_top_p(LOGITS, p), logits_process.TopPLogitsWarper(p)(INPUT_IDS, LOGITS))


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 1.0])
def test_min_p(p: float) -> None:
    assert torch.equal(keep_min_p(LOGITS, p), logits_process.MinPLogitsWarper(p)(INPUT_IDS, LOGITS))


def test_all_filters_in_their_order() -> None:
    ours = filtered(LOGITS, GenerationSettings(temperature=1.7, top_k=60, top_p=0.9, min_p=0.02))
    theirs = LOGITS
    for warper in (
        logits_process.TemperatureLogitsWarper(1.7),
        logits_process.TopKLogitsWarper(60),
        logits_process.TopPLogitsWarper(0.9),
        logits_process.MinPLogitsWarper(0.02),
    ):
        theirs = warper(INPUT_IDS, theirs)
    assert torch.equal(ours, theirs)


SETTINGS = [
    GenerationSettings(),
    GenerationSettings(do_sample=False, max_new_tokens=7),
    GenerationSettings(
        max_length=300,
        min_new_tokens=3,
        temperature=0.7,
        top_k=40,
        top_p=0.8,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        num_sequences=2,
        stop=("\n", "停"),
        seed=9,
        overlong="cut",
        end_token_ids=(4, 5),
    ),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_survive_the_file(settings: GenerationSettings, tmp_path: Path) -> None:
    settings_file.save(settings, tmp_path, end_id=3, pad_id=1)
    loaded = settings_file.load(tmp_path)
    if not settings.end_token_ids:
        assert loaded.end_token_ids == (3,)
        loaded = loaded.replace(end_token_ids=())
    assert loaded == settings


@pytest.mark.parametrize("settings", SETTINGS)
def test_transformers_reads_the_file(settings: GenerationSettings, tmp_path: Path) -> None:
    settings_file.save(settings, tmp_path, end_id=3, pad_id=1)
    theirs = transformers.GenerationConfig.from_pretrained(str(tmp_path))
    theirs.validate(strict=True)
    assert theirs.do_sample == settings.do_sample
    assert theirs.pad_token_id == 1
    assert theirs.eos_token_id == (list(settings.end_token_ids) or 3)
    for ours, name in settings_file.HF_NAMES.items():
        if ours in ("end_token_ids", "stop") or (not settings.do_sample and ours in settings_file.SAMPLING_FIELDS):
            continue
        assert getattr(theirs, name) == getattr(settings, ours), name
    assert (theirs.stop_strings or []) == list(settings.stop)


def test_their_file_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = transformers.GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=[7, 8], bos_token_id=1, max_new_tokens=20
    )
    theirs.save_pretrained(str(tmp_path))
    with caplog.at_level(logging.WARNING, logger="wenlu"):
        loaded = settings_file.load(tmp_path)
    assert loaded == GenerationSettings(temperature=0.6, top_p=0.9, end_token_ids=(7, 8), max_new_tokens=20)
    assert not caplog.records


def test_what_we_do_not_do_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = {"num_beams": 4, "no_repeat_ngram_size": 3, "length_penalty": 1.0, "use_cache": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(record), encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="wenlu"):
        assert settings_file.load(tmp_path) == GenerationSettings()
    [warning] = caplog.records
    assert "no_repeat_ngram_size, num_beams" in str(warning.msg)


@pytest.mark.parametrize("content", ["{", "[]", '{"temperature": "hot"}', '{"top_k": 1.5}', '{"do_sample": 1}'])
def test_a_bad_file_is_refused_with_its_path(content: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        settings_file.load(tmp_path)


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    assert settings_file.load(tmp_path) == GenerationSettings()


def test_greedy_and_penalized_texts_equal_theirs(tmp_path: Path) -> None:
    """The whole engine against ``generate`` on a saved model; theirs is given our start token as part of the prompt."""
    settings = ModelSettings(kind="gpt2", num_layers=2, hidden_size=16, num_heads=2)
    model = build_model(settings, vocab_size=40, end_id=0, sequence_length=64)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    save_model(model, tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(str(tmp_path)).eval()
    prompt = [5, 9, 9, 31]
    for penalty in (1.0, 1.5):
        ours = GenerationSettings(do_sample=False, max_new_tokens=40, min_new_tokens=40, repetition_penalty=penalty)
        [sequence] = generate(model, prompt, ours, start_id=0)
        expected = theirs.generate(
            torch.tensor([[0, *prompt]]),
            attention_mask=torch.ones(1, 5, dtype=torch.long),
            do_sample=False,
            max_new_tokens=40,
            min_new_tokens=40,
            repetition_penalty=penalty,
            pad_token_id=0,
            eos_token_id=0,
        )
        assert sequence.ids == expected[0, 5:].tolist()
