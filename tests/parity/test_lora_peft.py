"""LoRA against peft: the files of each, read by the other, give the same answers; every parameter is random."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from reference_models import Pair, Pairs, difference, largest_difference, our_outputs, reference_outputs
from wenlu.models.adapters import WEIGHTS, LoraSettings, add_lora, load_adapted, write_adapter
from wenlu.models.checkpoint import load_model, save_model
from wenlu.models.lora import LoraLinear, is_lora, merged_state
from wenlu.models.transformer import Transformer

TOLERANCE = 1e-5
CASES = [
    *("gpt2", "gpt2 sequence", "llama", "llama biases", "qwen3", "bert", "bert base", "bert sequence", "bert answer"),
    *("albert", "distilbert", "t5", "t5 v1.1", "bart", "whisper"),
]
RANK, ALPHA = 3, 7.0
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # which peft reads


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return Pairs(tmp_path_factory.mktemp("references"))


def randomize(model: nn.Module, *, seed: int) -> None:
    """Every parameter that is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def trained(pair: Pair, *targets: str, rank: int = RANK) -> Transformer:
    """Our model with random paths and, where it has heads that judge, random heads."""
    model = pair.ours()
    add_lora(model, LoraSettings(rank=rank, alpha=ALPHA, targets=targets or ("all",)), seed=1)
    randomize(model, seed=2)
    return model.eval()


def theirs(pair: Pair, directory: Path, **settings: object) -> nn.Module:
    """The reference with random paths, saved by peft."""
    transposed = pair.reference.config.model_type == "gpt2"
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": "all-linear", **settings}
    config = peft.LoraConfig(fan_in_fan_out=transposed, **settings)
    model = peft.get_peft_model(copy.deepcopy(pair.reference), config)
    randomize(model, seed=3)
    model.save_pretrained(str(directory))
    return model.get_base_model().eval()


def apart(pair: Pair, ours: nn.Module, reference: nn.Module) -> float:
    batch = pair.batch(length=40)
    with torch.no_grad():
        expected = reference_outputs(reference, batch)
    assert isinstance(ours, Transformer)
    return largest_difference(ours, expected, batch)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("targets", [("all",), ("q", "v")], ids=["all", "q v"])
def test_our_files_give_the_same_answers_in_peft(
    case: str, targets: tuple[str, ...], pairs: Pairs, tmp_path: Path
) -> None:
    pair = pairs(case)
    ours = trained(pair, *targets)
    write_adapter(ours, tmp_path / "adapter", base=str(pair.directory))
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(pair.reference), str(tmp_path / "adapter"))
    names = set(load_file(tmp_path / "adapter" / WEIGHTS))
    assert names == set(peft.get_peft_model_state_dict(loaded)), "nothing is missing, nothing is left over"
    assert apart(pair, ours, loaded.get_base_model()) < TOLERANCE
    assert apart(pair, ours, pair.reference) > 0.01, "the paths do something"


@pytest.mark.parametrize("case", CASES)
def test_files_of_peft_give_the_same_answers_here(case: str, pairs: Pairs, tmp_path: Path) -> None:
    pair = pairs(case)
    named = {"task_type": "SEQ_CLS", "target_modules": ["c_attn", "mlp.c_proj"]} if case == "gpt2 sequence" else {}
    reference = theirs(pair, tmp_path, **named)
    assert apart(pair, load_adapted(pair.directory, tmp_path), reference) < TOLERANCE


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True, "lora_alpha": 3},
        {
            "rank_pattern": {"q_proj": 5, "layers.1.self_attn.v_proj": 2},
            "alpha_pattern": {"v_proj": 2.5},
        },
        {"target_modules": ["k_proj", "down_proj"], "modules_to_save": ["lm_head", "input_layernorm"]},
    ],
    ids=["rank-stabilised", "patterns", "whole modules"],
)
def test_every_scale_and_whole_modules_are_read(settings: dict[str, object], pairs: Pairs, tmp_path: Path) -> None:
    pair = pairs("llama")
    reference = theirs(pair, tmp_path, **settings)
    assert apart(pair, load_adapted(pair.directory, tmp_path), reference) < TOLERANCE


def test_an_adapter_brings_the_head_of_its_task(pairs: Pairs, tmp_path: Path) -> None:
    pair = pairs("bert sequence")
    pair.reference.bert.save_pretrained(tmp_path / "base")
    reference = theirs(pair, tmp_path / "adapter", task_type="SEQ_CLS", target_modules=["query", "value"])
    ours = load_adapted(tmp_path / "base", tmp_path / "adapter")
    assert len(ours.config.labels) == 3
    assert apart(pair, ours, reference) < TOLERANCE


@pytest.mark.parametrize("case", ["gpt2", "qwen3", "bert sequence", "t5"])
def test_merged_computes_the_same(case: str, pairs: Pairs, tmp_path: Path) -> None:
    pair = pairs(case)
    ours = trained(pair)
    save_model(ours, tmp_path / "merged")
    merged = load_model(tmp_path / "merged")
    assert not any(isinstance(module, LoraLinear) for module in merged.modules())
    batch = pair.batch(length=40)
    with torch.no_grad():
        expected = reference_outputs(pair.reference, batch)
        found = our_outputs(ours, batch, set(expected))
    assert largest_difference(merged, found, batch) < TOLERANCE
    assert largest_difference(merged, expected, batch) > 0.01, "the paths do something"


def test_a_base_in_half_precision_is_merged_in_full(pairs: Pairs, tmp_path: Path) -> None:
    """As double precision would, to float32's rounding; bfloat16 keeps 8 bits."""
    pair = pairs("qwen3")
    theirs(pair, tmp_path / "adapter")
    half = copy.deepcopy(pair.reference).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "base")
    state = merged_state(load_adapted(tmp_path / "base", tmp_path / "adapter"))
    pair_of = load_file(tmp_path / "adapter" / WEIGHTS)
    name = "model.layers.1.self_attn.q_proj"
    a, b = (pair_of[f"base_model.model.{name}.lora_{letter}.weight"].double() for letter in "AB")
    expected = half.get_submodule(name).weight.double() + ALPHA / RANK * (b @ a)
    found = state["decoder.layers.1.self_attention.q.weight"]
    assert found.dtype == torch.float32
    assert difference(found.double(), expected) < 1e-6
    assert difference(found.bfloat16().double(), expected) > 1e-4, "a merge in bfloat16 would be seen"


def test_new_paths_start_as_those_of_peft(pairs: Pairs) -> None:
    """They compute nothing yet; A is uniform within 1 / sqrt(inputs)."""
    pair = pairs("llama")
    models = []
    for seed in (1, 1, 2):
        models.append(pair.ours())
        add_lora(models[-1], LoraSettings(rank=16, dropout=0.5), seed=seed)
    names = [name for name, _ in models[0].named_parameters() if name.endswith(".lora_A")]
    first, again, other = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name]) for name in names)
    layer = "decoder.layers.0.self_attention"
    assert not torch.equal(first[f"{layer}.q.lora_A"], first[f"{layer}.k.lora_A"]), "each matrix has its own"
    reference = peft.get_peft_model(copy.deepcopy(pair.reference), peft.LoraConfig(r=16, target_modules=["q_proj"]))
    drawn = {
        "ours": first["decoder.layers.0.self_attention.q.lora_A"],
        "theirs": reference.get_submodule("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default").weight,
    }
    for a in drawn.values():
        bound = a.shape[1] ** -0.5
        assert 0.98 * bound < a.abs().max() <= bound
        assert a.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    batch = pair.batch(length=40)
    expected = our_outputs(pair.ours(), batch, {"language_model"})
    found = our_outputs(models[0].eval(), batch, {"language_model"})
    assert torch.equal(found["language_model"], expected["language_model"])


def test_dropout_falls_where_it_does_in_peft(pairs: Pairs, tmp_path: Path) -> None:
    """Equal draws in equal order: on what A reads, in training only."""
    pair = pairs("llama")
    settings = {"lora_dropout": 0.3, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    reference = theirs(pair, tmp_path, **settings).train()
    ours, batch = load_adapted(pair.directory, tmp_path), pair.batch(length=40)
    torch.manual_seed(5)
    with torch.no_grad():
        expected = reference_outputs(reference, batch)
    assert largest_difference(ours, expected, batch, training=True) < TOLERANCE
    assert largest_difference(ours, expected, batch) > 0.01


@pytest.mark.parametrize(
    ("case", "heads"),
    [("bert sequence", {"classifier.weight", "classifier.bias", "pooler.weight", "pooler.bias"}), ("bert", set())],
)
def test_paths_and_heads_that_judge_are_trained_and_nothing_else(case: str, heads: set[str], pairs: Pairs) -> None:
    ours, before = trained(pairs(case), "q"), pairs(case).ours().state_dict()
    moved = {name for name, parameter in ours.named_parameters() if parameter.requires_grad}
    assert {name for name in moved if not is_lora(name)} == {f"head.{name}" for name in heads}
    state = ours.state_dict()
    assert {name for name in before if not torch.equal(before[name], state[name])} == moved & before.keys()
