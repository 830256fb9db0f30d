"""``wenlu tokenizer train``: texts to a tokenizer directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from wenlu.cli import output
from wenlu.cli.parsing import TOKENIZER_KINDS, Overrides, Words, option, reading_options
from wenlu.core.messages import text


@output.command("tokenizer_train")
@option("tokenizer_train", "--kind", setting="tokenizer.kind", type=TOKENIZER_KINDS)
@option("tokenizer_train", "--vocab-size", setting="tokenizer.vocab_size", type=int)
@option("tokenizer_train", "--min-frequency", setting="tokenizer.min_frequency", type=click.IntRange(min=1))
@option(
    "tokenizer_train", "--normalization", setting="tokenizer.normalization", type=click.Choice(["none", "nfc", "nfkc"])
)
@option("tokenizer_train", "--lowercase", setting="tokenizer.lowercase", is_flag=True)
@option("tokenizer_train", "--special-token", setting="tokenizer.special_tokens", multiple=True, metavar="TOKEN")
@reading_options
def command(
    paths: Words,
    *,
    target: Annotated[str, "-o", "--output", "DIR"],
    values: dict[str, object],
    overrides: Overrides = (),
    replace: bool = False,
) -> None:
    """Read the texts, learn a vocabulary, publish the directory."""
    import time

    from wenlu.core import settings
    from wenlu.core.publication import check_target, publish
    from wenlu.data.documents import Report, read_documents
    from wenlu.data.tokens import PackSettings
    from wenlu.tokenization.tokenizer import Tokenizer

    values["data.paths"] = paths
    resolved = settings.load(PackSettings, overrides=overrides, values=values).value
    directory = Path(target)
    check_target(directory, replace=replace)  # before the work, not after it
    started = time.monotonic()
    report = Report()
    tokenizer = Tokenizer.train((one.text for one in read_documents(resolved.data, report)), resolved.tokenizer)
    report.announce()
    publish(directory, tokenizer.save, replace=replace)
    seconds = time.monotonic() - started
    made = {"path": str(directory), "kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
    record = {**made, "fingerprint": tokenizer.fingerprint, "seconds": seconds, "data": report.as_record()}
    summary = text("tokenization.trained", **made, megabytes=report.bytes / 1e6, seconds=seconds)
    output.result(record, text=summary)
