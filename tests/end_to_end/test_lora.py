"""LoRA from the command line: train, resume, verify, export, merge; what goes wrong is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from promises import Figure
from tiny_training import SMALL, TRANSFORMER, tiny_texts
from wenlu.bundle import load_bundle
from wenlu.cli.main import main
from wenlu.training.verification import verify_run

COMMON = (*SMALL, "data.document=line", "evaluate.max_tokens=500", "train.save_every=4", "train.keep=9")
LORA = ("lora.rank=2", "lora.dropout=0.1", "optimizer.learning_rate=0.02")
GPT2 = ("--preset", "gpt2-tiny", "model.num_layers=2", "model.num_heads=2", "model.hidden_size=16", "train.budget=none")
BERT = ("--preset", "bert-tiny", "model.num_layers=2", "model.num_heads=2", "model.hidden_size=16", "train.budget=none")
TASKS = {
    "qwen3": (),
    "gpt2": ("--preset", "gpt2-tiny", "train.budget=none"),
    "bert": ("--preset", "bert-tiny", "train.budget=none"),
}
KINDS = {"qwen3": TRANSFORMER, "gpt2": GPT2, "bert": BERT}


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")


def train(*words: object) -> Result:
    found = wenlu("train", *COMMON, *words)
    assert found.exit_code == 0, found.output
    return found


def refusal(*words: object) -> str:
    found = wenlu(*words, "--json")
    assert found.exit_code == 2, (found.output, found.exception)
    [line] = [line for line in found.stderr.splitlines() if line.startswith('{"error"')]
    return str(json.loads(line)["error"]["id"])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each kind."""
    folder = tmp_path_factory.mktemp("bases")
    lines = [f"{number} {line}" for number, line in enumerate(tiny_texts(160))]
    (folder / "old.txt").write_text("\n".join(lines[:80]), encoding="utf-8")
    (folder / "new.txt").write_text("\n".join(lines[80:]), encoding="utf-8")
    for kind, words in KINDS.items():
        tokenizer = ("tokenizer.kind=words", "tokenizer.min_frequency=1")
        train(*words, *tokenizer, "--data", folder / "old.txt", "-o", folder / kind)
    return folder


@pytest.fixture
def run(bases: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A run with LoRA, by default of qwen3, that started from a copy in ``start``."""
    return train_paths(getattr(request, "param", "qwen3"), bases, tmp_path)


def train_paths(kind: str, bases: Path, folder: Path, *words: str) -> Path:
    shutil.copytree(bases / kind / "final", folder / "start")
    given = (*TASKS[kind], *LORA, f"model.start={folder / 'start'}", "--data", bases / "new.txt", *words)
    train(*given, "-o", folder / "run")
    return folder / "run"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


@pytest.mark.parametrize("run", list(KINDS), indirect=True, ids=list(KINDS))
def test_only_the_adapter_is_trained_and_the_model_directory_works_by_itself(run: Path) -> None:
    config = json.loads((run / "final/adapter/adapter_config.json").read_text(encoding="utf-8"))
    start = Path(config["base_model_name_or_path"])
    before, after = weights(start), weights(run / "final")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in config["target_modules"]}, "the matrices beside paths, no other"
    state = load_file(max(run.glob("checkpoints/*")) / "optimizer.safetensors")
    moved = {name.rpartition("/")[0] for name in state if not name.startswith("lora/")}
    assert moved and all(name.endswith((".lora_A", ".lora_B")) for name in moved), "the optimizer holds nothing else"
    base = {name: tensor for name, tensor in state.items() if name.endswith(".weight")}
    own = dict(load_bundle(start).model.named_parameters())
    assert base and all(torch.equal(tensor, own[name.removeprefix("lora/")]) for name, tensor in base.items())
    losses = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = [line["loss"] for line in losses if line["event"] == "evaluation"]
    assert scores[-1] < scores[0], "it learns"


def bits(run: Path) -> dict[int, list[object]]:
    """By step: the loss, and at a checkpoint the digest of weights and optimizer."""
    found: dict[int, list[object]] = {}
    for line in map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines()):
        if line["event"] in ("step", "checkpoint"):
            found.setdefault(line["step"], []).append(line.get("digest") or line["loss"].hex())
    return found


@pytest.mark.promise("T5")
@pytest.mark.parametrize(("kind", "accumulation"), [("qwen3", 1), ("gpt2", 2)])
def test_a_resume_is_exact_and_needs_no_start(
    kind: str, accumulation: int, bases: Path, tmp_path: Path, figure: Figure
) -> None:
    words = ("train.steps=60", "train.save_every=10", "evaluate.every=1000", f"train.accumulation={accumulation}")
    run = train_paths(kind, bases, tmp_path, *words)
    assert verify_run(run).last == 60
    before = bits(run)
    shutil.rmtree(tmp_path / "start")
    for path in (run / "final", *sorted((run / "checkpoints").glob("step-*"))[1:]):
        shutil.rmtree(path)
    again = wenlu("train", "--resume", run)
    assert again.exit_code == 0, again.output
    assert bits(run) == before and len(before) == 60
    assert verify_run(run).last == 60
    figure(f"LoRA of {kind}, after step 10: the next 50 losses and 5 digests are equal to the last bit")


@pytest.mark.parametrize("run", list(KINDS), indirect=True, ids=list(KINDS))
def test_the_exported_adapter_merges_into_what_the_run_ended_with(run: Path, tmp_path: Path) -> None:
    exported = wenlu("export", run, "--format", "peft", "-o", tmp_path / "adapter")
    assert exported.exit_code == 0, exported.output
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "MANIFEST.json"}
    start = json.loads((tmp_path / "adapter/adapter_config.json").read_text(encoding="utf-8"))[
        "base_model_name_or_path"
    ]
    merged = wenlu("merge", tmp_path / "adapter", "--base", start, "-o", tmp_path / "merged", "--json")
    assert merged.exit_code == 0, merged.output
    assert "other weights" not in merged.stderr
    assert json.loads(merged.stdout) == {
        "adapter": str(tmp_path / "adapter"),
        "base": start,
        "path": str(tmp_path / "merged"),
    }
    final, found = weights(run / "final"), weights(tmp_path / "merged")
    assert final.keys() == found.keys() and all(torch.equal(final[name], found[name]) for name in final)
    assert not (tmp_path / "merged/adapter").exists()
    assert load_bundle(tmp_path / "merged").task == load_bundle(run).task


@pytest.mark.parametrize(
    ("words", "id"),
    [
        (("lora.rank=-1",), "training.range"),
        (("lora.rank=2", "lora.alpha=0"), "training.range"),
        (("lora.dropout=0.5",), "core.setting_unused"),
        (("lora.rank=2", "lora.targets=['c_attn']"), "core.settings_invalid"),
        (("lora.rank=2", "lora.targets=[]"), "models.lora_target"),
    ],
)
def test_wrong_settings_are_refused(words: tuple[str, ...], id: str, bases: Path, tmp_path: Path) -> None:
    given = ("train", *COMMON, f"model.start={bases / 'qwen3'}", "--data", bases / "new.txt", "-o", tmp_path / "run")
    assert refusal(*given, *words) == id
    assert not (tmp_path / "run").exists()


def test_what_cannot_have_lora_is_refused(bases: Path, tmp_path: Path) -> None:
    new = ("train", *COMMON, *TRANSFORMER, "lora.rank=2", "--data", bases / "new.txt", "-o", tmp_path / "run")
    assert refusal(*new) == "training.lora_start"
    dense = (
        "train",
        *COMMON,
        *TASKS["gpt2"],
        f"model.start={bases / 'gpt2'}",
        "lora.rank=2",
        "lora.targets=['q', 'gate']",
    )
    assert refusal(*dense, "--data", tmp_path / "not-there.txt", "-o", tmp_path / "run") == "models.lora_target"
    assert refusal("export", bases / "qwen3", "--format", "peft", "-o", tmp_path / "out") == "exchange.no_adapter"
    assert refusal("merge", bases / "qwen3", "--base", bases / "qwen3", "-o", tmp_path / "out") == "exchange.no_adapter"
    assert (
        refusal("merge", tmp_path / "gone", "--base", bases / "qwen3", "-o", tmp_path / "out") == "core.model_not_found"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_adapters_that_do_not_fit_are_refused(
    language: str, run: Path, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENLU_LANG", language)
    adapter = tmp_path / "adapter"

    def merging(base: Path = tmp_path / "start", *, wreck: str = "", tensors: str = "", **config: object) -> str:
        shutil.rmtree(adapter, ignore_errors=True)
        shutil.copytree(run / "final/adapter", adapter)
        file, weights = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | config), encoding="utf-8")
        if tensors:
            found = load_file(weights)
            name = next(name for name in found if "q_proj.lora_A" in name)
            save_file(found | {name.replace("q_proj.lora_A", tensors): found[name].clone()}, weights)
        if wreck == "pickle":
            weights.rename(adapter / "adapter_model.bin")
        elif wreck:
            weights.write_bytes(weights.read_bytes()[:-9])
        return refusal("merge", adapter, "--base", base, "-o", tmp_path / "out")

    assert merging(r=3) == "models.adapter_shape"
    assert merging(r=0) == "models.config_unsupported"
    assert merging(r=float("inf")) == merging(lora_alpha=float("nan")) == "models.config_unsupported"
    assert merging(rank_pattern={"q_proj": 2.5}) == "models.adapter_shape"
    assert merging(use_dora=True) == "models.config_unsupported"
    assert merging(peft_type="IA3") == "models.config_unsupported"
    assert merging(alpha_pattern={".*q_proj": 3}) == "models.config_unsupported"
    assert merging(lora_alpha="many") == "models.config_type"
    assert merging(bases / "gpt2") == "models.adapter_modules"
    assert merging(tensors="q_proj.lora_magnitude_vector") == "models.tensors_unused"
    assert merging(tensors="other.lora_A") == "models.adapter_modules"
    assert merging(wreck="pickle") == "models.pickle_refused"
    assert merging(wreck="cut") == "models.weights_damaged"
    assert merging(tmp_path / "gone") == "core.model_not_found"
    assert not (tmp_path / "out").exists()


def test_another_base_of_the_same_shape_is_announced(run: Path, tmp_path: Path) -> None:
    found = weights(tmp_path / "start")
    save_file(
        {name: 2 * tensor for name, tensor in found.items()}, tmp_path / "start/model.safetensors", {"format": "pt"}
    )
    (tmp_path / "start/MANIFEST.json").unlink()
    merged = wenlu("merge", run, "--base", tmp_path / "start", "-o", tmp_path / "out")
    assert merged.exit_code == 0, merged.output
    assert "other weights" in merged.stderr
