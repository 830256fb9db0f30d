"""Conversations as a model was trained on them: written by its own chat template, which nobody has vouched for.

What the template writes may stand for special tokens (``<|im_start|>``); what stands in a message is text, whatever it
says. The messages' own special strings are marked before the template runs, so that both can be told apart afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from wenlu.core.errors import CheckpointError, RequestError
from wenlu.tokenization.pieces import encode_pieces
from wenlu.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jinja2 import TemplateError

Role = Literal["system", "user", "assistant"]
_PRIVATE_USE = range(0xF0000, 0xFFFFE)


@dataclass(frozen=True)
class Message:
    """What one side says.

    Raises:
        RequestError: ``chat.role``, ``chat.content`` for what is no role or no text.
    """

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise RequestError("chat.role", found=self.role, known=", ".join(get_args(Role)))
        if not isinstance(self.content, str):
            raise RequestError("chat.content", found=type(self.content).__name__)


def asked(question: str, *, system: str | None = None) -> list[Message]:
    """The conversation that is one question of a user, after the system's message if there is one."""
    before = [] if system is None else [Message("system", system)]
    return [*before, Message("user", question)]


@dataclass(frozen=True)
class EncodedChat:
    """A conversation as the template writes it, and its ids: the template's special tokens, and plain text."""

    text: str
    ids: tuple[int, ...]


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> EncodedChat:
    """The prompt of a conversation; with ``add_generation_prompt``, up to where the assistant's answer begins.

    A special token's string inside a message is encoded as any other text.

    Raises:
        RequestError: ``chat.no_messages``, ``chat.no_template``, or ``chat.refused`` by the template.
        CheckpointError: ``chat.template_broken``, ``chat.template_limits``.
        TokenizerError: half characters in a message.
    """
    if tokenizer.chat_template is None:
        raise RequestError("chat.no_template")
    if not messages:
        raise RequestError("chat.no_messages")
    special = {tokenizer.token(id): id for id in tokenizer.special_ids}
    marks = _Marks(special, [tokenizer.chat_template, *(message.content for message in messages)])
    marked = [Message(message.role, marks.put(message.content)) for message in messages]
    names = tokenizer.special_tokens
    rendered = render_chat(
        tokenizer.chat_template, marked, special_tokens=names, add_generation_prompt=add_generation_prompt
    )
    ids = encode_pieces(tokenizer, list(marks.pieces(rendered)), where="chat")
    return EncodedChat(marks.removed(rendered), tuple(ids))


def render_chat(
    template: str, messages: Sequence[Message], *, special_tokens: Mapping[str, str], add_generation_prompt: bool = True
) -> str:
    """What a template writes, as ``apply_chat_template`` of transformers does; within bounds of work and memory.

    ``special_tokens`` are the variables ``bos_token``, ``eos_token``, ...

    Raises:
        RequestError: ``chat.refused``.
        CheckpointError: ``chat.template_broken``, ``chat.template_limits``.
    """
    from jinja2 import TemplateError

    from wenlu.tokenization import sandbox

    variables = {
        **special_tokens,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        return sandbox.render(sandbox.compile_template(template), variables)
    except sandbox.RaisedError as error:
        raise RequestError("chat.refused", reason=_short(error)) from error
    except sandbox.LimitError as error:
        raise CheckpointError("chat.template_limits", reason=_short(error)) from error
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        detail = _short(error) if line is None else f"{_short(error)} ({line})"
        raise CheckpointError("chat.template_broken", detail=detail) from error


def _short(error: TemplateError) -> str:
    """What a template's error says, on one line and without what would steer a terminal."""
    said = " ".join((error.message or type(error).__name__).split())
    return "".join(filter(str.isprintable, said))[:300]


class _Marks:
    """Characters that no message and no template has: two around the strings of special tokens inside messages, and one
    that keeps what the template writes from being read together with a message's end.
    """

    def __init__(self, special: Mapping[str, int], texts: Sequence[str]) -> None:
        used = set().union(*texts)
        unused = (character for code in _PRIVATE_USE if (character := chr(code)) not in used)
        self._start, self._end, self._edge = next(unused), next(unused), next(unused)
        self._ids = special
        tokens = sorted(filter(None, special), key=len, reverse=True)
        either = "|".join(map(re.escape, tokens)) or "(?!)"
        self._special = re.compile(either)
        self._found = re.compile(f"{self._start}(?:{either}){self._end}|({either})")
        self._beginnings = {token[:length] for token in tokens for length in range(1, len(token))}
        self._endings = {token[-length:] for token in tokens for length in range(1, len(token))}
        self._longest = max(map(len, tokens), default=0)

    def put(self, text: str) -> str:
        """The text with marks around what reads like a special token, and at an end that could be a part of one."""
        marked = self._special.sub(lambda match: f"{self._start}{match[0]}{self._end}", text)
        lengths = range(1, self._longest)
        if any(text[:length] in self._endings for length in lengths):
            marked = self._edge + marked
        if any(text[-length:] in self._beginnings for length in lengths):
            marked += self._edge
        return marked

    def removed(self, text: str) -> str:
        """The text without marks."""
        return text.translate(dict.fromkeys(map(ord, (self._start, self._end, self._edge))))

    def pieces(self, rendered: str) -> Iterator[str | int]:
        """What the template wrote, as text and as ids of special tokens."""
        at = 0
        for match in self._found.finditer(rendered):
            if match[1] is not None:
                yield self.removed(rendered[at : match.start()])
                yield self._ids[match[1]]
                at = match.end()
        yield self.removed(rendered[at:])
