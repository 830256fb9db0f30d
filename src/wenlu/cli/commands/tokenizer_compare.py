"""``wenlu tokenizer compare``: tokenizers side by side on the same texts."""

from __future__ import annotations

from pathlib import Path

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.cli.parsing import reading_options
from wenlu.core.messages import text


@output.command("tokenizer_compare")
@argument("tokenizer_compare", "directories", nargs=-1, required=True)
@option("tokenizer_compare", "--data", "paths", multiple=True, required=True, metavar="PATH")
@reading_options
@output.run
def command(directories: tuple[str, ...], paths: tuple[str, ...], values: dict[str, object]) -> None:
    """Measure every tokenizer on every document and print a row a tokenizer and language."""
    from dataclasses import asdict

    from wenlu.core import settings
    from wenlu.core.errors import DataError
    from wenlu.data.documents import Report, read_documents
    from wenlu.data.tokens import PackSettings
    from wenlu.tokenization.report import ALL, compare
    from wenlu.tokenization.tokenizer import Tokenizer

    data = settings.load(PackSettings, values={"data.paths": list(paths), **values}).value.data
    tokenizers = {directory: Tokenizer.load(Path(directory)) for directory in directories}
    report = Report()
    results = compare(tokenizers, (one.text for one in read_documents(data, report)))
    report.announce()
    if not report.kept.documents:
        raise DataError("tokenization.nothing_to_compare", paths=" ".join(paths))
    rows = [
        (
            directory,
            f"{tokenizers[directory].vocab_size:,}",
            text("tokenization.all_languages") if language == ALL else language,
            f"{tally.documents:,}",
            f"{tally.tokens:,}",
            f"{tally.bytes_per_token:.3f}",
            f"{tally.characters_per_token:.3f}",
            f"{tally.unknown_tokens:,}",
            f"{tally.round_trip_failures:,}",
        )
        for directory, tallies in results.items()
        for language, tally in tallies.items()
    ]
    of = ("tokenizer", "vocabulary", "language", "documents", "tokens")
    measured = ("bytes_per_token", "characters_per_token", "unknown", "failures")
    columns = [text(f"tokenization.column_{name}") for name in (*of, *measured)]
    notes = [
        text("tokenization.first_failure", tokenizer=directory, excerpt=tallies[ALL].first_failure)
        for directory, tallies in results.items()
        if tallies[ALL].first_failure is not None
    ]
    record: dict[str, object] = {
        "tokenizers": {
            directory: {
                **{name: getattr(tokenizers[directory], name) for name in ("kind", "vocab_size", "fingerprint")},
                "languages": {
                    language: {
                        **asdict(tally),
                        "bytes_per_token": tally.bytes_per_token,
                        "characters_per_token": tally.characters_per_token,
                    }
                    for language, tally in tallies.items()
                },
            }
            for directory, tallies in results.items()
        },
        "data": report.as_record(),
    }
    output.result(record, text="\n".join(notes) or None, table=output.table(columns, rows))
