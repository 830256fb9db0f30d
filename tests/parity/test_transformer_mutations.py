"""Proof that the parity tests see: each field of a config, broken, is noticed or refused; so are exchanged parts.

A field is broken after the file has been read. What makes no difference to numbers (ids of tokens, names of labels) is
held against the reference's config.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import pytest

from reference_models import Pair, Pairs, largest_difference
from wenlu.core.errors import WenluError
from wenlu.models import attention
from wenlu.models.config import ALL_BIASES, RopeScaling, StackConfig, TransformerConfig
from wenlu.models.positions import rotate
from wenlu.models.transformer import Transformer


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return Pairs(tmp_path_factory.mktemp("references"))


# One change at least of each field of a stack, each in a case that can show it; "case > encoder" is not the main stack.
LLAMA3_OTHER = RopeScaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_positions=63)
STACK_MUTATIONS: dict[str, list[tuple[str, object]]] = {
    "hidden_size": [("gpt2", 52), ("bart > encoder", 52)],
    "num_layers": [("gpt2", 1), ("gpt2", 3), ("t5 > encoder", 1), ("albert", 6)],
    "num_heads": [("gpt2", 2), ("gpt2", 8), ("bart > encoder", 6)],
    "intermediate_size": [("llama", 81)],
    "max_positions": [("gpt2", 641), ("gpt2", 639), ("roberta", 642)],
    "num_kv_heads": [("llama", 3), ("llama", None)],
    "head_dim": [("qwen3", 8), ("qwen3", None)],
    "num_distinct_layers": [("albert", 1), ("albert", 4), ("albert", None)],
    "attention": [("bert", "causal"), ("gpt2", "bidirectional"), ("t5 > encoder", "causal"), ("bart", "bidirectional")],
    "memory_size": [("bart", None), ("bart", 40)],
    "norm": [("gpt2", "rms_norm"), ("llama", "layer_norm"), ("gemma2", "rms_norm"), ("t5", "rms_norm_plus_one")],
    "norm_eps": [("gpt2", 1e-6), ("llama", 1e-6), ("qwen3", 1e-5), ("bert", 1e-5), ("t5", 1e-5)],
    "norm_placement": [("bert", "before"), ("gpt2", "after"), ("gemma2", "before"), ("whisper > encoder", "after")],
    "outer_norms": [("bert", frozenset()), ("whisper", frozenset()), ("marian", frozenset({"final"}))],
    "qk_norm": [("qwen3", "none"), ("llama", "head")],
    "position": [("gpt2", "rotary"), ("marian", "learned"), ("marian", "rotary"), ("bart", "sinusoidal")],
    "position_offset": [("roberta", 1), ("bart", 0), ("marian", 1)],
    "rope_theta": [("llama", 10_000.0), ("llama 3.1 tied", 299.0), ("gemma3", 999_000.0)],
    "rope_scaling": [("llama 3.1 tied", None), ("llama 3.1 tied", LLAMA3_OTHER), ("llama linear", None)],
    "relative_buckets": [("t5", 31), ("t5 > encoder", 64)],
    "relative_distance": [("t5", 127), ("t5 > encoder", 129)],
    "window": [("mistral", 36), ("mistral", 38), ("mistral", None), ("mistral without window", 149)],
    "full_every": [("gemma2", None), ("gemma2", 3), ("gemma3", 5), ("mistral", 3)],
    "window_rope_theta": [("gemma3", None), ("gemma3", 9_990.0), ("gemma2", 9_000.0)],
    "num_segments": [("bert", 1), ("bert", 0), ("distilbert", 2)],
    "embedding_size": [("albert", None), ("albert", 21), ("bert", 48)],
    "embedding_scale": [("gemma2", 1.0), ("marian > encoder", 1.0), ("bart", 7.0), ("bart scaled", 1.0)],
    "mel_bins": [("whisper > encoder", None), ("whisper > encoder", 21)],
    "ffn": [("llama", "dense"), ("t5", "gated")],
    "activation": [
        *(("gpt2", "gelu"), ("gpt2 exact gelu", "gelu_tanh"), ("llama", "gelu"), ("bert token", "tanh")),
        *(("marian > encoder", "relu"), ("t5 v1.1", "gelu")),
    ],
    "biases": [
        *(("qwen2", frozenset()), ("qwen2", ALL_BIASES), ("gpt2", ALL_BIASES - {"ffn"})),
        *(("whisper", ALL_BIASES), ("bert", ALL_BIASES - {"k"})),
    ],
    "attention_scale": [("gpt2 unscaled", None), ("gpt2", 1.0), ("llama", 0.25), ("gemma2", None), ("t5", None)],
    "attention_softcap": [("gemma2", None), ("gemma2", 5.1), ("gemma3", 50.0)],
    "embedding_dropout": [("gpt2", 0.0), ("gpt2", 0.2), ("bart > encoder", 0.0)],
    "attention_dropout": [("gpt2", 0.0), ("llama multi-query", 0.1), ("t5", 0.0)],
    "ffn_dropout": [("bart", 0.0), ("bart > encoder", 0.2), ("t5", 0.0), ("bert", 0.1)],
    "residual_dropout": [("gpt2", 0.0), ("gpt2", 0.2), ("bert", 0.0)],
    "final_dropout": [("t5", 0.0), ("t5 > encoder", 0.0), ("gpt2", 0.1)],
}
WORDS, PAIR, ROW, EACH = (frozenset({head}) for head in ("language_model", "pair", "sequence", "token"))
MUTATIONS: dict[str, list[tuple[str, object]]] = {
    "vocab_size": [("gpt2", 98), ("bart", 96)],
    "tie_embeddings": [("gpt2", False), ("llama", True), ("bert", False)],
    "decoder": [("t5", None), ("bart", None)],
    "encoder": [("whisper", None)],
    "heads": [("bert pre-training", WORDS), ("gpt2", ROW), ("bert base", WORDS), ("bart answer", WORDS)],
    "head_transform": [("bert", None), ("bert", "relu"), ("roberta", "gelu_tanh")],
    "head_bias": [("bert", False), ("bart", False), ("t5", True)],
    "head_scale": [("t5", 1.0), ("mt5", 48**-0.5), ("t5 v1.1", 48**-0.5)],
    "logit_softcap": [("gemma2", None), ("gemma2", 3.1), ("gpt2", 30.0)],
    "pooled_position": [("bert sequence", "last"), ("llama sequence", "first"), ("bart sequence", "first")],
    "pooler_activation": [("bert base", "relu"), ("distilbert sequence", "tanh"), ("roberta sequence", "gelu")],
    "classifier_bias": [("bert sequence", False), ("llama sequence", True)],
    "classifier_dropout": [("bert sequence", 0.0), ("bert token", 0.2)],
    "labels": [("bert token", ("a", "b", "c")), ("gpt2 sequence", ("LABEL_0", "LABEL_1"))],
    "start_token_id": [("gpt2", 3), ("bart", None)],
    "end_token_id": [("gpt2", 3), ("t5", None)],
    "pad_token_id": [("gpt2", 3), ("roberta", None)],
    "decoder_start_token_id": [("bart", None), ("whisper", 3)],
}


def test_every_field_has_a_mutation() -> None:
    assert set(STACK_MUTATIONS) == {field.name for field in fields(StackConfig)}
    assert set(MUTATIONS) == {field.name for field in fields(TransformerConfig)}


def listed(mutations: dict[str, list[tuple[str, object]]]) -> list[tuple[str, str, object]]:
    return [(field, case, value) for field, cases in mutations.items() for case, value in cases]


def agrees(pair: Pair, ours: Transformer, *, training: bool) -> bool:
    """Whether all the parity tests of this model would pass."""
    theirs, config = pair.reference.config, ours.config
    said = (config.start_token_id, config.end_token_id, config.pad_token_id, config.decoder_start_token_id)
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    if said != tuple(getattr(theirs, name, None) for name in names):
        return False
    if config.labels and list(config.labels) != list(theirs.id2label.values()):
        return False
    return largest_difference(ours, pair.expected(training=training), pair.batch(), training=training) <= 1e-5


def is_seen(pair: Pair, change: Callable[[TransformerConfig], TransformerConfig], *, training: bool) -> bool:
    unbroken = agrees_unbroken(pair, training)
    try:
        assert change(unbroken) != unbroken, "the mutation changes nothing"
        ours = pair.ours(change)
    except WenluError:
        return True  # refused with a message
    except AssertionError as error:
        assert "the table fills no" in str(error), error
        return True
    return not agrees(pair, ours, training=training)


@functools.cache
def agrees_unbroken(pair: Pair, training: bool) -> TransformerConfig:
    ours = pair.ours()
    assert agrees(pair, ours, training=training)
    return ours.config


def short(value: object) -> str:
    return str(value)[:24]


@pytest.mark.parametrize(("field", "case", "value"), listed(STACK_MUTATIONS), ids=short)
def test_a_broken_choice_of_a_stack_is_seen(field: str, case: str, value: object, pairs: Pairs) -> None:
    name, _, tower = case.partition(" > ")
    pair = pairs(name, backend="eager")
    tower = tower or ("encoder" if pair.ours().decoder is None else "decoder")

    def change(config: TransformerConfig) -> TransformerConfig:
        return replace(config, **{tower: replace(getattr(config, tower), **{field: value})})

    assert is_seen(pair, change, training="dropout" in field)


@pytest.mark.parametrize(("field", "case", "value"), listed(MUTATIONS), ids=short)
def test_a_broken_choice_of_a_model_is_seen(field: str, case: str, value: object, pairs: Pairs) -> None:
    pair = pairs(case, backend="eager")
    assert is_seen(pair, lambda config: replace(config, **{field: value}), training="dropout" in field)


@contextmanager
def patched(target: object, name: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, value)
        yield


def test_a_rotation_the_other_way_is_seen(pairs: Pairs) -> None:
    pair = pairs("llama", backend="eager")
    backwards = lambda x, cos, sin: rotate(x, cos, -sin)
    with patched(attention, "rotate", backwards):
        assert not agrees(pair, pair.ours(), training=False)  # q and k turn alike: scores of the mirrored distance


def test_exchanged_query_and_key_norms_are_seen(pairs: Pairs) -> None:
    pair = pairs("qwen3", backend="eager")
    ours = pair.ours()
    for layer in ours.decoder.layers:
        block = layer.self_attention
        block.q_norm, block.k_norm = block.k_norm, block.q_norm
    assert not agrees(pair, ours, training=False)


def test_exchanged_keys_and_values_of_a_memory_are_seen(pairs: Pairs) -> None:
    pair = pairs("bart", backend="eager")
    ours = pair.ours()
    for layer in ours.decoder.layers:
        block = layer.cross_attention
        block.k, block.v = block.v, block.k
    assert not agrees(pair, ours, training=False)
