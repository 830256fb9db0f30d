"""``wenlu fill "The capital of [MASK] is ..."``: what a masked language model sees in the place of each mask."""

from __future__ import annotations

from dataclasses import asdict

from wenlu.cli import output
from wenlu.cli.parsing import Device, File, ModelName, Words, text_arguments
from wenlu.core.messages import text


@output.command("fill", like=["reading"])
def command(
    texts: Words = (),
    *,
    model: ModelName = None,
    device: Device = "auto",
    file: File = None,
    text_field: str | None = None,
    encoding: str | None = None,
    top: int = 5,
) -> None:
    """Load, guess, print the guesses of each mask as a table; with several masks, the text with the best of each."""
    from wenlu.bundle import load_bundle
    from wenlu.generation.fill import fill

    contents = text_arguments(texts, file, text_field=text_field, encoding=encoding)
    bundle = load_bundle(model, device=device)
    found = fill(bundle.model, bundle.tokenizer, contents, top=top)
    record = {"model": str(bundle.path), "texts": [asdict(filled) for filled in found]}
    shown = []
    for filled in found:
        several, parts = len(filled.masks) > 1, []
        for number, mask in enumerate(filled.masks, start=1):
            title = text("generation.mask_title", number=number, total=len(filled.masks)) if several else None
            rows = [(repr(one.token)[1:-1], f"{100 * one.probability:.4g}%", one.text.strip()) for one in mask.guesses]
            table = output.table("generation", ("token", "probability", "text"), rows, title=title)
            parts.append(output.render(table).rstrip("\n"))
        if several:
            parts.append(text("generation.filled", text=filled.filled))
        shown.append("\n".join(parts))
    output.result(record, text="\n\n".join(shown))
