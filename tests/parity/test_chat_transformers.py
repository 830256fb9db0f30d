"""Chat templates against ``apply_chat_template`` of transformers: the same text, and the same ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat_templates import CONVERSATIONS, TEMPLATES, save_with_template
from wenlu.tokenization.chat import Message, encode_chat
from wenlu.tokenization.tokenizer import Tokenizer


def as_dicts(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


@pytest.mark.parametrize("chat", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_text_and_ids_are_those_of_transformers(kind: str, name: str, chat: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_with_template(tmp_path, TEMPLATES[name], kind=kind, in_its_own_file=name in ("llama3", "zephyr"))
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for generation in (True, False):
        messages = CONVERSATIONS[chat]
        options = {"add_generation_prompt": generation}
        text = theirs.apply_chat_template(as_dicts(messages), tokenize=False, **options)
        ids = theirs.apply_chat_template(as_dicts(messages), tokenize=True, return_dict=False, **options)
        encoded = encode_chat(ours, messages, **options)
        assert encoded.text == text
        assert list(encoded.ids) == ids
        if name not in ("mistral", "features"):
            assert any(id in ours.special_ids for id in encoded.ids)
