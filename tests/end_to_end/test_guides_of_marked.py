"""The guides of relations and roles, run in both languages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiny_tokenizers import corpus
from wenlu.bundle import save_bundle
from wenlu.cli.main import main
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = ("relation", "semantic_roles")


def blocks(language: str, guide: str, code: str) -> list[str]:
    content = (DOCS / language / "tasks" / f"{guide}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{code}\n(.*?)^```", content, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small encoder for MiniLM."""
    monkeypatch.chdir(tmp_path)
    text = [
        *corpus(),
        *['@ # " < >'] * 9,
        *"张伟王芳李娜刘洋陈静杨帆甲乙丙丁公司北京上海广州成都负责出生在见过",
    ]
    settings = TokenizerSettings(kind="bpe", vocab_size=420, special_tokens=("[MASK]", "[CLS]", "[SEP]", "[UNK]"))
    tokenizer = Tokenizer.train(text, settings)
    sizes = {"vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id, "sequence_length": 128}
    model = build_model(ModelSettings(kind="bert", num_layers=1, hidden_size=16, num_heads=2), **sizes, seed=1)
    (tmp_path / "minilm").mkdir()
    save_bundle(tmp_path / "minilm", model=model, tokenizer=tokenizer)
    return tmp_path


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("guide", GUIDES)
def test_the_guide(guide: str, language: str, folder: Path) -> None:
    for code in blocks(language, guide, "python"):
        exec(compile(code, guide, "exec"), {})
    [commands] = blocks(language, guide, "sh")
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        assert program == "wenlu"
        if words == ["data", "fetch", "minilm"]:
            continue
        if words[0] == "finetune":  # a little is enough to see that the command runs
            words += ["train.budget=2 steps", "evaluate.every=2"]
        found = CliRunner().invoke(main, words, prog_name="wenlu")
        assert found.exit_code == 0, f"{line}\n{found.output}"
        assert found.stdout


@pytest.mark.parametrize("guide", GUIDES)
def test_both_languages_show_the_same_commands(guide: str) -> None:
    first, second = (
        [
            [word for word in shlex.split(line) if word.startswith("-")]
            for line in blocks(one, guide, "sh")[0].splitlines()
        ]
        for one in ("en", "zh")
    )
    assert first == second
