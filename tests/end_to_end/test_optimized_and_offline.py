"""What Wenlu does depends on no ``assert`` and on no network: the same results with neither.

Every day: one journey (train, verify, evaluate, score, generate, a hundred damaged files) as it is, and again under
``python -O`` in an empty network namespace. In the nightly lane: all tests of ``make test`` in the second way.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from promises import Figure
from skips import needs_posix

TESTS = Path(__file__).parents[1]
JOURNEY = TESTS / "journey.py"
# A new namespace has no network but a loopback device, which is down; servers of tests need it up.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
    fcntl.ioctl(device, 0x8914, struct.pack("16sh", b"lo", 1))
os.execv(sys.argv[1], sys.argv[1:])
"""


def empty_namespace() -> list[str]:
    """The command that runs another one without a network; empty where the system does not permit it."""
    unshare = shutil.which("unshare")
    permitted = unshare and subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode == 0
    return [str(unshare), "-rn"] if permitted else []


def journey(folder: Path, *, before: list[str], options: list[str]) -> dict[str, dict[str, list[object]]]:
    """What came of the journey in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    words = [*before, sys.executable, *options, str(JOURNEY), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    record: dict[str, dict[str, list[object]]] = json.loads(done.stdout)
    return record


@pytest.mark.promise("T40")
def test_the_same_journey_without_asserts_and_without_a_network(tmp_path: Path, figure: Figure) -> None:
    needs_posix()
    namespace = empty_namespace()
    plain = journey(tmp_path / "plain", before=[], options=[])
    bare = journey(tmp_path / "bare", before=namespace, options=["-O"])
    assert bare == plain
    files = plain["journey"].pop("files")
    codes = [code for code, _ in plain["journey"].values()]
    assert codes == [0, 0, 0, 0, 0, 0, 0, 2, 2, 2]
    for place, (code, said) in plain["faults"].items():
        assert code in (0, 2) and not str(said).endswith(")"), f"{place}: {code} {said}"
    where = "in an empty network namespace" if namespace else "with a refused network (unshare is not permitted)"
    figure(
        f"{len(codes)} commands and {len(plain['faults'])} damaged files under python -O {where}:"
        f" the same results, {len(files)} files the same to the bit, 0 connections"
    )


@pytest.mark.nightly
@pytest.mark.promise("T40")
def test_the_whole_suite_without_asserts_and_without_a_network(tmp_path: Path, figure: Figure) -> None:
    needs_posix()
    namespace = empty_namespace()
    start = [sys.executable, "-c", LOOPBACK_UP] if namespace else []
    pytest_words = ["-m", "pytest", "-W", "ignore::pytest.PytestConfigWarning", f"--ignore={__file__}"]
    words = [*namespace, *start, sys.executable, "-O", *pytest_words, f"--basetemp={tmp_path / 'inner'}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=TESTS.parent, timeout=3000)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(r"\d+ passed", last)
    figure(f"python -O{', empty network namespace' if namespace else ''}: {last}")
