"""``wenlu describe MODEL | KIND | PRESET``: the model drawn layer by layer, with the parameters of each line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from wenlu.cli import output
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.models.description import Description, Line

ARROW = " ─▶ "
INDENT = "  "


@output.command("describe")
def command(model: Annotated[str | None, "MODEL|KIND"] = None) -> None:
    """Find what is meant, draw it."""
    name, drawn = find(model)
    lines = []
    for line in drawn.lines:
        said = {"section": line.section, "indent": line.indent, "text": words(line), "parameters": line.parameters}
        lines.append({**said, "parts": [dataclasses.asdict(part) for part in line.parts]})
    sizes = {"parameters": drawn.sums, "sequence_length": drawn.sequence_length}
    parts = {"statistics": drawn.statistics, "config": drawn.config}
    known = {part: dataclasses.asdict(value) for part, value in parts.items() if value is not None}
    output.result({"model": name, "lines": lines, **sizes, **known}, text=draw(drawn))


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
    from wenlu.training.resolution import create_task
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
    rows = []
    for said, count, line in zip(left, counts, drawn.lines, strict=True):
        copies = max((part.copies for part in line.parts), default=1)
        each = f" = {copies} × {line.parameters // copies:,}" if copies > 1 else ""
        rows.append(f"{said}{' ' * (width - cell_len(said))}  {count:>{digits}}{each}".rstrip())
    sums = [text("describe.sum", **drawn.sums)] if drawn.sums["total"] else []
    return "\n".join([*rows, *sums, *map(str, drawn.costs)])


def words(line: Line) -> str:
    """What a line says, without its number."""
    steps = ARROW.join(map(str, line.steps))
    return text("describe.separator").join([*([steps] if steps else []), *map(str, line.details)])
