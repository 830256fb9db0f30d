"""``wenlu merge ADAPTER --base MODEL -o TARGET``: an adapter of LoRA and its base as one model directory."""

from __future__ import annotations

from pathlib import Path

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.core.messages import text


@output.command("merge")
@argument("merge", "adapter", metavar="ADAPTER")
@option("merge", "--base", required=True, metavar="MODEL")
@option("merge", "-o", "--output", "target", required=True, metavar="TARGET")
@option("merge", "--replace", is_flag=True)
@output.run
def command(adapter: str, base: str, target: str, replace: bool) -> None:
    """Merge in full precision."""
    from wenlu.exchange import merge_adapter

    found = merge_adapter(adapter, base, Path(target), replace=replace)
    record = {"adapter": adapter, "base": str(found), "path": target}
    output.result(record, text=text("exchange.merged", adapter=adapter, base=found, path=target))
