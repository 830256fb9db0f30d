"""``wenlu describe MODEL | KIND | PRESET``: the model drawn layer by layer, with the parameters of each line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from wenlu.cli import output
from wenlu.cli.output import argument
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.models.description import Description, Line

ARROW = " ─▶ "
INDENT = "  "


@output.command("describe")
@argument("describe", "model", metavar="MODEL|KIND", required=False)
@output.run
def command(model: str | None) -> None:
    """Find what is meant, draw it."""
    name, drawn = find(model)
    lines = [
        {
            "section": line.section,
            "indent": line.indent,
            "text": words(line),
            "parameters": line.parameters,
            "parts": [dataclasses.asdict(part) for part in line.parts],
        }
        for line in drawn.lines
    ]
    record = {"model": name, "lines": lines, "parameters": drawn.sums, "sequence_length": drawn.sequence_length}
    if drawn.statistics is not None:
        record["statistics"] = dataclasses.asdict(drawn.statistics)
    if drawn.config is not None:
        record["config"] = plain(dataclasses.asdict(drawn.config))
    output.result(record, text=draw(drawn))


def plain(value: object) -> object:
    """The same with sets as sorted lists, which JSON has."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return sorted(value) if isinstance(value, frozenset) else value


def find(where: str | None) -> tuple[str, Description]:
    """What a user means, and its drawing: a model on disk before a kind, a kind before a preset.

    Raises:
        CheckpointError: ``models.nothing_to_describe`` when it is none of them; what ``load_model`` refuses.
    """
    from wenlu.core import plugins
    from wenlu.core.errors import CheckpointError
    from wenlu.core.runs import resolve_model
    from wenlu.core.settings import load, presets
    from wenlu.models.build import FAMILIES
    from wenlu.models.checkpoint import load_model
    from wenlu.models.config import Head
    from wenlu.models.description import describe_kind, describe_model
    from wenlu.models.families._files import refuse_pickle
    from wenlu.tasks._base import CorpusObjective
    from wenlu.training.preparation import create_task
    from wenlu.training.settings import RunSettings

    if where is not None:
        refuse_pickle(Path(where))
    try:
        path = resolve_model(where)
    except CheckpointError as error:
        if where is None or error.id != "core.model_not_found":
            raise
    else:
        return str(path), describe_model(load_model(path))
    kinds, known = plugins.names(FAMILIES), presets()
    if where not in (*kinds, *known):
        raise CheckpointError("models.nothing_to_describe", where=where, near=plugins.closest(where, [*kinds, *known]))
    preset, values = (None, {"model.kind": where}) if where in kinds else (where, {})
    run = load(RunSettings, preset=preset, values=values).value
    sizes = {"vocab_size": run.tokenizer.vocab_size, "sequence_length": run.train.sequence_length}
    heads = task.heads if isinstance(task := create_task(run.task), CorpusObjective) else frozenset[Head]()
    return where, describe_kind(run.model, **sizes, heads=heads)


def draw(drawn: Description) -> str:
    """The lines with their parameters in a column of their own, then the sums and what a token costs."""
    from rich.cells import cell_len

    left = [INDENT * line.indent + words(line) for line in drawn.lines]
    counts = [f"{line.parameters:,}" if line.parts else "" for line in drawn.lines]
    width = max((cell_len(words) for words, count in zip(left, counts, strict=True) if count), default=0)
    digits = max(map(len, counts))
    rows = [
        f"{words}{' ' * (width - cell_len(words))}  {count:>{digits}}{_copies(line)}".rstrip()
        for words, count, line in zip(left, counts, drawn.lines, strict=True)
    ]
    sums = [text("describe.sum", **drawn.sums)] if drawn.sums["total"] else []
    return "\n".join([*rows, *sums, *map(str, drawn.costs)])


def words(line: Line) -> str:
    """What a line says, without its number."""
    steps = ARROW.join(map(str, line.steps))
    return text("describe.separator").join([*([steps] if steps else []), *map(str, line.details)])


def _copies(line: Line) -> str:
    copies = max((part.copies for part in line.parts), default=1)
    return f" = {copies} × {line.parameters // copies:,}" if copies > 1 else ""
