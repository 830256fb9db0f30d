"""What the files of other programs are like: old names, no prefix, copies, shards, more heads than their name says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wenlu.core.errors import CheckpointError
from wenlu.models.build import build_model, family
from wenlu.models.checkpoint import load_model, save_model
from wenlu.models.config import Head, ModelSettings
from wenlu.models.families._transformer import TransformerFamily, resolved
from wenlu.models.initialization import initialize
from wenlu.models.transformer import Transformer

VOCAB = 31
WORDS, ROWS = "language_model", frozenset({"pooler", "sequence"})


def make_model(kind: str, heads: frozenset[Head] = frozenset({WORDS}), *, tied: bool = True) -> Transformer:
    """A new model with these heads, every parameter random."""
    settings = ModelSettings(kind=kind, hidden_size=16, num_heads=2, num_layers=2, tie_embeddings=tied)
    new = build_model(settings, vocab_size=VOCAB, end_id=3, sequence_length=12)
    assert isinstance(new, Transformer)
    labels = ("no", "yes", "perhaps") if heads & {"sequence", "token"} else ()
    bias = new.config.head_bias and WORDS in heads
    model = Transformer(replace(new.config, heads=heads, labels=labels, head_bias=bias))
    model.kind = kind
    initialize(model, seed=1, scheme="gpt2")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


def edit(directory: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], **values: object) -> None:
    """Change the tensors and the config.json of a directory."""
    path = directory / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path, metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(config | values), encoding="utf-8")


def loads_as(directory: Path, model: Transformer) -> bool:
    """Whether the directory holds this model, and can be saved and loaded again."""
    for folder in (directory, directory / "again"):
        found = load_model(folder)
        assert isinstance(found, Transformer)
        state, other = found.state_dict(), model.state_dict()
        if state.keys() != other.keys() or not all(torch.equal(state[name], other[name]) for name in other):
            return False
        config = replace(model.config, pad_token_id=found.config.pad_token_id)
        assert resolved(found.config) == resolved(config)
        if folder == directory:
            save_model(found, directory / "again")
    return True


def refusal(directory: Path, id: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(CheckpointError) as refused:
        load_model(directory)
    assert refused.value.id == id
    monkeypatch.setenv("WENLU_LANG", "zh")
    assert str(directory) in str(refused.value)
    monkeypatch.setenv("WENLU_LANG", "en")
    return str(refused.value)


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_gamma_and_beta(kind: str, tmp_path: Path) -> None:
    model = make_model(kind)
    save_model(model, tmp_path)

    def old(name: str) -> str:
        norm = "norm" in name.lower()
        return name.replace(".weight", ".gamma").replace(".bias", ".beta") if norm else name

    edit(tmp_path, lambda tensors: {old(name): tensor for name, tensor in tensors.items()})
    assert any(name.endswith(".gamma") for name in load_file(tmp_path / "model.safetensors"))
    assert loads_as(tmp_path, model)


BARE = {  # what else is in such files
    "bert": {"embeddings.position_ids": torch.arange(12)[None]},
    "roberta": {"embeddings.position_ids": torch.arange(14)[None]},
    "albert": {"embeddings.position_ids": torch.arange(12)[None]},
    "distilbert": {},
    "bart": {},
    "marian": {"encoder.embed_positions.weight": torch.ones(12, 16), "decoder.embed_positions.weight": torch.ones(3)},
    "whisper": {},
    "mistral": {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "gemma2": {},
}


@pytest.mark.parametrize("kind", BARE)
def test_names_without_the_prefix(kind: str, tmp_path: Path) -> None:
    model = make_model(kind)
    save_model(model, tmp_path)
    prefix, copies = family(kind).prefix, family(kind).copies

    def bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors |= {copy: tensors[original].clone() for copy, original in copies}
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()} | BARE[kind]

    edit(tmp_path, bare)
    assert loads_as(tmp_path, model)


BASE = {kind: {"pooler"} for kind in ("bert", "roberta", "albert")} | {"distilbert": set()}


@pytest.mark.parametrize("kind", BASE)
def test_a_bare_encoder(kind: str, tmp_path: Path) -> None:
    model = make_model(kind, frozenset(BASE[kind]))
    save_model(model, tmp_path)
    prefix = family(kind).prefix
    edit(tmp_path, lambda tensors: {name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    assert loads_as(tmp_path, model)


COPIES = [(kind, *pair) for kind in ("bert", "roberta", "albert", "bart", "t5") for pair in family(kind).copies]


@pytest.mark.parametrize(("kind", "copy", "original"), COPIES)
def test_copies_must_be_equal(
    kind: str, copy: str, original: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(kind)
    save_model(model, tmp_path)
    edit(tmp_path, lambda tensors: tensors | {copy: tensors[original].clone()})
    assert loads_as(tmp_path, model)
    edit(tmp_path, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != original})
    assert loads_as(tmp_path, model), "one of them is enough"
    edit(tmp_path, lambda tensors: tensors | {original: tensors[copy] + 1})
    message = refusal(tmp_path, "models.copy_differs", monkeypatch)
    assert copy in message
    assert original in message


@pytest.mark.parametrize("kind", ["bert", "t5", "bart"])
def test_shards(kind: str, tmp_path: Path) -> None:
    model = make_model(kind, tied=False)
    save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {name: f"model-{1 + number % 3}.safetensors" for number, name in enumerate(names)}
    for file in set(index.values()):
        save_file({name: tensors[name] for name in names if index[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    assert loads_as(tmp_path, model)


UNNAMED = [
    ("bert", {WORDS, "pooler", "pair"}, "BertForMaskedLM"),
    ("bert", {"pooler", "sequence"}, "BertModel"),
    ("bert", {WORDS, "pooler"}, "BertForMaskedLM"),
    ("bert", {"pooler", "token"}, "BertForTokenClassification"),
    ("bert", {"token"}, None),
    ("albert", {"token"}, None),
    ("bert", {"pooler", "sequence"}, None),
    ("distilbert", {"pooler", "sequence"}, None),
    ("distilbert", {"token"}, None),
    ("bert", {"span"}, None),
    ("bert", set(), "BertModel"),
    ("roberta", {WORDS, "pooler"}, "RobertaForMaskedLM"),
    ("albert", {WORDS, "pooler"}, "AlbertForMaskedLM"),
    ("distilbert", {WORDS, "span"}, "DistilBertForMaskedLM"),
    ("llama", {"sequence"}, "LlamaForCausalLM"),
    ("bart", {"pooler", "sequence"}, "BartForConditionalGeneration"),
]


@pytest.mark.parametrize(("kind", "heads", "named"), UNNAMED)
def test_heads_are_those_of_the_tensors(kind: str, heads: set[Head], named: str | None, tmp_path: Path) -> None:
    model = make_model(kind, frozenset(heads))
    save_model(model, tmp_path)
    edit(tmp_path, lambda tensors: tensors, architectures=named and [named])
    assert loads_as(tmp_path, model)


@pytest.mark.parametrize(
    ("kind", "heads", "named"),
    [
        ("roberta", {WORDS, "pooler"}, ["RobertaForMaskedLM"]),
        ("bert", {WORDS, "pooler", "pair", "span"}, ["BertForPreTraining"]),
        ("bert", {"pooler", "token"}, ["BertForTokenClassification"]),
        ("bert", set(), None),
    ],
)
def test_a_file_is_named_by_most_of_its_heads(
    kind: str, heads: set[Head], named: list[str] | None, tmp_path: Path
) -> None:
    save_model(make_model(kind, frozenset(heads)), tmp_path)
    found = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["architectures"]
    assert found == named


def test_a_pooler_under_a_classifier_of_roberta_is_not_used(tmp_path: Path) -> None:
    model = make_model("roberta", ROWS)
    save_model(model, tmp_path)
    old = {"roberta.pooler.dense.weight": torch.ones(16, 16), "roberta.pooler.dense.bias": torch.ones(16)}
    edit(tmp_path, lambda tensors: tensors | old)
    assert loads_as(tmp_path, model)


def test_a_table_that_t5_never_reads(tmp_path: Path) -> None:
    model = make_model("t5")
    save_model(model, tmp_path)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    edit(tmp_path, lambda tensors: tensors | {name: torch.ones(32, 2)})
    assert loads_as(tmp_path, model)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"0": "no", "1": "yes", "2": "perhaps"}, ("no", "yes", "perhaps")),
        ({"2": "perhaps", "1": "yes", "0": "no"}, ("no", "yes", "perhaps")),
        ({"0": "no", "1": "yes"}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"a": "no", "b": "yes", "c": "perhaps"}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        (None, ("LABEL_0", "LABEL_1", "LABEL_2")),
    ],
)
def test_labels(names: dict[str, str] | None, expected: tuple[str, ...], tmp_path: Path) -> None:
    save_model(make_model("bert", ROWS), tmp_path)
    edit(tmp_path, lambda tensors: tensors, id2label=names)
    found = load_model(tmp_path)
    assert isinstance(found, Transformer)
    assert found.config.labels == expected


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("bert", {"position_embedding_type": "relative_key"}),
        ("bert", {"is_decoder": True}),
        ("roberta", {"pad_token_id": 0}),
        ("albert", {"inner_group_num": 2}),
        ("bart", {"normalize_before": True}),
        ("marian", {"share_encoder_decoder_embeddings": False}),
        ("t5", {"feed_forward_proj": "gated-tanh"}),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4}),
        ("gemma3_text", {"use_bidirectional_attention": True}),
    ],
)
def test_what_is_not_computed_is_refused(
    kind: str, values: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(family(kind), TransformerFamily)
    save_model(make_model(kind), tmp_path)
    edit(tmp_path, lambda tensors: tensors, **values)
    assert next(iter(values)) in refusal(tmp_path, "models.config_unsupported", monkeypatch)
