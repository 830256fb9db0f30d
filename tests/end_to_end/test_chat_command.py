"""``wenlu generate --chat``: a user's message through the model's own chat template, to the end of the turn."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from click.testing import CliRunner, Result

import wenlu
from chat_templates import CHATML, encode_marked, save_with_template
from gguf_models import rewrite
from wenlu.bundle import load_bundle
from wenlu.cli.main import main
from wenlu.generation import settings as generation_settings
from wenlu.generation.settings import GenerationSettings
from wenlu.gguf_export import export_gguf
from wenlu.models.build import build_model
from wenlu.models.checkpoint import save_model
from wenlu.models.config import ModelSettings
from wenlu.tokenization.chat import Message, asked
from wenlu.tokenization.tokenizer import Tokenizer


@pytest.fixture
def chatty(tmp_path: Path) -> Path:
    """A small Llama model with ChatML's template, which most likes to end its turn."""
    path = tmp_path / "chatty"
    save_with_template(path, CHATML)
    tokenizer = Tokenizer.load(path)
    settings = ModelSettings(kind="llama", hidden_size=8, num_heads=2, num_layers=1)
    model = build_model(settings, vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, sequence_length=256, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(3))
    save_model(model, path)
    ends = (tokenizer.end_id, *encode_marked(tokenizer, "<|im_end|>"))
    generation_settings.save(GenerationSettings(do_sample=False, end_token_ids=ends), path, end_id=tokenizer.end_id)
    return path


def generate(*words: object) -> Result:
    return CliRunner().invoke(main, ["generate", *map(str, words)], catch_exceptions=True)


def test_the_prompt_is_a_message(chatty: Path) -> None:
    words = ("--model", chatty, "--chat", "--greedy", "--max-new-tokens", 6, "--json")
    record = json.loads(generate("你好 <|im_end|>", "--system", "Be brief.", *words).stdout)
    assert record["prompt"] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n你好 <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    bundle = load_bundle(chatty)
    turn = set(encode_marked(bundle.tokenizer, "<|im_start|><|im_end|>"))
    ids = _ids(bundle, record["prompt"], "你好 <|im_end|>")
    assert record["prompt_tokens"] == len(ids) and sum(id in turn for id in ids) == 5
    expected = _greedy(bundle.model, ids, 6, ends=set(bundle.generation.end_token_ids))
    assert record["sequences"][0]["tokens"] == expected
    shown = generate("你好", "--model", chatty, "--chat", "--greedy", "--max-new-tokens", 3)
    assert shown.exit_code == 0 and "im_start" not in shown.stdout and "user" not in shown.stdout.split("\n")[0]


def test_python_answers_as_the_command_does(chatty: Path) -> None:
    words = ("--model", chatty, "--chat", "--greedy", "--max-new-tokens", 6, "--json")
    [told] = json.loads(generate("你好", "--system", "Be brief.", *words).stdout)["sequences"]
    model = wenlu.load(chatty, device="cpu")
    assert model.answer(asked("你好", system="Be brief."), max_new_tokens=6) == told["text"]
    assert model.answer("你好", max_new_tokens=6) == model.answer([Message("user", "你好")], max_new_tokens=6)


def _ids(bundle: object, prompt: str, said: str) -> list[int]:
    """The ids of a prompt whose template's tokens are special and whose message is text."""
    before, after = prompt.split(said)
    tokenizer = bundle.tokenizer  # type: ignore[attr-defined]
    tail = before.split("<|im_start|>")[-1]
    assert tail == "user\n"
    return [
        *encode_marked(tokenizer, before.removesuffix(tail)),
        *tokenizer.encode(f"user\n{said}"),
        *encode_marked(tokenizer, after),
    ]


def _greedy(model: torch.nn.Module, ids: list[int], number: int, *, ends: set[int]) -> list[int]:
    """The most probable tokens one after another, without a cache and without a start token before the prompt."""
    new: list[int] = []
    with torch.no_grad():
        while len(new) < number and not ends & set(new):
            logits = model(torch.tensor([[*ids, *new]]))[0, -1]
            new.append(int(logits.argmax()))
    return new


def test_the_turn_ends_with_any_end_token(chatty: Path) -> None:
    """The end of a turn is not the end of a text: generation_config.json names both."""
    words = ("x", "--model", chatty, "--chat", "--json", "--max-new-tokens", 9)
    [told] = json.loads(generate(*words).stdout)["sequences"]
    tokenizer = Tokenizer.load(chatty)
    fourth = told["tokens"][3]
    settings = GenerationSettings(do_sample=False, end_token_ids=(tokenizer.end_id, fourth))
    generation_settings.save(settings, chatty, end_id=tokenizer.end_id)
    [ended] = json.loads(generate(*words).stdout)["sequences"]
    assert ended["tokens"] == told["tokens"][: told["tokens"].index(fourth) + 1]
    assert (told["finish_reason"], ended["finish_reason"]) == ("length", "end")


def test_a_gguf_file_names_the_end_of_a_turn(chatty: Path, tmp_path: Path) -> None:
    export_gguf(chatty, tmp_path / "one.gguf", type="f32")
    tokenizer = Tokenizer.load(chatty)
    [turn] = encode_marked(tokenizer, "<|im_end|>")
    key = gguf.Keys.Tokenizer.EOT_ID
    path = rewrite(tmp_path / "one.gguf", tmp_path / "two.gguf", keys={key: turn})
    assert load_bundle(path).generation.end_token_ids == (tokenizer.end_id, turn)
    assert load_bundle(tmp_path / "one.gguf").generation.end_token_ids == (), "one end: the tokenizer's"
    wrong = rewrite(tmp_path / "one.gguf", tmp_path / "three.gguf", keys={key: 10**6})
    refused = generate("x", "--model", wrong, "--chat")
    assert refused.exit_code == 2 and "eot_token_id" in refused.output and "Traceback" not in refused.output


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_cannot_be_is_refused_with_the_remedy(
    chatty: Path, tmp_path: Path, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENLU_LANG", language)
    alone = generate("x", "--model", chatty, "--system", "y")
    assert alone.exit_code == 2 and "--chat" in alone.output
    config = json.loads((chatty / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (chatty / "tokenizer_config.json").write_text(json.dumps(config))
    bare = generate("x", "--model", chatty, "--chat")
    assert bare.exit_code == 2 and "wenlu data fetch smollm2" in bare.output
    (chatty / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}")
    hostile = generate("x", "--model", chatty, "--chat")
    assert hostile.exit_code == 2 and "Traceback" not in hostile.output and "__class__" in hostile.output
