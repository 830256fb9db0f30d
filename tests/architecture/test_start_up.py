"""``wenlu --help`` and every ``wenlu VERB --help`` are quick and import nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from skips import needs_posix
from wenlu.cli.main import DATA, TOKENIZER, VERBS

LIMIT_SECONDS = 0.3
HEAVY = ("torch", "numpy", "pydantic", "rich", "tokenizers")
PAGES = [
    [],
    *[[verb] for verb in VERBS],
    *[["tokenizer", verb] for verb in TOKENIZER],
    *[["data", verb] for verb in DATA],
]


@pytest.mark.parametrize("words", PAGES, ids=lambda words: " ".join(["wenlu", *words]))
def test_help_is_quick(words: list[str]) -> None:
    """Processor time of the whole process, the best of three; the first may have to compile the files."""
    needs_posix()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    taken = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "wenlu", *words, "--help"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        assert process.stdout is not None
        page = process.stdout.read().decode()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, page
        assert page.startswith("Usage: ")
        taken.append(usage.ru_utime + usage.ru_stime)
        if taken[-1] < LIMIT_SECONDS:
            return
        time.sleep(0.5)
    raise AssertionError(f"wenlu {' '.join(words)} --help took {min(taken):.2f} s of processor time")


def test_help_imports_nothing_heavy() -> None:
    program = f"""
import sys
from wenlu.cli.main import main
for words in {PAGES!r}:
    try:
        main([*words, "--help"])
    except SystemExit as leave:
        assert not leave.code, words
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    assert not heavy, f"wenlu {{' '.join(words)}} --help imports {{heavy}}"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--preset", "bert-tiny"], ["--data", "text.txt"], ["--dry-run"]])
def test_options_that_contradict_each_other_are_refused_at_once(words: list[str]) -> None:
    """Without the seconds that torch takes."""
    program = f"""
import sys
from wenlu.cli.main import main
try:
    main(["train", "--resume", "nowhere", *{words!r}])
except SystemExit as leave:
    assert leave.code == 2, leave.code
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert words[0] in done.stderr


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = f"import sys, wenlu; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
