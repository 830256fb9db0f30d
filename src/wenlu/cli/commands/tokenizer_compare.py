"""``wenlu tokenizer compare``: tokenizers side by side on the same texts."""

from __future__ import annotations

from pathlib import Path

from wenlu.cli import output
from wenlu.cli.parsing import Paths, Words, reading_options
from wenlu.core.messages import text


@output.command("tokenizer_compare")
@reading_options
def command(directories: Words, *, data: Paths, values: dict[str, object]) -> None:
    """Measure every tokenizer on every document and print a row a tokenizer and language."""
    from dataclasses import asdict

    from wenlu.core import settings
    from wenlu.core.errors import DataError
    from wenlu.data.documents import Report, read_documents
    from wenlu.data.tokens import PackSettings
    from wenlu.tokenization.report import ALL, compare
    from wenlu.tokenization.tokenizer import Tokenizer

    chosen = settings.load(PackSettings, values={"data.paths": data, **values}).value.data
    tokenizers = {directory: Tokenizer.load(Path(directory)) for directory in directories}
    report = Report()
    results = compare(tokenizers, (one.text for one in read_documents(chosen, report)))
    report.announce()
    if not report.kept.documents:
        raise DataError("tokenization.nothing_to_compare", paths=" ".join(data))
    rows, notes, measured = [], [], {}
    for directory, tallies in results.items():
        tokenizer, languages = tokenizers[directory], {}
        for language, tally in tallies.items():
            rates = {"bytes_per_token": tally.bytes_per_token, "characters_per_token": tally.characters_per_token}
            languages[language] = {**asdict(tally), **rates}
            called = text("tokenization.all_languages") if language == ALL else language
            counts = (f"{tally.documents:,}", f"{tally.tokens:,}", *(f"{rate:.3f}" for rate in rates.values()))
            lost = (f"{tally.unknown_tokens:,}", f"{tally.round_trip_failures:,}")
            rows.append((directory, f"{tokenizer.vocab_size:,}", called, *counts, *lost))
        about = {name: getattr(tokenizer, name) for name in ("kind", "vocab_size", "fingerprint")}
        measured[directory] = {**about, "languages": languages}
        if (excerpt := tallies[ALL].first_failure) is not None:
            notes.append(text("tokenization.first_failure", tokenizer=directory, excerpt=excerpt))
    of = ("tokenizer", "vocabulary", "language", "documents", "tokens")
    table = output.table("tokenization", (*of, "bytes_per_token", "characters_per_token", "unknown", "failures"), rows)
    output.result({"tokenizers": measured, "data": report.as_record()}, text="\n".join(notes) or None, table=table)
