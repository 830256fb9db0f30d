"""``wenlu export RUN|DIR --format hf|gguf|peft -o TARGET``: a model as other programs read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from wenlu.cli import output
from wenlu.cli.parsing import Target
from wenlu.core.errors import SettingsError
from wenlu.core.messages import text


@output.command("export")
def command(
    model: str | None = None,
    *,
    form: Annotated[Literal["hf", "gguf", "peft"], "--format"] = "hf",
    target: Target,
    type: Literal["f32", "f16", "bf16", "q8_0"] | None = None,
    replace: bool = False,
) -> None:
    """Write a directory, or one file."""
    path = Path(target)
    if form == "gguf":
        if replace:
            raise SettingsError("exchange.replace_unused")
        from wenlu.gguf_export import export_gguf

        source = export_gguf(model, path, type=type or "f16").path
    else:
        if type is not None:
            raise SettingsError("exchange.type_unused", value=type, format=form)
        from wenlu.exchange import export_adapter, export_hf

        hf = form == "hf"
        source = export_hf(model, path, replace=replace).path if hf else export_adapter(model, path, replace=replace)
    record = {"model": str(source), "format": form, "path": target}
    output.result(record, text=text("exchange.exported", path=path))
