"""``wenlu export RUN|DIR --format hf|gguf|peft -o TARGET``: a model as other programs read it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import click

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.core.messages import text

GGUF_TYPES = ("f32", "f16", "bf16", "q8_0")


@output.command("export")
@argument("export", "model", required=False)
@option("export", "--format", "target_format", type=click.Choice(["hf", "gguf", "peft"]), default="hf")
@option("export", "-o", "--output", "target", required=True, metavar="TARGET")
@option("export", "--type", "tensor_type", type=click.Choice(GGUF_TYPES), default=None)
@option("export", "--replace", is_flag=True)
@output.run
def command(model: str | None, target_format: str, target: str, tensor_type: str | None, replace: bool) -> None:
    """Write a directory, or one file."""
    from wenlu.core.errors import SettingsError

    path = Path(target)
    if target_format != "gguf":
        if tensor_type is not None:
            raise SettingsError("exchange.type_unused", value=tensor_type, format=target_format)
        from wenlu.exchange import export_adapter, export_hf

        if target_format == "hf":
            source = export_hf(model, path, replace=replace).path
        else:
            source = export_adapter(model, path, replace=replace)
    else:
        if replace:
            raise SettingsError("exchange.replace_unused")
        from wenlu.gguf_export import export_gguf

        source = export_gguf(model, path, type=cast(Literal["f32", "f16", "bf16", "q8_0"], tensor_type or "f16")).path
    record = {"model": str(source), "format": target_format, "path": target}
    output.result(record, text=text("exchange.exported", path=path))
