"""``wenlu data fetch NAME...``: texts and models from packages of the user's registry, or from the running Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wenlu.cli import output
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.data.corpora._catalogue import Entry, ModelEntry
    from wenlu.data.fetch import Fetched


@output.command("data_fetch")
@output.argument("data_fetch", "names", nargs=-1)
@output.option("data_fetch", "--list", "listing", is_flag=True)
@output.option("data_fetch", "--refresh", is_flag=True)
@output.run
def command(names: tuple[str, ...], listing: bool, refresh: bool) -> None:
    """Fetch the named texts and models, or list the catalogue when none is named."""
    if listing or not names:
        _show_catalogue(names)
        return
    from wenlu.data.corpora._catalogue import sources
    from wenlu.data.fetch import fetch_entries

    wanted = {entry.name: entry for name in names for entry in sources(name)}
    _show_fetched(fetch_entries(list(wanted.values()), refresh=refresh))


def _show_catalogue(names: tuple[str, ...]) -> None:
    from wenlu.data.corpora._catalogue import Entry, ModelEntry, catalogue, models, sources, spoken

    texts, corpora = catalogue()
    shown = [entry for name in names for entry in sources(name)] or [*texts.values(), *models().values()]
    text_entries = [entry for entry in shown if isinstance(entry, Entry)]
    model_entries = [entry for entry in shown if isinstance(entry, ModelEntry)]
    of_texts, text_table = _list(text_entries, "list_texts", "size", "characters", "documents")
    of_models, model_table = _list(model_entries, "list_models", "parameters", "parameters")
    groups = [f"{one.name}: {spoken(one.about)}\n  = {' '.join(one.texts)}" for one in corpora.values()]
    parts = [text("fetch.list_corpora"), *groups, ""] if text_entries else []
    parts += [output.render(model_table)] if model_entries else []
    listed = [{"name": one.name, "texts": one.texts, "what": spoken(one.about)} for one in corpora.values()]
    output.result(
        {"texts": of_texts, "corpora": listed, "models": of_models},
        text="\n".join(parts),
        table=text_table if text_entries else None,
    )


def _list(
    shown: Sequence[Entry] | Sequence[ModelEntry], title: str, size: str, *numbers: str
) -> tuple[list[dict[str, object]], output.Table]:
    """Records and a table of texts or of models; ``numbers`` are what is counted of them, the first is shown."""
    from wenlu.data.corpora._catalogue import spoken
    from wenlu.data.fetch import cached

    records: list[dict[str, object]] = []
    rows = []
    for entry in shown:
        fetched = cached(entry)
        counts = {name: getattr(entry, name) for name in numbers}
        records.append(
            {
                "name": entry.name,
                "title": spoken(entry.title),
                "what": spoken(entry.about),
                "note": spoken(entry.note),
                "languages": entry.languages,
                **counts,
                "download_bytes": entry.download_bytes,
                "licence": spoken(entry.licence),
                "package": entry.requirement if entry.package else None,
                "package_licence": entry.package_licence or None,
                "fetched": fetched is not None,
                "path": str(fetched.path) if fetched else None,
            }
        )
        sizes = (f"{counts[numbers[0]]:,}", f"{entry.download_bytes / 1e6:.1f}")
        answer = text("fetch.yes") if fetched else text("fetch.no")
        languages, licence = " ".join(entry.languages), spoken(entry.licence)
        rows.append((entry.name, languages, *sizes, licence, answer, spoken(entry.title)))
    headings = ("name", "language", size, "download", "licence", "fetched", "what")
    columns = [text(f"fetch.column_{name}") for name in headings]
    return records, output.table(columns, rows, title=text(f"fetch.{title}"))


def _show_fetched(fetched: list[Fetched]) -> None:
    """Texts with what was counted, models with their licence and the path that every verb takes as its model."""
    from wenlu.data.corpora._catalogue import models

    texts = [one for one in fetched if one.record["name"] not in models()]
    others = [one for one in fetched if one.record["name"] in models()]
    rows = []
    for one in texts:
        record = one.record
        left_out = _total(record["dropped"], "characters")
        numbers = (_total(record["documents"]), _total(record["characters"]), left_out)
        rows.append((record["name"], *(f"{number:,}" for number in numbers), one.path))
    columns = [text(f"fetch.column_{name}") for name in ("name", "documents", "size", "left_out", "path")]
    of_texts = [{**one.record, "path": str(one.path), "jsonl": [str(file) for file in one.files]} for one in texts]
    of_models = [{**one.record, "path": str(one.path), "model": str(one.model)} for one in others]
    output.result(
        {"texts": of_texts, "models": of_models},
        text=_models_table(others) if others else None,
        table=output.table(columns, rows) if texts else None,
    )


def _models_table(fetched: Sequence[Fetched]) -> str:
    from wenlu.data.corpora._catalogue import models, spoken

    entries = [models()[str(one.record["name"])] for one in fetched]
    rows = [
        (entry.name, f"{entry.parameters:,}", spoken(entry.licence), one.model)
        for entry, one in zip(entries, fetched, strict=True)
    ]
    return output.render(
        output.table([text(f"fetch.column_{name}") for name in ("name", "parameters", "licence", "path")], rows)
    )


def _total(counts: object, key: str | None = None) -> int:
    """The sum of the numbers of a table, or of one number in each of its tables."""
    assert isinstance(counts, Mapping)
    return sum(value[key] if key else value for value in counts.values())
