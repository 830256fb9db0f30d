"""What all tests share: an English, isolated environment; seconds per folder; no skip without a listed reason."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' tensors are tiny: threads only cost

from skips import REASONS

pytest_plugins = ["promises"]

# A slow machine is no failure; a failure that was found must be found again.
hypothesis.settings.register_profile("wenlu", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("wenlu")

TESTS = Path(__file__).parent
_seconds: dict[str, float] = defaultdict(float)
_counts: dict[str, int] = defaultdict(int)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """English messages, a cache of its own, no colours: whatever the person at the keyboard has set."""
    monkeypatch.setenv("WENLU_LANG", "en")
    monkeypatch.setenv("WENLU_HOME", str(tmp_path_factory.getbasetemp() / "wenlu-home"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent / "src"))  # for the processes that tests start


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chinese messages."""
    monkeypatch.setenv("WENLU_LANG", "zh")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip whose reason is not in skips.py is a failure."""
    report = yield
    if report.skipped and call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception):
        reason = str(getattr(call.excinfo.value, "msg", ""))
        if reason not in REASONS:
            report.outcome = "failed"
            report.longrepr = f"skipped for a reason that tests/skips.py does not list: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole file is never skipped."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = "a whole file is skipped; call a function of tests/skips.py in each test instead"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the seconds of each folder."""
    folder = Path(report.nodeid.split("::")[0]).parts[:2]
    name = folder[-1] if len(folder) > 1 else folder[0]
    _seconds[name] += report.duration
    _counts[name] += report.when == "call"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seconds of each folder above pytest's own last line."""
    if len(_seconds) > 1:
        terminalreporter.section("seconds per folder")
        for name, seconds in sorted(_seconds.items(), key=lambda entry: -entry[1]):
            terminalreporter.write_line(f"{seconds:8.1f} s  {_counts[name]:5d} tests  {name}")
