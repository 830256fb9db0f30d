"""``wenlu import DIR [-o TARGET]``: a checkpoint of Hugging Face becomes a model directory; says what was used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from wenlu.cli import output
from wenlu.core.messages import text

MODELS = Path("models")


@output.command("import_")
def command(
    directory: Annotated[str, "DIR"],
    *,
    target: Annotated[str | None, "-o", "--output", "TARGET"] = None,
    tokenizer: Annotated[str | None, "DIR"] = None,
    convert_pickle: bool = False,
    replace: bool = False,
) -> None:
    """Import, then say what was used, and what was left; nothing is said of what there was none of."""
    from wenlu.exchange import import_checkpoint

    source = Path(directory)
    path = Path(target) if target else MODELS / source.resolve().name
    where = Path(tokenizer) if tokenizer else None
    report = import_checkpoint(source, path, tokenizer=where, convert_pickle=convert_pickle, replace=replace)
    vocabulary = {"file": report.tokenizer_file, "kind": report.tokenizer_kind, "size": report.vocab_size}
    shown = {
        "family": text("exchange.family", family=report.family, parameters=report.parameters),
        "converted": ", ".join(report.converted),
        "converted_left": ", ".join(report.converted_left),
        "config": ", ".join(report.config_used),
        "tokenizer": text("exchange.tokenizer", **vocabulary),
        "chat": text("exchange.chat_kept") if report.chat_template else "",
        "generation": ", ".join(f"{name}={value}" for name, value in report.generation.items()),
        "config_left": ", ".join(f"{name}={value}" for name, value in report.config_not_read.items()),
        "tokenizer_left": ", ".join(report.tokenizer_not_read),
        "files_left": ", ".join(report.files_left),
    }
    rows = [(text(f"exchange.row_{name}"), value) for name, value in shown.items() if value]
    record = {**vars(report), "notices": [str(notice) for notice in report.notices]}
    table = output.table("exchange", ("what", "value"), rows)
    output.result(record, text=text("exchange.imported", path=report.path), table=table)
