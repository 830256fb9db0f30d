"""The promises of docs/en/reliability.md: which test keeps which, how much it tries, and the figure it saw.

    @pytest.mark.promise("T1")
    def test_killed_runs(lane: Lane, figure: Figure) -> None:
        for _ in range(lane(ci=40, nightly=200)): ...
        figure("40 kills: 0 unreadable runs, 0 conflicting losses")

``make test`` runs the small numbers, ``make nightly`` the large ones and the tests marked ``nightly`` too; both print
the figures of all promises at the end.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Protocol

import pytest

NIGHTLY = "--nightly"
SEEN = pytest.StashKey[dict[str, list[tuple[str, str]]]]()  # by promise: the test, what it saw


class Lane(Protocol):
    """How many times a test tries, in each lane."""

    def __call__(self, *, ci: int, nightly: int) -> int: ...


class Figure(Protocol):
    """Say what was seen: ``figure("40 kills: 0 conflicting losses")``."""

    def __call__(self, seen: str) -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--nightly``: large numbers, and the tests that are too long for every day."""
    parser.addoption(NIGHTLY, action="store_true", help="large numbers of tries, and the tests marked nightly")


def pytest_configure(config: pytest.Config) -> None:
    """The two markers; a promise is named by its number in the design, T1 to T40."""
    config.addinivalue_line("markers", "promise(number): keeps a promise of docs/en/reliability.md")
    config.addinivalue_line("markers", "nightly: too long for make test; runs in make nightly")
    config.stash[SEEN] = defaultdict(list)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out, visibly: pytest counts them as deselected."""
    if config.getoption(NIGHTLY):
        return
    long = [item for item in items if item.get_closest_marker("nightly")]
    if long:
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


@pytest.fixture
def lane(request: pytest.FixtureRequest) -> Lane:
    """The number of tries of this lane."""

    def count(*, ci: int, nightly: int) -> int:
        return nightly if request.config.getoption(NIGHTLY) else ci

    return count


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Note a figure under the promise that the test is marked with."""
    mark = request.node.get_closest_marker("promise")
    assert mark is not None, "a test with a figure is marked with its promise"

    def note(seen: str) -> None:
        request.config.stash[SEEN][mark.args[0]].append((request.node.nodeid, f"{seen}  ({request.node.name})"))

    return note


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """A test that failed has kept nothing, whatever it saw before."""
    if call.excinfo is not None:
        for seen in item.config.stash[SEEN].values():
            seen[:] = [(test, figure) for test, figure in seen if test != item.nodeid]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """All figures, by promise."""
    seen = config.stash[SEEN]
    if any(seen.values()):
        terminalreporter.section("promises kept")
        for number in sorted(seen, key=lambda name: int(name[1:])):
            for _, line in seen[number]:
                terminalreporter.write_line(f"{number:>4}  {line}")
