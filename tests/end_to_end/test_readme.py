"""The code blocks of both READMEs, run one after another in a folder that holds a ``novel.txt``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiny_training import tiny_texts
from wenlu.cli.main import main

ROOT = Path(__file__).parents[2]
READMES = ["README.md", "README.zh.md"]
QUICK = {"3m": "3 steps", "2000": "500"}  # what a reader has minutes for


def blocks(readme: str, language: str) -> list[str]:
    content = (ROOT / readme).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", content, flags=re.DOTALL | re.MULTILINE)


def quick(code: str) -> str:
    for words, replacement in QUICK.items():
        assert words in code
        code = code.replace(words, replacement)
    return code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    paragraphs = [*tiny_texts(150), *(f"话说第{number}回：天下大势，分久必合，合久必分。" for number in range(150))]
    (tmp_path / "novel.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("readme", READMES)
def test_the_commands(readme: str, folder: Path) -> None:
    [block] = blocks(readme, "sh")
    lines = block.replace("3m", '"3 steps"').replace("2000", "500").splitlines()
    assert lines
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "wenlu"
        found = CliRunner().invoke(main, words, prog_name="wenlu")
        assert found.exit_code == 0, f"{line}\n{found.output}"
        assert found.stdout


@pytest.mark.parametrize("readme", READMES)
def test_the_python_block(readme: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [block] = blocks(readme, "python")
    exec(compile(quick(block), readme, "exec"), {})
    score, *_, evaluation = capsys.readouterr().out.splitlines()
    assert 0 < float(score) < 20
    assert 0 < float(evaluation) < 20


def test_both_languages_show_the_same_commands() -> None:
    first, second = ([line for block in blocks(readme, "sh") for line in block.splitlines()] for readme in READMES)
    assert [line.split(" ")[:2] for line in first] == [line.split(" ")[:2] for line in second]
