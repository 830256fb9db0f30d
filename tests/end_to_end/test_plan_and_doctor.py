"""``wenlu plan`` and ``wenlu doctor`` as a user types them."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tiny_training import SMALL, TRANSFORMER, tiny_texts
from wenlu.cli.commands import doctor
from wenlu.cli.main import main
from wenlu.core import machine
from wenlu.core.messages import text as message
from wenlu.core.publication import storage_error
from wenlu.training import checkup

TINY = [*TRANSFORMER, *SMALL, "tokenizer.kind=characters", "data.document=line", "train.save_every=5"]


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A settings file and a text, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    lines = "\n".join(f"{number} {line}" for number, line in enumerate(tiny_texts(80)))
    (tmp_path / "text.txt").write_text(lines, encoding="utf-8")
    (tmp_path / "mine.toml").write_text("[evaluate]\nmax_tokens = 500\n", encoding="utf-8")
    return ["mine.toml", *TINY, "--data", "text.txt"]


LARGE = ["train.batch_size=4096", "train.sequence_length=256"]


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """So little free memory that the trial of a large batch is left out, which makes a plan quick."""
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(None, None, 600_000_000))


def test_a_plan_agrees_with_the_run(words: list[object], tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("open('executed', 'w')", encoding="utf-8")  # the user's own; not for the trial
    planned = wenlu("plan", *words, "--json")
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.stdout)
    there = sorted(path.name for path in tmp_path.iterdir())
    assert there == ["mine.toml", "random.py", "text.txt"], "a plan leaves nothing and executes nothing"
    trained = wenlu("train", *words, "-o", "run")
    assert trained.exit_code == 0, trained.output

    splits = json.loads(Path("run/data.json").read_text(encoding="utf-8"))["splits"]
    assert plan["corpus"]["source"] == "sampled" and plan["corpus"]["train_tokens"] == splits["train"]["tokens"]
    assert plan["steps"] == 12 and plan["fits"] and plan["trial_failure"] is None
    checkpoint = max(Path("run/checkpoints").iterdir())
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    assert abs(plan["trial"]["checkpoint_bytes"] / size - 1) < 0.02
    parts = plan["parts"]
    assert plan["parameters"]["total"] * 4 == parts["weights"] == parts["gradients"]
    assert plan["peak_bytes"] == plan["trial"]["peak_bytes"] > parts["libraries"] > 100e6
    seconds = plan["seconds"]
    assert seconds["total"] == pytest.approx(sum(value for name, value in seconds.items() if name != "total"))
    assert seconds["steps"] == pytest.approx(12 * plan["trial"]["seconds_per_step"])


def test_a_dry_run_without_data_says_what_it_supposes(
    monkeypatch: pytest.MonkeyPatch, words: list[object], tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(None, None, 300_000_000))
    dry = wenlu("train", "mine.toml", *TRANSFORMER, "tokenizer.vocab_size=1234", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "1,234" in dry.stdout and "No data was given" in dry.stdout and "No steps were tried (memory)" in dry.stdout
    assert "does not suffice even for one row" in dry.stdout
    assert not (tmp_path / "runs").exists()


def test_check_fails_a_run_that_does_not_fit(scarce: None, words: list[object]) -> None:
    assert wenlu("plan", *words, *LARGE).exit_code == 0
    checked = wenlu("plan", *words, *LARGE, "--check")
    assert checked.exit_code == 3
    assert "memory at most" in checked.stdout and "does not fit" in checked.stderr
    advice = checked.stdout.split("The same step with less: ")[1].split("\n")[0]
    rows, times = (int(word.partition("=")[2]) for word in advice.split())
    assert rows < 4096 and rows * times == 4096


def test_a_plan_in_chinese(scarce: None, words: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENLU_LANG", "zh")
    planned = wenlu("plan", *words, *LARGE)
    assert "内存峰值" in planned.stdout and "当前可用内存不够" in planned.stdout


def test_a_model_that_is_counted_has_no_plan(words: list[object]) -> None:
    refused = wenlu("plan", "--preset", "ngram-5", "--data", "text.txt")
    assert refused.exit_code == 2 and "no steps to plan" in refused.stderr


# ---- doctor ----


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, dict[str, object]]:
    """Facts of this machine, measured briefly, with everything that could be wrong set right."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkup, "_MEASURED_SECONDS", 0.01)
    monkeypatch.setattr(checkup, "_COPIED_BYTES", 1 << 20)
    facts = checkup.gather_facts()
    facts["processor"] |= {"cores_allowed": 4, "cores_quota": None, "has_bf16": True, "features": ["avx2"]}
    facts["threads"] |= {"OMP_NUM_THREADS": None, "OMP_WAIT_POLICY": "PASSIVE"}
    facts["speed"] |= {"fp32_one_thread": 50.0, "fp32_all_threads": 190.0, "bf16_all_threads": 300.0}
    facts["memory"] |= {"free": 16 << 30}
    for place in ("runs", "home"):
        facts[place] |= {"free": 99 << 30, "writable": True, "sync_seconds": 0.002}
    facts["versions"] |= {"torch": "2.13.0+cpu", "torch_needed": "2.10", "torch_debug": False}
    facts["compiler"] |= {"path": "/usr/bin/c++"}
    facts["cuda"] |= {"driver": None, "devices": [], "failure": None}
    facts["surroundings"] |= {"encoding": "UTF-8", "clock_behind": False}
    return facts


WRONG: dict[str, tuple[str, dict[str, object]]] = {
    "unwritable": ("home", {"writable": False}),
    "old_torch": ("versions", {"torch": "2.9.1+cu128"}),
    "clock_behind": ("surroundings", {"clock_behind": True}),
    "no_avx2": ("processor", {"machine": "x86_64", "features": []}),
    "one_core": ("processor", {"cores_allowed": 1}),
    "quota": ("processor", {"cores_quota": 1.5}),
    "omp_threads": ("threads", {"OMP_NUM_THREADS": "2"}),
    "omp_spins": ("threads", {"OMP_WAIT_POLICY": "active"}),
    "debug_build": ("versions", {"torch_debug": True}),
    "poor_scaling": ("speed", {"fp32_all_threads": 60.0}),
    "no_bf16": ("processor", {"has_bf16": False}),
    "bf16_slow": ("speed", {"bf16_all_threads": 100.0}),
    "low_memory": ("memory", {"free": 1 << 30}),
    "low_disk": ("runs", {"free": 1 << 30}),
    "slow_sync": ("runs", {"sync_seconds": 0.05}),
    "no_compiler": ("compiler", {"path": None}),
    "cuda_unused": ("cuda", {"driver": "570.1"}),
    "cuda_broken": ("cuda", {"driver": "570.1", "failure": "CUDA driver initialization failed"}),
    "not_utf8": ("surroundings", {"encoding": "ANSI_X3.4-1968"}),
}


def test_each_thing_that_is_wrong_is_found_and_nothing_else(
    healthy: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(checkup.findings(healthy)) == []
    for id, (table, values) in WRONG.items():
        found = list(checkup.findings(healthy | {table: healthy[table] | values}))
        assert [finding.id for finding in found] == [id]
        broken = found[0].severity == "broken"
        assert broken == (id in ("unwritable", "old_torch", "clock_behind", "cuda_broken"))
        for language in ("en", "zh"):
            monkeypatch.setenv("WENLU_LANG", language)
            assert "{" not in message(f"doctor.{id}", **found[0].values)


def test_what_is_not_known_is_no_finding(healthy: dict[str, dict[str, object]]) -> None:
    unknown = {"free": None, "sync_seconds": None}
    assert not list(checkup.findings(healthy | {"memory": unknown, "runs": healthy["runs"] | unknown}))


def test_a_broken_driver_and_a_folder_of_sources_are_no_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA driver initialization failed\nmore of it")

    distribution = importlib.metadata.distribution

    def all_but_ours(name: str) -> importlib.metadata.Distribution:
        if name == "wenlu":
            raise importlib.metadata.PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", fail)
    monkeypatch.setattr(importlib.metadata, "distribution", all_but_ours)
    found = checkup._cuda()
    assert (found["failure"], found["devices"]) == ("CUDA driver initialization failed", [])
    assert checkup._versions()["torch_needed"] == "0"


@pytest.mark.parametrize(("code", "writable"), [(errno.ENOSPC, True), (errno.EROFS, False), (errno.EACCES, False)])
def test_a_full_disk_is_not_said_to_belong_to_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, writable: bool
) -> None:
    def fail(**_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", fail)
    found = machine.disk(tmp_path / "below")
    assert (found.writable, found.sync_seconds) == (writable, None)


def test_a_folder_that_may_not_be_searched_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Path.is_dir of Python 3.11 does below such a folder; root may search every one."""

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert machine.nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert "Permission denied" in str(storage_error(PermissionError(errno.EACCES, "Permission denied"), tmp_path / "a"))


def test_doctor_prints_facts_and_ends_with_what_it_found(
    healthy: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts_with(change: Callable[[], None]) -> Result:
        change()
        monkeypatch.setattr(checkup, "gather_facts", lambda: healthy)
        return wenlu("doctor")

    well = facts_with(lambda: None)
    assert well.exit_code == 0 and "Nothing is wrong" in well.stdout
    assert "GFLOP/s" in well.stdout and "sync_seconds" in well.stdout
    healthy["versions"]["wenlu[hf]"] = None
    ill = facts_with(lambda: healthy["home"].update(writable=False))
    assert ill.exit_code == 3 and "BROKEN: " in ill.stdout and 'pip install "wenlu[hf]"' in ill.stdout


def test_doctor_in_json_measures_for_itself(healthy: dict[str, dict[str, object]]) -> None:
    found = wenlu("doctor", "--json")
    record = json.loads(found.stdout)
    assert set(healthy) | {"findings"} == set(record)
    assert record["speed"]["fp32_one_thread"] > 0 and record["memory"]["free"] > 0
    assert doctor._shown("memory", "limit", None) == "unknown"
