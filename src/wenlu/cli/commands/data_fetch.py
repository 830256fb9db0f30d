"""``wenlu data fetch NAME...``: texts from the packages of the user's registry, or from the running Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from wenlu.cli import output

if TYPE_CHECKING:
    from wenlu.data.fetch import FetchedText


@output.command("data_fetch")
@output.argument("data_fetch", "names", nargs=-1)
@output.option("data_fetch", "--list", "listing", is_flag=True)
@output.option("data_fetch", "--refresh", is_flag=True)
@output.run
def command(names: tuple[str, ...], listing: bool, refresh: bool) -> None:
    """Fetch the named texts, or list the catalogue when none is named."""
    if listing or not names:
        _show_catalogue(names)
        return
    from wenlu.data.corpora._catalogue import entries
    from wenlu.data.fetch import fetch_entries

    wanted = {entry.name: entry for name in names for entry in entries(name)}
    _show_fetched(fetch_entries(list(wanted.values()), refresh=refresh))


def _show_catalogue(names: tuple[str, ...]) -> None:
    from wenlu.core.messages import text
    from wenlu.data.corpora._catalogue import catalogue, entries, spoken
    from wenlu.data.fetch import cached

    texts, corpora = catalogue()
    shown = [entry for name in names for entry in entries(name)] or list(texts.values())
    records: list[dict[str, object]] = []
    rows = []
    for entry in shown:
        fetched = cached(entry)
        records.append(
            {
                "name": entry.name,
                "title": spoken(entry.title),
                "what": spoken(entry.about),
                "note": spoken(entry.note),
                "languages": entry.languages,
                "characters": entry.characters,
                "documents": entry.documents,
                "download_bytes": entry.download_bytes,
                "licence": spoken(entry.licence),
                "package": entry.requirement if entry.package else None,
                "package_licence": entry.package_licence or None,
                "fetched": fetched is not None,
                "path": str(fetched.path) if fetched else None,
            }
        )
        sizes = (f"{entry.characters:,}", f"{entry.download_bytes / 1e6:.1f}")
        answer = text("fetch.yes") if fetched else text("fetch.no")
        languages, licence = " ".join(entry.languages), spoken(entry.licence)
        rows.append((entry.name, languages, *sizes, licence, answer, spoken(entry.title)))
    headings = ("name", "language", "size", "download", "licence", "fetched", "what")
    columns = [text(f"fetch.column_{name}") for name in headings]
    groups = [f"{one.name}: {spoken(one.about)}\n  = {' '.join(one.texts)}" for one in corpora.values()]
    table = output.table(columns, rows, title=text("fetch.list_texts"))
    listed = [{"name": one.name, "texts": one.texts, "what": spoken(one.about)} for one in corpora.values()]
    output.result(
        {"texts": records, "corpora": listed},
        text="\n".join([text("fetch.list_corpora"), *groups, ""]),
        table=table,
    )


def _show_fetched(fetched: list[FetchedText]) -> None:
    from wenlu.core.messages import text

    rows = []
    for one in fetched:
        record = one.record
        left_out = _total(record["dropped"], "characters")
        numbers = (_total(record["documents"]), _total(record["characters"]), left_out)
        rows.append((record["name"], *(f"{number:,}" for number in numbers), one.path))
    columns = [text(f"fetch.column_{name}") for name in ("name", "documents", "size", "left_out", "path")]
    records = [{**one.record, "path": str(one.path), "jsonl": [str(file) for file in one.files]} for one in fetched]
    output.result({"texts": records}, table=output.table(columns, rows))


def _total(counts: object, key: str | None = None) -> int:
    """The sum of the numbers of a table, or of one number in each of its tables."""
    assert isinstance(counts, Mapping)
    return sum(value[key] if key else value for value in counts.values())
