"""``wenlu merge ADAPTER --base MODEL -o TARGET``: an adapter of LoRA and its base as one model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from wenlu.cli import output
from wenlu.cli.parsing import Target
from wenlu.core.messages import text


@output.command("merge")
def command(
    adapter: Annotated[str, "ADAPTER"], *, base: Annotated[str, "MODEL"], target: Target, replace: bool = False
) -> None:
    """Merge in full precision."""
    from wenlu.exchange import merge_adapter

    found = merge_adapter(adapter, base, Path(target), replace=replace)
    record = {"adapter": adapter, "base": str(found), "path": target}
    output.result(record, text=text("exchange.merged", adapter=adapter, base=found, path=target))
