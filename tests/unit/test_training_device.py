"""Where a run computes: everything follows the chosen device, and what the machine lacks is refused with a remedy."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from skips import needs_cuda
from tiny_training import GPT2, LSTM, TRANSFORMER, losses, tiny_settings, tiny_store
from wenlu.bundle import load_bundle
from wenlu.cli.main import main
from wenlu.core.errors import DeviceError, SettingsError
from wenlu.data.store import Store
from wenlu.evaluation.evaluator import evaluate_split
from wenlu.models import attention
from wenlu.models.config import StackConfig
from wenlu.models.device import device_of, pick_device
from wenlu.tasks import _targets
from wenlu.training.precision import machine, resolve_machine
from wenlu.training.run import resume_run, train_run
from wenlu.training.settings import TrainSettings
from wenlu.training.verification import verify_run

SCRIPT = Path(__file__).parents[1] / "pretend_device.py"
JOURNEYS = {
    "gpt2": GPT2,
    "qwen3": (*TRANSFORMER, "optimizer.name=muon", "train.attention=eager", "train.accumulation=2"),
    "lstm": LSTM,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return tiny_store(tmp_path / "corpus")


@pytest.fixture(scope="module")
def journeys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """What training, stopping, resuming, verifying, replaying, scoring and generating give on both devices."""
    words = [sys.executable, "-W", "error", str(SCRIPT), str(tmp_path_factory.mktemp("journeys")), json.dumps(JOURNEYS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", list(JOURNEYS))
def test_everything_follows_the_device(kind: str, journeys: dict[str, dict[str, dict[str, Any]]]) -> None:
    """On a device that refuses tensors of the processor nothing fails, and the numbers are those of the processor."""
    there, here = journeys[kind]["cuda"], journeys[kind]["cpu"]
    assert (there["device"], here["device"]) == ("pretend", "cpu")
    assert there["verified"] == here["verified"] == 12
    assert there["text"] == here["text"]
    if kind != "lstm":  # whose cell is another formula there
        assert there["losses"] == here["losses"]
    for left, right in zip(there["losses"], here["losses"], strict=True):
        assert float.fromhex(left[1]) == pytest.approx(float.fromhex(right[1]), rel=1e-6)
    for name in ("evaluation", "replayed", "score"):
        assert there[name] == pytest.approx(here[name], rel=1e-5)


def test_cuda_is_refused_where_there_is_none(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match="use cpu or auto"):
        train_run(tiny_settings("train.device=cuda"), tmp_path / "run", store=store)
    assert not (tmp_path / "run").exists()
    for words in (["generate", "x"], ["score", "x"], ["evaluate"]):
        with pytest.raises(SystemExit) as left:
            main([*words, "--device", "cuda"])
        assert left.value.code == 1
        assert "CUDA was asked for" in capsys.readouterr().err


def test_the_device_is_decided_once(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train_run(tiny_settings("train.steps=2"), tmp_path / "run", store=store)
    content = tomllib.loads((tmp_path / "run" / "run.toml").read_text(encoding="utf-8"))
    assert (content["train"]["device"], content["train"]["deterministic"]) == ("cpu", True)
    status = json.loads((tmp_path / "run" / "status.json").read_text(encoding="utf-8"))
    assert status["device"] == "cpu, 1 threads, fp32"
    (tmp_path / "run" / "status.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"then 'cpu', now 'cuda'|then cpu, now cuda"):
        resume_run(tmp_path / "run", overrides=["train.device=cuda"], store=store)


def test_determinism_is_a_setting_of_cuda_only(tmp_path: Path, store: Store) -> None:
    with pytest.raises(SettingsError, match=r"train\.deterministic"):
        train_run(tiny_settings("train.device=cpu", "train.deterministic=false"), tmp_path / "run", store=store)
    for device, deterministic, expected in (("cuda", True, True), ("cuda", False, False), ("cpu", True, False)):
        settings = TrainSettings(threads=1, device=device, deterministic=deterministic)  # type: ignore[arg-type]
        with machine(settings):
            assert torch.are_deterministic_algorithms_enabled() is expected
        assert not torch.are_deterministic_algorithms_enabled()


def test_torch_is_left_as_it_was_found() -> None:
    settings = TrainSettings(threads=1, device="cuda")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with machine(settings):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("value", "works"), [(":16:8", True), (":4096:8", True), (":4096:2:16:8", False), ("", False)])
def test_a_workspace_that_cublas_cannot_repeat_with_is_refused(
    value: str, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", value)
    expected = nullcontext() if works else pytest.raises(DeviceError, match="CUBLAS_WORKSPACE_CONFIG")
    with expected, machine(TrainSettings(threads=1, device="cuda")):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with machine(TrainSettings(threads=1, device="cuda", deterministic=False)):
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("device", "blocks"), [("cpu", 4), ("meta", 1)])
def test_a_chunk_is_cut_for_a_processor_only(device: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator has no second-level cache to stay in, and each cut costs it launches."""
    calls: list[int] = []
    plain = _targets._to_gradient

    def counting(x_RV: Tensor, column_R1: Tensor) -> Tensor:
        calls.append(len(x_RV))
        return plain(x_RV, column_R1)

    monkeypatch.setattr(_targets, "_to_gradient", counting)
    logits = torch.zeros(64, _targets._BLOCK_ELEMENTS // 16, device=device)
    _targets._loss_and_gradient(logits, torch.zeros(64, dtype=torch.int64, device=device))
    assert calls == [64 // blocks] * blocks


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("masked", [False, True])
def test_masked_attention_of_an_accelerator_has_no_groups(
    device: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of CUDA's fused kernels takes both a mask and groups: one that does would write down all the weights."""
    given: list[tuple[int, bool]] = []
    plain = attention.F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, *, enable_gqa: bool, **options: Any) -> Tensor:
        given.append((k.shape[1], enable_gqa))
        assert k.shape == v.shape
        return plain(q, k, v, enable_gqa=enable_gqa, **options)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", watched)
    grouped = StackConfig(
        hidden_size=32, num_layers=1, num_heads=4, num_kv_heads=2, intermediate_size=64, max_positions=8
    )
    layer = attention.Attention(grouped).to(device)
    allowed = torch.ones(1, 1, 5, 5, dtype=torch.bool, device=device) if masked else None
    visible = attention.Visibility(allowed, is_causal=not masked)
    assert layer(torch.zeros(2, 5, 32, device=device), visible, None, None).shape == (2, 5, 32)
    assert given == [(4, False) if masked and device != "cpu" else (2, True)]


def test_what_cuda_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Test GPU")
    for supported, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, found=supported: found)
        resolved = resolve_machine(TrainSettings())
        assert (resolved.device, resolved.precision) == ("cuda", precision)
    with pytest.raises(DeviceError, match="bf16 on a processor with cuda, Test GPU"):
        resolve_machine(TrainSettings(precision="bf16"))
    assert resolve_machine(TrainSettings(device="cpu")).device == "cpu"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_on_cuda_resumes_exactly(precision: str, tmp_path: Path, store: Store) -> None:
    needs_cuda()
    settings = tiny_settings(
        *GPT2, "train.device=cuda", f"train.precision={precision}", "train.save_every=4", "evaluate.every=6"
    )

    def stopping(*_: object, **__: object) -> dict[str, float]:
        raise KeyboardInterrupt

    train_run(settings, tmp_path / "unbroken", store=store)
    with pytest.raises(KeyboardInterrupt):
        train_run(settings, tmp_path / "broken", evaluate=stopping, store=store)
    resume_run(tmp_path / "broken", evaluate=evaluate_split, store=store)
    assert losses(tmp_path / "unbroken") == losses(tmp_path / "broken")
    assert verify_run(tmp_path / "broken", store=store).last == 12
    assert device_of(load_bundle(tmp_path / "broken", device="cuda").model).type == "cuda"
