"""A key that a config.json lacks means what it means to transformers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import transformers

from wenlu.core.errors import CheckpointError
from wenlu.models.build import family
from wenlu.models.config import TransformerConfig
from wenlu.models.families._files import HFConfig
from wenlu.models.families._transformer import TransformerFamily, resolved

CONFIGS = {
    **{"bert": "Bert", "roberta": "Roberta", "albert": "Albert", "distilbert": "DistilBert", "gpt2": "GPT2"},
    **{"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2"},
    **{"gemma3_text": "Gemma3Text", "t5": "T5", "mt5": "MT5", "bart": "Bart", "marian": "Marian", "whisper": "Whisper"},
}
SIZES = {"num_kv_heads"}  # a wrong one is seen in the shapes
ROTARY = {"max_positions"}  # says no more than how long a context is advised


def computes(config: TransformerConfig) -> dict[str, object]:
    """What of a config changes its outputs beyond training."""
    values = asdict(resolved(config))
    for key in ("encoder", "decoder"):
        stack = values.pop(key) or {}
        aside = SIZES | (ROTARY if stack.get("position") == "rotary" else set())
        values |= {f"{key}.{name}": value for name, value in stack.items() if name not in aside}
    return {name: value for name, value in values.items() if not name.endswith(("_dropout", "_token_id"))}


def read(kind: str, values: dict[str, object]) -> TransformerConfig:
    found = family(kind)
    assert isinstance(found, TransformerFamily)
    return found.config(HFConfig(values, Path("config.json")))


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_absent_means_what_it_means_to_them(kind: str) -> None:
    whole = getattr(transformers, CONFIGS[kind] + "Config")().to_dict()
    expected = computes(read(kind, whole))
    seen = 0
    for key in whole:
        values = {name: value for name, value in whole.items() if name not in (key, "layer_types")}
        try:
            found = computes(read(kind, values))
        except CheckpointError as error:
            assert error.id == "models.config_missing", key
        else:
            assert found == expected, key
            seen += 1
    assert seen > 10


@pytest.mark.parametrize("kind", ["mistral", "gemma2"])
def test_null_is_none(kind: str) -> None:
    values = getattr(transformers, CONFIGS[kind] + "Config")().to_dict() | {"layer_types": None}
    none = dict.fromkeys(("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"))
    found = read(kind, values | none)
    assert (found.main.window, found.main.attention_softcap, found.logit_softcap) == (None, None, None)


def test_layers_with_a_window_are_not_stretched() -> None:
    values = transformers.Gemma3TextConfig().to_dict()
    local = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}
    with pytest.raises(CheckpointError) as refused:
        read("gemma3_text", values | {"rope_parameters": values["rope_parameters"] | {"sliding_attention": local}})
    assert refused.value.id == "models.config_unsupported" and "linear" in str(refused.value)
