"""How every command speaks and ends: results, progress, errors, exit codes, help, in both languages."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import click
import numpy as np
import pytest
from click.testing import CliRunner

from skips import needs_full_device
from wenlu.cli import output, reporter
from wenlu.cli.main import main
from wenlu.cli.parsing import LazyGroup
from wenlu.core.errors import GateError, NotFiniteError, RequestError
from wenlu.core.log import notice, progress, warn


def strict(written: str) -> object:
    """JSON as everybody reads it: Python's reader alone takes NaN and Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(written, parse_constant=refuse)


def test_numbers_that_are_not_finite_are_null_in_json() -> None:
    record = {
        "text": "文炉",
        "rows": [(math.inf, 1.5), {"loss": np.float64("nan")}],
        "path": Path("a"),
        -1: [-math.inf],
    }
    found = {"text": "文炉", "rows": [[None, 1.5], {"loss": None}], "path": "a", "-1": [None]}
    assert strict(output.as_json(record)) == strict(output.as_json(record, indent=2)) == found


@output.command("data")
def command(
    text: str,
    *,
    steps: int = 3,
    rate: Annotated[float | None, click.FloatRange(0, 1, max_open=True)] = None,
    kind: Literal["a", "b"] | None = None,
    name: str | None = None,
) -> None:
    if text == "gate":
        raise GateError("core.unknown_plugin", kind="task", name="x", suggestion="y")
    if text == "diverged":
        raise NotFiniteError("core.unknown_plugin", kind="task", name="x", suggestion="y")
    if text == "request":
        raise RequestError("core.unknown_plugin", kind="task", name="x", suggestion="y")
    if text == "interrupt":
        raise KeyboardInterrupt
    if text == "missing":
        Path("/nonexistent/file").read_text(encoding="utf-8")
    if text == "nameless":
        raise OSError(errno.EIO, "Input/output error")
    if text == "bug":
        raise ZeroDivisionError
    if text == "memory":
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: 9 bytes")
    if text == "leave":
        raise click.exceptions.Exit(143)
    notice("core.type_number")
    warn("core.type_string")
    with progress("core.type_integer", total=3, unit="docs") as bar:
        for _ in range(3):
            bar.advance(detail="loss 1.0")
    record = {"text": text, "steps": steps, "rate": math.inf}
    output.result(record, table=output.Table(["名称", "loss"], [["文炉", 1.5], ["wenlu", -22]]), text="done")


def call(*words: str) -> tuple[int, str, str]:
    outcome = CliRunner().invoke(command, list(words))
    return outcome.exit_code, outcome.stdout, outcome.stderr


def test_results_go_to_standard_output_and_the_rest_to_standard_error() -> None:
    code, out, err = call("x")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "done"
    assert [line.split() for line in lines if line.strip(" ─")][1:] == [
        ["名称", "loss"],
        ["文炉", "1.5"],
        ["wenlu", "-22"],
    ]
    assert "\x1b" not in out + err
    assert err.splitlines()[:2] == ["a number", "warning: a text"]
    assert re.fullmatch(r"a whole number: 3/3 docs loss 1\.0 \[\d+\.\d s\]", err.splitlines()[2])


def test_json_results_and_json_lines() -> None:
    code, out, err = call("文", "--json", "--steps", "5")
    assert code == 0
    assert strict(out) == {"text": "文", "steps": 5, "rate": None}
    records = [json.loads(line) for line in err.splitlines()]
    assert [record["level"] for record in records] == ["info", "warning", "progress"]
    assert records[0]["text"] == "a number"
    assert records[2] | {"seconds": 0} == {
        "level": "progress",
        "id": "core.type_integer",
        "done": 3,
        "total": 3,
        "unit": "docs",
        "detail": "loss 1.0",
        "finished": True,
        "seconds": 0,
    }


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("gate", 3),
        ("diverged", 1),
        ("request", 2),
        ("interrupt", 130),
        ("missing", 2),
        ("memory", 1),
        ("nameless", 1),
        ("leave", 143),
    ],
)
def test_exit_codes(word: str, code: int) -> None:
    found, out, err = call(word)
    assert (found, out) == (code, "")
    assert "Traceback" not in err
    assert err or word == "leave"


def test_a_bug_is_not_hidden() -> None:
    assert isinstance(CliRunner().invoke(command, ["bug"]).exception, ZeroDivisionError)


def test_errors_have_four_parts_and_json_has_them_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("missing")[2] == (
        "error: there is no such file or folder\n  where: /nonexistent/file\n  what to do: check the path\n"
    )
    error = json.loads(call("missing", "--json")[2])["error"]
    assert error == {
        "id": "core.file_not_found",
        "what": "there is no such file or folder",
        "where": "/nonexistent/file",
        "fix": "check the path",
    }
    monkeypatch.setenv("WENLU_LANG", "zh")
    assert call("missing")[2].startswith("错误: 没有这个文件或文件夹\n  位置: /nonexistent/file\n")


USAGE = [
    ([], "TEXT is missing", "缺少 TEXT"),
    (["x", "--stepz", "3"], "did you mean --steps?", "您是不是要用 --steps？"),
    (["x", "--steps", "many"], "'many'; expected: a whole number", "'many'；应为：整数"),
    (["x", "--rate", "1"], "expected: 0 <= x < 1", "应为：0 <= x < 1"),
    (["x", "--kind", "c"], "expected: a, b", "应为：a, b"),
    (["x", "--steps"], "--steps is not used rightly", "--steps 用法不对"),
    (["x", "--json=5"], "--json is not used rightly", "--json 用法不对"),
    (["x", "y", "z"], "2 word(s) too many", "多出 2 个词"),
]


@pytest.mark.parametrize(("words", "english", "chinese"), USAGE, ids=[english for _, english, _ in USAGE])
def test_usage_errors_in_both_languages(
    words: list[str], english: str, chinese: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert english in err
    assert err.startswith("error: ") and "what to do: " in err
    monkeypatch.setenv("WENLU_LANG", "zh")
    assert chinese in call(*words)[2]
    if "--json=5" not in words:
        assert json.loads(call(*words, "--json")[2])["error"]["what"] or words == ["x", "--steps"]


def test_unknown_verbs_name_the_nearest() -> None:
    for words, near in ((["trian"], "train"), (["data", "pak"], "pack"), (["tokenizer", "comprae"], "compare")):
        outcome = CliRunner().invoke(main, words)
        assert outcome.exit_code == 2
        assert f"did you mean {near}?" in outcome.stderr


def test_help_and_version_in_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout.startswith("wenlu 0.")
    for words in ([], ["--help"], ["-h"]):
        outcome = CliRunner().invoke(main, words)
        assert outcome.exit_code == 0
        assert outcome.stdout.startswith("Usage: ")
        assert "\n  train " in outcome.stdout
    monkeypatch.setenv("WENLU_LANG", "zh")
    assert CliRunner().invoke(main, []).stdout.startswith("用法： ")


def test_a_group_imports_only_the_verb_that_is_asked_for() -> None:
    group = LazyGroup("wenlu", {"probe": __name__, "broken": "nowhere.at.all"})
    outcome = CliRunner().invoke(group, ["probe", "x", "--json"])
    assert strict(outcome.stdout) == {"text": "x", "steps": 3, "rate": None}


def test_plain_progress_speaks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "PLAIN_INTERVAL_SECONDS", 0.0)
    assert call("x")[2].count("a whole number: ") == 4
    monkeypatch.setattr(reporter, "PLAIN_INTERVAL_SECONDS", 3600.0)
    assert call("x")[2].count("a whole number: ") == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_live_bar_that_leaves_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    handler = reporter.Reporter(json_output=False)
    assert handler.live
    from wenlu.core.log import LOGGER

    LOGGER.addHandler(handler)
    LOGGER.setLevel("INFO")
    try:
        with progress("core.type_integer", total=2, unit="[docs]") as bar:
            bar.advance()
            warn("core.type_string")
            bar.advance(detail="[bold]")
        assert handler.bars is None
    finally:
        LOGGER.removeHandler(handler)
        handler.close()
    text = terminal.getvalue()
    assert "warning: a text" in text
    assert "a whole number: 2/2 [docs] [bold]" in text


def test_tables_count_chinese_characters_twice() -> None:
    made = output.Table(["模型", "bits"], [["五元语法", 2.4], ["LSTM", 12.05]], title="阶梯")
    lines = output.render(made).splitlines()
    rows = [line for line in lines if "2.4" in line or "12.05" in line]
    assert lines[0].strip() == "阶梯"
    assert rows[0].index("2.4") + len("五元语法") == rows[1].index("12.05") + 2


def test_wide_tables_are_not_cut_when_piped() -> None:
    made = output.Table([f"column {number}" for number in range(30)], [["x" * 20] * 30])
    assert output.render(made).count("x" * 20) == 30


def test_a_reader_that_leaves_is_no_traceback() -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    child = subprocess.Popen(
        [sys.executable, "-m", "wenlu", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() in (0, 1)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["data", "fetch", "--list"]])
def test_output_that_takes_no_more_is_one_error(words: list[str], unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "wenlu", *words]
    with needs_full_device().open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "error: the disk is full" in done.stderr and "where: /dev/full\n" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_output_that_the_terminal_cannot_show_is_escaped() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "WENLU_LANG": "zh"}
    done = subprocess.run([sys.executable, "-m", "wenlu", "trian"], capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(rb"\u9519\u8bef: ")
