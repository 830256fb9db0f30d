"""The choices of a stack and the [model] table: contradictions are refused, and no setting goes unread."""

from __future__ import annotations

import json
import math
import time
from dataclasses import fields
from pathlib import Path

import pytest

from wenlu.core import plugins
from wenlu.core.errors import CheckpointError, SettingsError
from wenlu.models.build import FAMILIES, build_model, family
from wenlu.models.checkpoint import load_model, save_model
from wenlu.models.config import ModelSettings, RopeScaling, StackConfig
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.transformer import Transformer

STACK = {"hidden_size": 24, "num_layers": 1, "num_heads": 4, "intermediate_size": 8, "max_positions": 8}
SCALING = {"factor": 8.0, "original_max_positions": 8}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("changes", "id", "named"),
    [
        ({"num_layers": 0}, "models.size", ["num_layers", "0"]),
        ({"num_kv_heads": 0}, "models.size", ["num_kv_heads", "0"]),
        ({"num_segments": -1}, "models.size", ["num_segments", "-1"]),
        ({"max_positions": 10**10}, "models.size", ["max_positions", "10000000000", "268435456"]),
        ({"num_layers": 10**5}, "models.size", ["num_layers", "100000", "10000"]),
        ({"num_heads": 2**20, "head_dim": 2**20}, "models.size", ["num_heads * head_dim", "1099511627776"]),
        ({"residual_dropout": 1.0}, "models.dropout_range", ["residual_dropout", "1.0"]),
        ({"num_heads": 5}, "models.heads_split", ["hidden_size", "24", "num_heads", "5"]),
        ({"num_kv_heads": 3}, "models.kv_heads_split", ["num_heads", "4", "num_kv_heads", "3"]),
        ({"rope_theta": 5e5}, "models.choice_unused", ["rope_theta", "500000.0", "position", "learned"]),
        ({"position": "rotary", "head_dim": 5}, "models.rope_odd_head", ["head_dim", "5", "position", "rotary"]),
    ],
)
def test_contradictions_name_both_settings(
    changes: dict[str, object], id: str, named: list[str], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENLU_LANG", language)
    with pytest.raises(SettingsError) as refused:
        StackConfig(**STACK | changes)
    assert refused.value.id == id
    assert all(word in str(refused.value) for word in named)


def test_scaling_is_checked() -> None:
    scaling = RopeScaling(low_frequency_factor=1.0, high_frequency_factor=4.0, **SCALING)
    with pytest.raises(SettingsError, match="rope_scaling") as refused:
        StackConfig(**STACK, rope_scaling=scaling)
    assert refused.value.id == "models.choice_unused"
    with pytest.raises(SettingsError, match="4") as refused:
        RopeScaling(low_frequency_factor=4.0, high_frequency_factor=4.0, **SCALING)
    assert refused.value.id == "models.rope_scaling_order"


KINDS = [kind for kind in plugins.names(FAMILIES) if isinstance(family(kind), TransformerFamily)]
OTHER = {
    "num_layers": 3, "hidden_size": 32, "num_heads": 8, "num_kv_heads": 2, "head_dim": 14, "intermediate_size": 40,
    "max_positions": 9, "rope_theta": 77.0, "tie_embeddings": None, "dropout": 0.3, "initialization": None,
    "embedding_size": 12, "order": 3,
}  # fmt: skip
NO_SIZES = {"kind", "start"}  # which model it is, or where it comes from
LIKE_LLAMA = {"gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"}
SMALL = {"hidden_size": 16, "num_heads": 4, "num_layers": 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [field.name for field in fields(ModelSettings) if field.name not in NO_SIZES])
def test_every_setting_is_read_or_refused(kind: str, name: str) -> None:
    def build(**values: object) -> Transformer:
        settings = ModelSettings(kind=kind, **SMALL | values)
        model = build_model(settings, vocab_size=50, end_id=0, sequence_length=20, seed=3)
        assert isinstance(model, Transformer)
        return model

    plain = build()
    if name == "initialization":
        value: object = "gpt2" if family(kind).scheme == "wenlu" else "wenlu"
        changes = {name: value, "tie_embeddings": False}
        before, after = build(tie_embeddings=False).state_dict(), build(**changes).state_dict()
        matrix = f"{'encoder' if plain.decoder is None else 'decoder'}.layers.0.self_attention.o.weight"
        assert before[matrix].std() != after[matrix].std()
        return
    value = not plain.config.tie_embeddings if name == "tie_embeddings" else OTHER[name]
    try:
        changed = build(**{name: value})
    except SettingsError as refused:
        assert refused.id == "models.setting_unused"
        assert name in str(refused)
        assert str(value) in str(refused)
        assert kind in str(refused)
        return
    assert changed.config != plain.config


@pytest.mark.parametrize("kind", KINDS)
def test_defaults(kind: str) -> None:
    model = build_model(ModelSettings(kind=kind), vocab_size=50, end_id=7, sequence_length=20)
    assert isinstance(model, Transformer)
    assert model.vocab_size == 50
    assert model.max_positions == 20
    assert model.config.end_token_id == model.config.start_token_id == 7
    assert {stack.hidden_size for stack in model.config.stacks} == {192}
    assert {stack.num_layers for stack in model.config.stacks} == {4}


@pytest.mark.parametrize("kind", [*KINDS, "lstm"])
def test_a_config_of_absurd_sizes_is_refused_by_name_at_once(kind: str, tmp_path: Path) -> None:
    """Each number in turn, beside weights of another size: no traceback, no allocation, a setting or a tensor named.

    What decides no shape, as ids of special tokens or a window, may be anything.
    """
    sizes = {name: size for name, size in SMALL.items() if kind != "lstm" or name != "num_heads"}
    save_model(build_model(ModelSettings(kind=kind, **sizes), vocab_size=50, end_id=0, sequence_length=8), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    refused = 0
    for key, old in config.items():
        if not isinstance(old, int | float) or isinstance(old, bool):
            continue
        for value in (10**9, 10**18, 10**400, -1, 0):
            path.write_text(json.dumps({**config, key: value}), encoding="utf-8")
            started = time.perf_counter()
            try:
                load_model(tmp_path)
            except (SettingsError, CheckpointError) as error:
                refused += 1
                assert error.id.startswith("models."), (key, value, error)
            assert time.perf_counter() - started < 1, (key, value)
    assert refused > 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["num_heads", "hidden_size", "head_dim", "num_layers"])
def test_a_setting_of_0_is_refused_by_its_name(kind: str, name: str) -> None:
    """Also where the default of another setting is made by dividing by it."""
    if name not in family(kind).uses:
        return
    with pytest.raises(SettingsError) as refused:
        build_model(ModelSettings(kind=kind, **{name: 0}), vocab_size=50, end_id=0, sequence_length=8)
    assert (refused.value.id, refused.value.values["name"]) == ("models.size", name)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "head_dim" not in family(kind).uses or kind in LIKE_LLAMA])
def test_more_heads_than_the_width_are_refused_as_such(kind: str) -> None:
    for heads in ({"num_heads": 1000}, {"hidden_size": 96, "num_heads": 5}):
        with pytest.raises(SettingsError) as refused:
            build_model(ModelSettings(kind=kind, **heads), vocab_size=50, end_id=0, sequence_length=8)
        assert refused.value.id == "models.heads_split"


@pytest.mark.parametrize(
    ("kind", "key", "values"),
    [
        ("t5", "relative_attention_num_buckets", (0, 1, 2, 3)),
        ("gemma2", "query_pre_attn_scalar", (math.inf, math.nan, 0, -1)),
    ],
)
def test_numbers_that_nothing_can_be_computed_with_are_refused(
    kind: str, key: str, values: tuple[float, ...], tmp_path: Path
) -> None:
    save_model(build_model(ModelSettings(kind=kind, **SMALL), vocab_size=50, end_id=0, sequence_length=8), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert load_model(tmp_path) and key in config
    for value in values:
        path.write_text(json.dumps({**config, key: value}), encoding="utf-8")
        with pytest.raises((SettingsError, CheckpointError)) as refused:
            load_model(tmp_path)
        assert refused.value.id in ("models.size", "models.config_unsupported")


def test_a_misspelt_kind_gets_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="llama") as refused:
        build_model(ModelSettings(kind="lama"), vocab_size=50, end_id=0, sequence_length=8)
    assert refused.value.id == "core.unknown_plugin"
