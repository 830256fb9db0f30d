"""``wenlu data fetch NAME...``: texts and models from packages of the user's registry, or from the running Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from wenlu.cli import output
from wenlu.cli.parsing import Words
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.data.corpora._catalogue import Entry, ModelEntry


@output.command("data_fetch")
def command(names: Words = (), *, listing: Annotated[bool, "--list"] = False, refresh: bool = False) -> None:
    """Fetch the named texts and models, or list the catalogue when none is named."""
    if listing or not names:
        _show_catalogue(names)
    else:
        _show_fetched(names, refresh=refresh)


def _show_catalogue(names: Words) -> None:
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

    records, rows = [], []
    for entry in shown:
        fetched, licence, called = cached(entry), spoken(entry.licence), spoken(entry.title)
        counts = {name: getattr(entry, name) for name in numbers}
        record = {
            "name": entry.name,
            "title": called,
            "what": spoken(entry.about),
            "note": spoken(entry.note),
            "languages": entry.languages,
            **counts,
            "download_bytes": entry.download_bytes,
            "licence": licence,
            "package": entry.requirement if entry.package else None,
            "package_licence": entry.package_licence or None,
        }
        records.append({**record, "fetched": fetched is not None, "path": str(fetched.path) if fetched else None})
        sizes = (f"{counts[numbers[0]]:,}", f"{entry.download_bytes / 1e6:.1f}")
        answer = text("fetch.yes") if fetched else text("fetch.no")
        rows.append((entry.name, " ".join(entry.languages), *sizes, licence, answer, called))
    columns = ("name", "language", size, "download", "licence", "fetched", "what")
    return records, output.table("fetch", columns, rows, title=text(f"fetch.{title}"))


def _show_fetched(names: Words, *, refresh: bool) -> None:
    """Texts with what was counted, models with their licence and the path that every verb takes as its model."""
    from wenlu.data.corpora._catalogue import models, sources, spoken
    from wenlu.data.fetch import fetch_entries

    wanted = {entry.name: entry for name in names for entry in sources(name)}
    texts, found, text_rows, model_rows = [], [], [], []
    for one in fetch_entries(list(wanted.values()), refresh=refresh):
        record: Mapping[str, Any] = one.record
        if (entry := models().get(record["name"])) is not None:
            found.append({**record, "path": str(one.path), "model": str(one.model)})
            model_rows.append((entry.name, f"{entry.parameters:,}", spoken(entry.licence), one.model))
            continue
        texts.append({**record, "path": str(one.path), "jsonl": [str(file) for file in one.files]})
        left_out = sum(dropped["characters"] for dropped in record["dropped"].values())
        counts = sum(record["documents"].values()), sum(record["characters"].values()), left_out
        text_rows.append((record["name"], *(f"{count:,}" for count in counts), one.path))
    text_table = output.table("fetch", ("name", "documents", "size", "left_out", "path"), text_rows)
    model_table = output.table("fetch", ("name", "parameters", "licence", "path"), model_rows)
    output.result(
        {"texts": texts, "models": found},
        text=output.render(model_table) if found else None,
        table=text_table if texts else None,
    )
