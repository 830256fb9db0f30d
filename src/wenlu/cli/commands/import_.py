"""``wenlu import DIR [-o TARGET]``: a checkpoint of Hugging Face becomes a model directory; says what was used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.exchange import Imported

MODELS = Path("models")


@output.command("import_")
@argument("import_", "directory", metavar="DIR")
@option("import_", "-o", "--output", "target", metavar="TARGET")
@option("import_", "--tokenizer", metavar="DIR")
@option("import_", "--convert-pickle", is_flag=True)
@option("import_", "--replace", is_flag=True)
@output.run
def command(directory: str, target: str | None, tokenizer: str | None, convert_pickle: bool, replace: bool) -> None:
    """Import, then say what came of it."""
    from wenlu.exchange import import_checkpoint

    source = Path(directory)
    report = import_checkpoint(
        source,
        Path(target) if target else MODELS / source.resolve().name,
        tokenizer=Path(tokenizer) if tokenizer else None,
        convert_pickle=convert_pickle,
        replace=replace,
    )
    record = {**vars(report), "notices": [str(notice) for notice in report.notices]}
    table = output.table([text("exchange.column_what"), text("exchange.column_value")], _rows(report))
    output.result(record, text=text("exchange.imported", path=report.path), table=table)


def _rows(report: Imported) -> list[tuple[str, str]]:
    """What was used, then what was left; without what there was none of."""

    def names(values: list[str]) -> str:
        return ", ".join(values)

    shown = {
        "family": text("exchange.family", family=report.family, parameters=report.parameters),
        "converted": names(report.converted),
        "converted_left": names(report.converted_left),
        "config": names(report.config_used),
        "tokenizer": text(
            "exchange.tokenizer", file=report.tokenizer_file, kind=report.tokenizer_kind, size=report.vocab_size
        ),
        "chat": text("exchange.chat_kept") if report.chat_template else "",
        "generation": names([f"{name}={value}" for name, value in report.generation.items()]),
        "config_left": names([f"{name}={value}" for name, value in report.config_not_read.items()]),
        "tokenizer_left": names(report.tokenizer_not_read),
        "files_left": names(report.files_left),
    }
    return [(text(f"exchange.row_{name}"), value) for name, value in shown.items() if value]
