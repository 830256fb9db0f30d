"""Every preset that comes with Wenlu makes a run; those of published sizes have the published numbers of parameters."""

from __future__ import annotations

import pytest
import torch

from wenlu.core.settings import load, presets
from wenlu.models.build import build_model
from wenlu.tasks._base import CorpusObjective
from wenlu.tasks._heads import with_heads
from wenlu.training.resolution import resolve_settings
from wenlu.training.settings import RunSettings

PUBLISHED = {  # parameters of the files of these models, without what is computed
    "bert-base": 110_106_428,  # with the heads of masked tokens and of pairs
    "roberta-base": 124_697_433,
    "t5-small": 76_961_152,  # google/t5-v1_1-small
    "t5-base": 247_577_856,
    "bart-base": 139_420_416 + 50_265,  # with the bias of the logits, which is no parameter there
    "gpt2-small": 124_439_808,
}
MADE_BY_STEPS = [name for name in presets() if not name.startswith("ngram")]


@pytest.mark.parametrize("name", MADE_BY_STEPS)
def test_a_preset_makes_a_model(name: str) -> None:
    resolved, task = resolve_settings(load(RunSettings, preset=name))
    settings = resolved.value
    sizes = {"end_id": 0, "sequence_length": settings.train.sequence_length}
    with torch.device("meta"):
        model = build_model(settings.model, vocab_size=settings.tokenizer.vocab_size, **sizes)
    if settings.task.name == "next_sentence":
        model = with_heads(model, {"pooler", "pair"}, seed=0)
    if name in PUBLISHED:
        assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
    if isinstance(task, CorpusObjective):
        assert set(task.special_tokens()) <= set(settings.tokenizer.special_tokens)


def test_the_published_sizes_are_there() -> None:
    assert set(presets()) >= PUBLISHED.keys()
