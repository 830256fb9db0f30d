"""``wenlu data inspect``: what is in texts, or in a packed store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.cli.parsing import reading_options
from wenlu.core.errors import EXIT_DONE, EXIT_WRONG_INPUT
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.data.inspection import Inspection
    from wenlu.data.store import Store


@output.command("data_inspect")
@argument("data_inspect", "paths", nargs=-1, required=True)
@reading_options
@option("data_inspect", "--set", "overrides", multiple=True, metavar="KEY=VALUE")
@option("data_inspect", "--examples", type=click.IntRange(min=0), default=3, show_default=True)
@output.run
def command(paths: tuple[str, ...], overrides: tuple[str, ...], examples: int, values: dict[str, object]) -> int:
    """Read everything, print the account; exit 2 when a file could not be read to its end."""
    from wenlu.core import settings
    from wenlu.data.inspection import inspect_texts
    from wenlu.data.store import Store
    from wenlu.data.tokens import PackSettings

    if len(paths) == 1 and Store.is_store(Path(paths[0])):
        _show_store(Store.open(Path(paths[0])))
        return EXIT_DONE
    resolved = settings.load(PackSettings, overrides=overrides, values={"data.paths": list(paths), **values})
    found = inspect_texts(resolved.value.data, examples=examples)
    table = output.table([text("data.column_item"), text("data.column_value")], _rows(found))
    problems = "\n".join(str(error) for error in found.problems)
    output.result(found.as_record(), table=table, text=problems or None)
    return EXIT_WRONG_INPUT if found.problems else EXIT_DONE


def _rows(found: Inspection) -> list[tuple[str, str]]:
    report = found.report

    def amount(documents: int, characters: int) -> str:
        return text("data.documents_and_characters", documents=documents, characters=characters)

    rows = [
        (text("data.files_read"), f"{len(report.files):,}"),
        (text("data.documents_read"), amount(report.documents, report.characters)),
        (text("data.documents_kept"), amount(report.kept.documents, report.kept.characters)),
        (text("data.column_bytes"), f"{report.bytes:,}"),
        (text("data.duplicates"), f"{found.duplicates:,}"),
        (text("data.length_quantiles"), "  ".join(f"{length:,}" for length in found.length_quantiles) or "-"),
    ]
    for name, tally in sorted(found.languages.items(), key=lambda entry: -entry[1].characters):
        rows.append((text("data.language_share", name=name), amount(tally.documents, tally.characters)))
    for what, tallies in report.happened().items():
        for reason, tally in tallies:
            label = text(f"data.{what}_because", reason=text(f"data.reason_{reason}"))
            rows.append((label, amount(tally.documents, tally.characters)))
    if report.cut_documents:
        rows.append((text("data.cut_parts"), f"{report.cut_parts:,}"))
    for reason, skipped in sorted(report.skipped.items()):
        rows.append((text("data.skipped_because", reason=text(f"data.reason_{reason}")), f"{skipped.files:,}"))
    rows += [(text("data.example", source=source), beginning) for source, beginning in found.examples]
    return rows


def _show_store(store: Store) -> None:
    from wenlu.data.store import SPLITS

    rule = text(f"data.rule_{store.record['split_rule']}")
    summary = text("data.tokenizer_summary", kind=store.tokenizer.kind, vocab_size=store.tokenizer.vocab_size)
    lines = [
        f"{text('data.tokenizer')}: {summary}",
        f"{text('data.split_rule')}: {rule}",
        f"{text('data.verified')}: {text('data.verified_yes')}",
    ]
    record: dict[str, object] = {"path": str(store.path), "fingerprint": store.fingerprint, **store.record}
    splits = record["splits"]
    assert isinstance(splits, Mapping), "data.json of a verified store has its splits"
    output.result(record, table=split_table([(name, splits[name]) for name in SPLITS]), text="\n".join(lines))


def split_table(splits: list[tuple[str, Mapping[str, object]]]) -> output.Table:
    """One row a split, from the summaries in ``data.json``."""
    names = ("split", "documents", "tokens", "characters", "bytes", "bytes_per_token", "not_lossless")
    columns = [text(f"data.column_{name}") for name in names]
    rows = []
    for name, summary in splits:
        documents, tokens, characters, size, lossy = (
            int(str(summary[key])) for key in ("documents", "tokens", "characters", "original_bytes", "not_lossless")
        )
        ratio = f"{size / tokens:.2f}" if tokens else "-"
        rows.append((name, f"{documents:,}", f"{tokens:,}", f"{characters:,}", f"{size:,}", ratio, f"{lossy:,}"))
    return output.table(columns, rows)
