"""``wenlu fill "The capital of [MASK] is ..."``: what a masked language model sees in the place of each mask."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.cli.standard_input import text_arguments
from wenlu.core import messages

if TYPE_CHECKING:
    from wenlu.generation.fill import Filled
    from wenlu.models.device import DeviceName


@output.command("fill")
@argument("fill", "texts", nargs=-1)
@option("fill", "--model", metavar="MODEL")
@option("fill", "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@option("fill", "--file", metavar="FILE")
@option("reading", "--text-field")
@option("reading", "--encoding")
@option("fill", "--top", type=int, default=5)
@output.run
def command(
    texts: tuple[str, ...],
    model: str | None,
    device: DeviceName,
    file: str | None,
    text_field: str | None,
    encoding: str | None,
    top: int,
) -> None:
    """Load, guess, print."""
    from wenlu.bundle import load_bundle
    from wenlu.generation.fill import fill

    contents = text_arguments(texts, file, text_field=text_field, encoding=encoding)
    bundle = load_bundle(model, device=device)
    found = fill(bundle.model, bundle.tokenizer, contents, top=top)
    record = {"model": str(bundle.path), "texts": [asdict(filled) for filled in found]}
    output.result(record, text="\n\n".join(map(_shown, found)))


def _shown(filled: Filled) -> str:
    """The guesses of each mask as a table; with several masks, the text with the best of each."""
    columns = [messages.text(f"generation.column_{name}") for name in ("token", "probability", "text")]
    several = len(filled.masks) > 1
    parts = []
    for number, mask in enumerate(filled.masks, start=1):
        title = messages.text("generation.mask_title", number=number, total=len(filled.masks)) if several else None
        rows = [
            (repr(guess.token)[1:-1], f"{100 * guess.probability:.4g}%", guess.text.strip()) for guess in mask.guesses
        ]
        parts.append(output.render(output.table(columns, rows, title=title)).rstrip("\n"))
    if several:
        parts.append(messages.text("generation.filled", text=filled.filled))
    return "\n".join(parts)
