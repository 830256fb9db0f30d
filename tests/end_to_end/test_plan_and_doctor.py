"""``wenlu plan`` and ``wenlu doctor`` as a user types them."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from skips import needs_posix
from tiny_training import SMALL, TRANSFORMER, tiny_store, tiny_texts
from wenlu.cli.commands import doctor, plan
from wenlu.cli.main import main
from wenlu.core import machine
from wenlu.core.messages import text as message
from wenlu.core.publication import storage_error
from wenlu.training import checkup, planning
from wenlu.training.trial import Corpus

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
    assert (
        "1,234" in dry.stdout
        and "No data was given" in dry.stdout
        and "No steps were tried (by the formulas" in dry.stdout
    )
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


def refused(monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str]:
    """The exit code and the message of a plan that must not come as far as a trial."""
    monkeypatch.setattr(planning, "start_trial", lambda *_, **__: pytest.fail("tried"))
    found = wenlu("plan", *words)
    return found.exit_code, found.stderr


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["evaluate.stride=17"], "evaluate.stride"),
        (["model.max_positions=15"], "train.sequence_length"),
        (["task.name=nothing"], "nothing"),
        (["model.tie_embeddings=true", "optimizer.head_rate=0.1"], "optimizer.head_rate"),
        (["model.embedding_size=7"], "embedding_size"),
        (["--data", "store"], "wenlu data pack"),
        (["-o", "old"], "old"),
        (["-o", "text.txt"], "text.txt"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_what_train_refuses_plan_refuses(
    extra: list[str], said: str, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_store(tmp_path / "store")
    (tmp_path / "store" / "store.json").write_text("{}", encoding="utf-8")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.toml").write_text("", encoding="utf-8")
    trained = wenlu("train", *words, *extra)
    assert trained.exit_code in (1, 2), trained.output
    before = sorted(tmp_path.rglob("*"))
    code, told = refused(monkeypatch, *words, *extra)
    assert (code, told.splitlines()[-3:]) == (trained.exit_code, trained.stderr.splitlines()[-3:])
    assert said in told and sorted(tmp_path.rglob("*")) == before


def test_a_corpus_without_training_text_is_refused(words: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Corpus("prepared", 50, 0, 10)
    monkeypatch.setattr(planning, "look_at_corpus", lambda *_: (empty, None))
    code, said = refused(monkeypatch, *words)
    assert code == 2 and "train" in said


TRIALS = {
    "killed": "import os; os.kill(os.getpid(), 9)",
    "out of memory": "from wenlu.cli.commands import plan\nimport wenlu.training.trial as t, sys\n"
    "def short(*_):\n raise RuntimeError('DefaultCPUAllocator: not enough memory: you tried')\n"
    "t.run_trial = short\nplan.trial(sys.argv[1])",
    "ours": "from wenlu.cli.commands import plan\nimport wenlu.training.trial as t, sys\n"
    "from wenlu.core.errors import DataError\n"
    "def wrong(*_):\n raise DataError('data.empty_split')\n"
    "t.run_trial = wrong\nplan.trial(sys.argv[1])",
    "broken": "raise ValueError('nobody knows')",
}
TOLD = {
    "killed": ("ran out of memory", "内存用尽"),
    "out of memory": ("ran out of memory", "内存用尽"),
    "ours": ("the trial failed: ", "试跑失败："),
    "broken": ("the trial failed: ValueError: nobody knows", "试跑失败：ValueError: nobody knows"),
}


@pytest.mark.parametrize("how", TRIALS)
def test_a_trial_that_fails_is_told_and_fails_the_check(
    how: str, words: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "TRIAL", (sys.executable, "-c", TRIALS[how]))
    checked = wenlu("plan", *words, "--check")
    assert checked.exit_code == 3 and TOLD[how][0] in checked.stdout, checked.output
    assert ("does not fit" in checked.stderr) == (TOLD[how][0] == "ran out of memory")
    assert "Traceback" not in checked.stdout
    if how in ("killed", "broken"):
        monkeypatch.setenv("WENLU_LANG", "zh")
        planned = wenlu("plan", *words)
        assert planned.exit_code == 0 and TOLD[how][1] in planned.stdout
    if how == "killed":
        record = json.loads(wenlu("plan", *words, "--json").stdout)
        assert not record["fits"] and record["trial"] is None and record["largest_batch"] == 1
        assert record["trial_failure"]["id"] == "plan.trial_out_of_memory"


def test_what_a_killed_plan_left_is_removed_and_told(scarce: None, words: list[object], tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f".wenlu-plan.tmp-{pid}" / "run").mkdir(parents=True)
    planned = wenlu("plan", *words, *LARGE)
    assert planned.exit_code == 0, planned.output
    assert f"wenlu-plan.tmp-{dead.pid}" in planned.stderr
    assert not list(tmp_path.glob(".wenlu-plan*"))


def test_a_limit_of_addresses_is_a_limit_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """``ulimit -v``, for plans, for the warning before a run, and for doctor."""
    needs_posix()
    import resource

    sizes = {"VmSize": 5 << 30, "MemTotal": 64 << 30, "MemAvailable": 32 << 30}
    monkeypatch.setattr(machine, "_fields", lambda _: sizes)
    monkeypatch.setattr(machine, "_groups", lambda _: [])
    monkeypatch.setattr(resource, "getrlimit", lambda _: (6 << 30, resource.RLIM_INFINITY))
    assert machine.memory() == machine.Memory(64 << 30, 6 << 30, 1 << 30)


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
