"""``wenlu data lint FILE... --task T``: what is wrong with labelled rows, before anything is learned from them."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import click

from wenlu.cli import output
from wenlu.cli.parsing import Words
from wenlu.core.errors import EXIT_DONE, EXIT_GATE, SettingsError
from wenlu.core.messages import text


@output.command("data_lint")
def command(
    paths: Words,
    *,
    task: str,
    validation: Annotated[Words, "FILE"] = (),
    format: Annotated[str, "FORMAT"] = "auto",
    columns: Annotated[str | None, "A,B,-"] = None,
    encoding: str = "utf-8",
    fix: bool = False,
    target: Annotated[str | None, "-o", "--output", "FILE"] = None,
    limit: Annotated[int, click.IntRange(min=0)] = 10,
) -> int:
    """Read all rows, tell what is wrong, write them mended; exit 3 when something fatal is left."""
    from wenlu.core import plugins
    from wenlu.data import mending
    from wenlu.data.examples import read_examples
    from wenlu.data.linting import Finding, collect, lint_files
    from wenlu.tasks._labelled import LabelledTask

    if fix != (target is not None):
        raise SettingsError("lint.fix_alone")
    module = plugins.load("wenlu.tasks", task)
    made = module.create(module.SETTINGS(name=task))
    if not isinstance(made, LabelledTask):
        raise SettingsError("lint.not_labelled", task=task)
    schema, names = made.schema, [name for name in (columns or "").split(",") if name]
    read = partial(read_examples, schema=schema, format=format, encoding=encoding, columns=names)
    bad: list[Finding] = []
    bad_apart: list[Finding] = []
    move = partial(mending.move_spans, schema=schema) if fix else None
    train = collect(lambda refused: read(paths, refused=refused, whole=fix), bad, mend=move)
    apart = collect(lambda refused: read(validation, refused=refused), bad_apart) if validation else []
    rows = len(train)
    found = left = [*lint_files([*paths, *validation]), *bad, *bad_apart, *made.lint(train, apart)]
    if target is not None:
        train = mending.mend(train, schema)
        mending.write(Path(target), train, schema)
        bad = [finding for finding in bad if not finding.fixed]
        left = [*lint_files(validation), *bad, *bad_apart, *made.lint(train, apart)]
    kinds, after = Counter(one.kind for one in found), Counter(one.kind for one in left)
    fatal = sum(one.fatal for one in left)
    record = {
        "rows": {"train": rows, "validation": len(apart)}, "written": len(train) if fix else None, "fatal": fatal,
        "found": dict(kinds), "left": dict(after), "findings": [one.record() for one in left],
    }  # fmt: skip
    lines, seen = [], Counter[str]()
    for one in left:
        seen[one.kind] += 1
        if not limit or seen[one.kind] <= limit:
            lines.append(str(one))
    lines += [text("lint.more", kind=kind, count=count - limit) for kind, count in after.items() if 0 < limit < count]
    shown = [(kind, f"{kinds[kind]:,}", f"{after[kind]:,}")[: 2 + fix] for kind in kinds | after]
    table = output.table("lint", ("kind", "found", "left")[: 2 + fix], shown)
    lines.append(text("lint.summary", train=rows, validation=len(apart), findings=len(left), fatal=fatal))
    if fix:
        lines.append(text("lint.written", path=target, rows=len(train), unread=len(bad)))
    output.result(record, text="\n".join(lines), table=table if kinds else None)
    return EXIT_GATE if fatal else EXIT_DONE
