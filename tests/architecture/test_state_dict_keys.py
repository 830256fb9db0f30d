"""The names of the weights are frozen: tables, checkpoints and other people's code rely on them."""

from __future__ import annotations

from pathlib import Path

from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings

FROZEN = Path(__file__).with_name("state_dict_keys.txt")
SETTINGS = [
    ModelSettings(kind="gpt2", hidden_size=8, num_heads=2, num_layers=1),
    ModelSettings(kind="qwen2", hidden_size=8, num_heads=2, num_layers=1),
    ModelSettings(kind="qwen3", hidden_size=8, num_heads=2, num_layers=1),
]


def test_state_dict_keys_are_those_of_the_file() -> None:
    lines = []
    for settings in SETTINGS:
        model = build_model(settings, vocab_size=10, end_id=0, sequence_length=8)
        lines += [f"{settings.kind} {name}" for name in sorted(model.state_dict())]
    assert lines == FROZEN.read_text(encoding="utf-8").splitlines()
