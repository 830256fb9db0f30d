"""``wenlu tokenizer inspect``: what a vocabulary holds, and how it cuts a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wenlu.cli import output
from wenlu.core.messages import text as message

if TYPE_CHECKING:
    from wenlu.tokenization.tokenizer import Tokenizer


@output.command("tokenizer_inspect")
def command(directory: str, text: str | None = None) -> None:
    """Show facts about the vocabulary, or the tokens of a text."""
    from wenlu.tokenization.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(Path(directory))
    if text is None:
        _show_vocabulary(directory, tokenizer)
    else:
        _show_tokens(text, tokenizer)


def _show_vocabulary(directory: str, tokenizer: Tokenizer) -> None:
    from wenlu.tokenization.report import facts

    found = facts(tokenizer)
    record = {
        "path": directory,
        "kind": found.kind,
        "vocab_size": found.vocab_size,
        **{name: getattr(tokenizer, name) for name in ("end_id", "pad_id", "unknown_id")},
        **{name: getattr(found, name) for name in ("special_tokens", "tokens_by_script", "longest_tokens")},
        "fingerprint": tokenizer.fingerprint,
    }
    shown = {
        "kind": found.kind,
        "size": f"{found.vocab_size:,}",
        "special": ", ".join(f"{token} = {id}" for token, id in found.special_tokens.items()),
        "end": f"{tokenizer.token(tokenizer.end_id)} = {tokenizer.end_id}",
        "scripts": ", ".join(f"{name} {count:,}" for name, count in found.tokens_by_script.items()),
        "longest": " ".join(_visible(token) for token in found.longest_tokens),
        "fingerprint": tokenizer.fingerprint,
    }
    rows = [(message(f"tokenization.fact_{name}"), value) for name, value in shown.items()]
    output.result(record, table=output.table("tokenization", ("fact", "value"), rows, title=directory))


def _show_tokens(text: str, tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode_with_offsets(text)
    tokens, rows = [], []
    pieces = zip(encoding.tokens, encoding.ids, encoding.offsets, strict=True)
    for number, (token, id, (start, end)) in enumerate(pieces):
        tokens.append({"token": token, "id": id, "start": start, "end": end})
        rows.append((number, _visible(token), id, f"{start}-{end}", _visible(text[start:end])))
    round_trips, num_bytes = tokenizer.round_trips(text, encoding.ids), len(text.encode("utf-8"))
    counted = {"num_tokens": len(tokens), "bytes": num_bytes, "characters": len(text)}
    record = {"text": text, "tokens": tokens, **counted, "round_trips": round_trips}
    token, span, part = (message(f"tokenization.column_{name}") for name in ("token", "span", "text"))
    counts = message("tokenization.counts", tokens=len(tokens), characters=len(text), num_bytes=num_bytes)
    verdict = message("tokenization.comes_back") if round_trips else message("tokenization.does_not_come_back")
    output.result(record, text=f"{counts}\n{verdict}", table=output.Table(("#", token, "id", span, part), rows))


def _visible(text: str) -> str:
    """The text with blanks and line ends that can be seen."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\r", "␍").replace("\t", "⇥")
