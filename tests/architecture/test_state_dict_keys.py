"""The names of the weights are frozen: tables, checkpoints and other people's code rely on them."""

from __future__ import annotations

from dataclasses import replace

from test_frozen_interface import compare

from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.models.transformer import Transformer, on_meta

# What has parameters of its own: each position, norm, stack and head.
KINDS = ["gpt2", "qwen2", "qwen3", "gemma3_text", "bert", "albert", "t5", "bart", "whisper"]


def test_state_dict_keys_are_those_of_the_file() -> None:
    lines = []
    for kind in KINDS:
        settings = ModelSettings(kind=kind, hidden_size=8, num_heads=2, num_layers=1)
        model = build_model(settings, vocab_size=10, end_id=0, sequence_length=8)
        assert isinstance(model, Transformer)
        heads = model.config.heads | ({"pooler", "pair", "sequence", "span"} if kind == "bert" else set())
        model = on_meta(replace(model.config, heads=heads, labels=("a",)))
        lines += [f"{kind} {name}" for name in sorted(model.state_dict())]
    compare("state_dict_keys.txt", lines)
