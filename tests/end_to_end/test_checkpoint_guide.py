"""The commands and the Python of the guide "bring your checkpoint", run in both languages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner

from tiny_tokenizers import tiny
from tiny_training import tiny_texts
from wenlu.cli.main import main

DOCS = Path(__file__).parents[2] / "docs"


def blocks(language: str, code: str) -> list[str]:
    content = (DOCS / language / "your-checkpoint.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{code}\n(.*?)^```", content, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the checkpoint and the texts that the guide speaks of."""
    transformers.logging.disable_progress_bar()
    tokenizer = tiny("bpe")
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "downloads/tiny-llama")
    tokenizer.save(tmp_path / "downloads/tiny-llama")
    for name in ("novel.txt", "web.txt"):
        (tmp_path / name).write_text("\n\n".join(tiny_texts(12)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guide(language: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [commands] = blocks(language, "sh")
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        assert program == "wenlu"
        found = CliRunner().invoke(main, words, prog_name="wenlu")
        assert found.exit_code == 0, f"{line}\n{found.output}"
        assert found.stdout
    [code] = blocks(language, "python")
    exec(compile(code, language, "exec"), {})
    assert capsys.readouterr().out.startswith("[")


def test_both_languages_show_the_same_commands() -> None:
    first, second = ([shlex.split(line)[:2] for line in blocks(one, "sh")[0].splitlines()] for one in ("en", "zh"))
    assert first == second
