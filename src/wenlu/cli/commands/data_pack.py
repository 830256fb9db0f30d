"""``wenlu data pack``: texts to a token store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.cli.parsing import TOKENIZER_KINDS, reading_options
from wenlu.core.messages import text


@output.command("data_pack")
@argument("data_pack", "paths", nargs=-1, required=True)
@option("data_pack", "-o", "--output", "target", required=True, metavar="STORE")
@option("data_pack", "--tokenizer", "tokenizer_path", metavar="DIR")
@option("data_pack", "--vocab-size", setting="tokenizer.vocab_size", type=int)
@option("data_pack", "--kind", setting="tokenizer.kind", type=TOKENIZER_KINDS)
@option("data_pack", "--validation", setting="data.validation_paths", multiple=True, metavar="PATH")
@option("data_pack", "--validation-fraction", setting="data.validation_fraction", type=float)
@option("data_pack", "--test", setting="data.test_paths", multiple=True, metavar="PATH")
@option("data_pack", "--test-fraction", setting="data.test_fraction", type=float)
@reading_options
@option("data_pack", "--workers", type=click.IntRange(min=1), default=1, show_default=True)
@option("data_pack", "--set", "overrides", multiple=True, metavar="KEY=VALUE")
@option("data_pack", "--replace", is_flag=True)
@output.run
def command(
    paths: tuple[str, ...],
    target: str,
    tokenizer_path: str | None,
    workers: int,
    overrides: tuple[str, ...],
    replace: bool,
    values: dict[str, object],
) -> None:
    """Resolve the settings, build the store, print a table of its splits."""
    import time

    from wenlu.cli.commands.data_inspect import split_table
    from wenlu.core import settings
    from wenlu.core.publication import check_target
    from wenlu.data.tokens import SPLITS, PackSettings, build_store
    from wenlu.tokenization.tokenizer import Tokenizer

    values["data.paths"] = list(paths)
    resolved = settings.load(PackSettings, overrides=overrides, values=values).value
    check_target(Path(target), replace=replace)
    started = time.monotonic()
    store = build_store(
        Path(target),
        resolved.data,
        tokenizer=None if tokenizer_path is None else Tokenizer.load(Path(tokenizer_path)),
        tokenizer_settings=resolved.tokenizer,
        workers=workers,
        replace=replace,
    )
    seconds = time.monotonic() - started
    splits = store.record["splits"]
    assert isinstance(splits, Mapping), "data.json of a new store has its splits"
    parts = [store.split(name) for name in SPLITS]
    documents, tokens = sum(part.num_documents for part in parts), sum(part.num_tokens for part in parts)
    speed = sum(int(part.original_bytes.sum()) for part in parts) / 1e6 / seconds
    counts = {"documents": documents, "tokens": tokens}
    summary = text("data.packed", path=store.path, **counts, seconds=seconds, speed=speed)
    record = {"path": str(store.path), "fingerprint": store.fingerprint, "seconds": seconds, **store.record}
    output.result(record, text=summary, table=split_table([(name, splits[name]) for name in SPLITS]))
