"""``wenlu data pack``: texts to a token store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from wenlu.cli import output
from wenlu.cli.parsing import TOKENIZER_KINDS, Overrides, Words, option, reading_options
from wenlu.core.messages import text


@output.command("data_pack")
@option("data_pack", "--vocab-size", setting="tokenizer.vocab_size", type=int)
@option("data_pack", "--kind", setting="tokenizer.kind", type=TOKENIZER_KINDS)
@option("data_pack", "--validation", setting="data.validation_paths", multiple=True, metavar="PATH")
@option("data_pack", "--validation-fraction", setting="data.validation_fraction", type=float)
@option("data_pack", "--test", setting="data.test_paths", multiple=True, metavar="PATH")
@option("data_pack", "--test-fraction", setting="data.test_fraction", type=float)
@reading_options
def command(
    paths: Words,
    *,
    target: Annotated[str, "-o", "--output", "STORE"],
    tokenizer: Annotated[str | None, "DIR"] = None,
    values: dict[str, object],
    workers: Annotated[int, click.IntRange(min=1)] = 1,
    overrides: Overrides = (),
    replace: bool = False,
) -> None:
    """Resolve the settings, build the store, print a table of its splits."""
    import time

    from wenlu.cli.commands.data_inspect import split_table
    from wenlu.core import settings
    from wenlu.core.publication import check_target
    from wenlu.data.tokens import SPLITS, PackSettings, build_store
    from wenlu.tokenization.tokenizer import Tokenizer

    values["data.paths"] = paths
    resolved = settings.load(PackSettings, overrides=overrides, values=values).value
    check_target(Path(target), replace=replace)
    started = time.monotonic()
    store = build_store(
        Path(target),
        resolved.data,
        tokenizer=None if tokenizer is None else Tokenizer.load(Path(tokenizer)),
        tokenizer_settings=resolved.tokenizer,
        workers=workers,
        replace=replace,
    )
    seconds = time.monotonic() - started
    parts = [store.split(name) for name in SPLITS]
    counts = {"documents": sum(part.num_documents for part in parts), "tokens": sum(part.num_tokens for part in parts)}
    speed = sum(int(part.original_bytes.sum()) for part in parts) / 1e6 / seconds
    summary = text("data.packed", path=store.path, **counts, seconds=seconds, speed=speed)
    record = {"path": str(store.path), "fingerprint": store.fingerprint, "seconds": seconds, **store.record}
    output.result(record, text=summary, table=split_table(store))
