"""``wenlu tokenizer inspect``: what a vocabulary holds, and how it cuts a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wenlu.cli import output
from wenlu.cli.output import argument
from wenlu.core.messages import text as message

if TYPE_CHECKING:
    from wenlu.tokenization.tokenizer import Tokenizer


@output.command("tokenizer_inspect")
@argument("tokenizer_inspect", "directory")
@argument("tokenizer_inspect", "text", required=False)
@output.run
def command(directory: str, text: str | None) -> None:
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
    record: dict[str, object] = {
        "path": directory,
        "kind": found.kind,
        "vocab_size": found.vocab_size,
        "end_id": tokenizer.end_id,
        "pad_id": tokenizer.pad_id,
        "unknown_id": tokenizer.unknown_id,
        "special_tokens": dict(found.special_tokens),
        "tokens_by_script": dict(found.tokens_by_script),
        "longest_tokens": list(found.longest_tokens),
        "fingerprint": tokenizer.fingerprint,
    }
    special = ", ".join(f"{token} = {id}" for token, id in found.special_tokens.items())
    scripts = ", ".join(f"{name} {count:,}" for name, count in found.tokens_by_script.items())
    rows = [
        (message("tokenization.fact_kind"), found.kind),
        (message("tokenization.fact_size"), f"{found.vocab_size:,}"),
        (message("tokenization.fact_special"), special),
        (message("tokenization.fact_end"), f"{tokenizer.token(tokenizer.end_id)} = {tokenizer.end_id}"),
        (message("tokenization.fact_scripts"), scripts),
        (message("tokenization.fact_longest"), " ".join(_visible(token) for token in found.longest_tokens)),
        (message("tokenization.fact_fingerprint"), tokenizer.fingerprint),
    ]
    columns = (message("tokenization.column_fact"), message("tokenization.column_value"))
    output.result(record, table=output.table(columns, rows, title=directory))


def _show_tokens(text: str, tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode_with_offsets(text)
    pieces = list(zip(encoding.tokens, encoding.ids, encoding.offsets, strict=True))
    round_trips = tokenizer.round_trips(text, encoding.ids)
    num_bytes = len(text.encode("utf-8"))
    tokens = [{"token": token, "id": id, "start": start, "end": end} for token, id, (start, end) in pieces]
    counted = {"num_tokens": len(pieces), "bytes": num_bytes, "characters": len(text)}
    record = {"text": text, "tokens": tokens, **counted, "round_trips": round_trips}
    rows = [
        (number, _visible(token), id, f"{start}-{end}", _visible(text[start:end]))
        for number, (token, id, (start, end)) in enumerate(pieces)
    ]
    token, span, part = (message(f"tokenization.column_{name}") for name in ("token", "span", "text"))
    counts = message("tokenization.counts", tokens=len(pieces), characters=len(text), num_bytes=num_bytes)
    verdict = message("tokenization.comes_back") if round_trips else message("tokenization.does_not_come_back")
    output.result(record, text=f"{counts}\n{verdict}", table=output.table(("#", token, "id", span, part), rows))


def _visible(text: str) -> str:
    """The text with blanks and line ends that can be seen."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\r", "␍").replace("\t", "⇥")
