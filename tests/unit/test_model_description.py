"""Drawings: each line's parameters are the model's, every choice is seen, and the words exist in both languages."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest
from torch import nn

from published_models import PUBLISHED, Published
from wenlu.cli.commands.describe import draw, words
from wenlu.core import plugins
from wenlu.models.build import FAMILIES, build_model, family
from wenlu.models.config import ModelSettings, RopeScaling, StackConfig, TransformerConfig
from wenlu.models.description import Description, describe_kind, describe_model, describe_transformer
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.meta import meta_device
from wenlu.models.transformer import on_meta

KINDS = plugins.names(FAMILIES)
UNBUILT = {"ngram", "mixture"}  # come from data alone


def check_parts(model: nn.Module, drawn: Description) -> None:
    """Every parameter belongs to one part, every part has the copies and the parameters that it says."""
    left = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for part in (part for line in drawn.lines for part in line.parts):
        pattern = re.compile(re.escape(part.name).replace(r"\{\}", r"(\d+)") + r"(\..*)?\Z")
        found = {name: match for name in left if (match := pattern.match(name))}
        copies = {match.group(1) for match in found.values()} if "{}" in part.name else {""}
        assert (sum(left.pop(name) for name in found), len(copies)) == (part.parameters, part.copies), part.name
    assert not left
    total = sum(parameter.numel() for parameter in model.parameters())
    assert drawn.sums["total"] == total == sum(line.parameters for line in drawn.lines)
    assert drawn.statistics is not None and drawn.statistics.parameters == total


@pytest.mark.parametrize("kind", sorted(set(KINDS) - UNBUILT))
def test_the_parameters_of_every_line_are_the_models(kind: str) -> None:
    with meta_device():
        model = build_model(ModelSettings(kind=kind), vocab_size=100, end_id=0, sequence_length=32)
    drawn = describe_model(model, sequence_length=32)
    check_parts(model, drawn)
    assert drawn.lines == describe_kind(ModelSettings(kind=kind), vocab_size=100, sequence_length=32).lines
    known = family(kind)
    if isinstance(known, TransformerFamily):
        config = known.settings_to_config(ModelSettings(kind=kind), 100, 32)
        for heads in known.architectures.values():
            labels = ("a", "b", "c") if heads & {"sequence", "token"} else ()
            other = replace(config, heads=heads, labels=labels)
            check_parts(on_meta(other), describe_transformer(other))


def test_an_untied_lstm() -> None:
    with meta_device():
        model = build_model(
            ModelSettings(kind="lstm", tie_embeddings=False), vocab_size=99, end_id=0, sequence_length=8
        )
    check_parts(model, describe_model(model))


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.name)
def test_published_models_have_the_parameters_that_they_are_known_for(published: Published) -> None:
    assert describe_transformer(published.config()).sums["total"] == published.parameters


BASE = StackConfig(hidden_size=24, num_layers=4, num_heads=2, intermediate_size=48, max_positions=32)
ROTARY = replace(BASE, position="rotary")
WINDOW = replace(ROTARY, window=8)
CHOICES: dict[str, tuple[StackConfig, object]] = {
    "hidden_size": (BASE, 48),
    "num_layers": (BASE, 8),
    "num_heads": (BASE, 4),
    "intermediate_size": (BASE, 64),
    "max_positions": (BASE, 64),
    "num_kv_heads": (BASE, 1),
    "head_dim": (BASE, 8),
    "num_distinct_layers": (BASE, 2),
    "attention": (BASE, "bidirectional"),
    "memory_size": (BASE, 24),
    "norm": (BASE, "rms_norm"),
    "norm_placement": (BASE, "around"),
    "outer_norms": (BASE, frozenset({"embedding"})),
    "qk_norm": (BASE, "head"),
    "position": (BASE, "sinusoidal"),
    "position_offset": (BASE, 2),
    "rope_theta": (ROTARY, 5e5),
    "rope_scaling": (ROTARY, RopeScaling(factor=2.0)),
    "relative_buckets": (replace(BASE, position="relative"), 16),
    "relative_distance": (replace(BASE, position="relative"), 64),
    "window": (BASE, 8),
    "full_every": (WINDOW, 2),
    "window_rope_theta": (WINDOW, 500.0),
    "num_segments": (BASE, 2),
    "embedding_size": (BASE, 12),
    "embedding_scale": (BASE, 2.0),
    "mel_bins": (BASE, 80),
    "ffn": (BASE, "gated"),
    "activation": (BASE, "silu"),
    "biases": (BASE, frozenset({"q", "ffn"})),
    "attention_scale": (BASE, 1.0),
    "attention_softcap": (BASE, 50.0),
}
NOT_DRAWN = {"norm_eps"} | {field.name for field in fields(StackConfig) if field.name.endswith("_dropout")}


def whole(stack: StackConfig, **choices: object) -> TransformerConfig:
    """A model whose main stack is this one; one that attends to states has an encoder besides."""
    causal = stack.attention == "causal"
    encoder = stack if not causal else None if stack.memory_size is None else BASE
    decoder = stack if causal else None
    return TransformerConfig(vocab_size=50, tie_embeddings=True, encoder=encoder, decoder=decoder, **choices)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [field.name for field in fields(StackConfig) if field.name not in NOT_DRAWN])
def test_every_choice_of_a_stack_is_seen(name: str) -> None:
    stack, value = CHOICES[name]
    before, after = whole(stack), whole(replace(stack, **{name: value}))  # type: ignore[arg-type]
    if name == "attention":  # which only an encoder can choose
        before = replace(before, encoder=stack, decoder=None)
    drawn = describe_transformer(after)
    assert [words(line) for line in describe_transformer(before).lines] != [words(line) for line in drawn.lines]
    if name != "mel_bins":  # a decoder alone that reads spectrograms has no table of tokens
        check_parts(on_meta(after), drawn)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 60),
        ("tie_embeddings", False),
        ("heads", frozenset({"pooler", "pair", "span"})),
        ("head_transform", "gelu"),
        ("head_bias", True),
        ("head_scale", 0.5),
        ("logit_softcap", 30.0),
    ],
)
def test_every_choice_of_the_heads_is_seen(name: str, value: object) -> None:
    config = whole(BASE)
    changed = replace(config, **{name: value})  # type: ignore[arg-type]
    assert draw(describe_transformer(config)) != draw(describe_transformer(changed))
    check_parts(on_meta(changed), describe_transformer(changed))


@pytest.mark.parametrize(("name", "value"), [("pooled_position", "last"), ("pooler_activation", "relu")])
def test_what_a_pooler_does_is_seen(name: str, value: str) -> None:
    config = whole(BASE, heads=frozenset({"pooler"}))
    assert draw(describe_transformer(config)) != draw(describe_transformer(replace(config, **{name: value})))  # type: ignore[arg-type]


def test_a_drawing_read_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENLU_LANG", "en")
    stack = replace(ROTARY, num_kv_heads=1, window=8, full_every=2, norm="rms_norm", biases=frozenset({"q"}))
    expected = """\
decoder: 4 layers, hidden size 24, 32 positions
  tokens: table 50 × 24                                1,200
  layer, 4 times; 4,104 parameters each
    x ─▶ RMSNorm ─▶ causal self-attention ─▶ + x       7,104 = 4 × 1,776
      2 heads of 12; 1 for keys and values; biases on q
      rotary positions, base 10,000; window of 8 tokens; one layer in 2 has none
    x ─▶ RMSNorm ─▶ feed-forward ─▶ + x                9,312 = 4 × 2,328
      24 to 48 to 24; gelu_tanh; no biases
  RMSNorm; after the last layer                           24
every state ─▶ matrix 24 × 50 ─▶ logits of the tokens  1,200
parameters: embeddings 1,200 + layers 16,440 + heads 1,200 = 18,840
a token forward: 0.04 MFLOP in rows of 32; in training 3 times that
cache: 384 bytes a token (float32)"""
    lines = draw(describe_transformer(replace(whole(stack), tie_embeddings=False))).splitlines()
    assert lines == expected.splitlines()
    matrices = 4 * (2 * 24 * 24 + 2 * 24 * 12 + 2 * 24 * 48) + 24 * 50
    scores = 24 * (8 + 32 + 8 + 32)
    assert round((2 * matrices + 4 * scores) / 1e6, 2) == 0.04


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_in_both_languages(kind: str, language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENLU_LANG", language)
    text = draw(describe_kind(ModelSettings(kind=kind), vocab_size=100, sequence_length=32))
    assert text and "{" not in text
    assert bool(re.search("[\u4e00-\u9fff]", text)) is (language == "zh")


def test_counts_stand_below_each_other_where_characters_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.cells import cell_len

    monkeypatch.setenv("WENLU_LANG", "zh")
    lines = draw(describe_kind(ModelSettings(kind="gpt2"), vocab_size=100, sequence_length=32)).splitlines()
    ends = {cell_len(line.split(" = ")[0]) for line in lines if re.search(r"  [\d,]+( = .*)?$", line)}
    assert len(ends) == 1


def test_the_cache_is_told_where_there_is_one() -> None:
    own = 4 * 2 * BASE.hidden_size * BASE.num_layers  # keys and values in float32
    costs = {
        "decoder": describe_transformer(whole(BASE)).costs,
        "both": describe_transformer(whole(replace(BASE, memory_size=24))).costs,
        "encoder": describe_transformer(whole(replace(BASE, attention="bidirectional"))).costs,
    }
    assert [cost.id for cost in costs["encoder"]] == ["describe.flops"]
    assert (costs["decoder"][1].id, costs["decoder"][1].values) == ("describe.cache", {"bytes": own})
    assert (costs["both"][1].id, costs["both"][1].values) == ("describe.cache_crossing", {"bytes": own})
