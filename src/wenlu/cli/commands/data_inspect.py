"""``wenlu data inspect``: what is in texts, or in a packed store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from wenlu.cli import output
from wenlu.cli.parsing import Overrides, Words, reading_options
from wenlu.core.errors import EXIT_DONE, EXIT_WRONG_INPUT
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.data.documents import Inspection
    from wenlu.data.store import Store


@output.command("data_inspect")
@reading_options
def command(
    paths: Words,
    *,
    values: dict[str, object],
    overrides: Overrides = (),
    examples: Annotated[int, click.IntRange(min=0)] = 3,
) -> int:
    """Read everything, print the account; exit 2 when a file could not be read to its end."""
    from wenlu.core import settings
    from wenlu.data.documents import inspect_texts
    from wenlu.data.store import Store
    from wenlu.data.tokens import PackSettings

    if len(paths) == 1 and Store.is_store(Path(paths[0])):
        store = Store.open(Path(paths[0]))
        rule = text(f"data.rule_{store.record['split_rule']}")
        summary = text("data.tokenizer_summary", kind=store.tokenizer.kind, vocab_size=store.tokenizer.vocab_size)
        lines = [
            f"{text('data.tokenizer')}: {summary}",
            f"{text('data.split_rule')}: {rule}",
            f"{text('data.verified')}: {text('data.verified_yes')}",
        ]
        record = {"path": str(store.path), "fingerprint": store.fingerprint, **store.record}
        output.result(record, table=split_table(store), text="\n".join(lines))
        return EXIT_DONE
    resolved = settings.load(PackSettings, overrides=overrides, values={"data.paths": paths, **values})
    found = inspect_texts(resolved.value.data, examples=examples)
    table = output.table("data", ("item", "value"), _rows(found))
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


def split_table(store: Store) -> output.Table:
    """One row a split, from the summaries in ``data.json``."""
    from wenlu.data.store import SPLITS

    splits: Any = store.record["splits"]
    rows = []
    for name in SPLITS:
        found = splits[name]
        ratio = f"{found['original_bytes'] / found['tokens']:.2f}" if found["tokens"] else "-"
        sizes = (f"{found[key]:,}" for key in ("documents", "tokens", "characters", "original_bytes"))
        rows.append((name, *sizes, ratio, f"{found['not_lossless']:,}"))
    columns = ("split", "documents", "tokens", "characters", "bytes", "bytes_per_token", "not_lossless")
    return output.table("data", columns, rows)
