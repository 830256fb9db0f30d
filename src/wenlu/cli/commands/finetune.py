"""``wenlu finetune --task T --data FILE --model DIR``: the short form of ``wenlu train`` for labelled examples."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated

import click

from wenlu.cli import output
from wenlu.cli.parsing import Paths, Words


@output.command("finetune", like=["train"])
def command(
    settings: Words = (),
    *,
    task: str,
    data: Paths,
    validation: Paths = (),
    model: Annotated[str, "MODEL"],
    budget: Annotated[str | None, "DURATION"] = None,
    seeds: Annotated[int | None, click.IntRange(min=2), "COUNT"] = None,
    target: Annotated[str | None, "-o", "--output", "RUN"] = None,
) -> int:
    """Put the settings together and train, once, or once a seed: then show mean and sample deviation of each score."""
    from wenlu.cli.commands.train import new_run, report
    from wenlu.core.settings import load
    from wenlu.evaluation.evaluator import evaluate_split
    from wenlu.training.run import train_run
    from wenlu.training.settings import RunSettings

    files = {"data.paths": data, "data.validation_paths": validation or None}
    values = {"task.name": task, **files, "model.start": model, "train.budget": budget}
    resolved = load(RunSettings, preset="finetune", overrides=list(settings), values=values)
    path = Path(target) if target else new_run(task)
    if seeds is None:
        return report(train_run(resolved, path, evaluate=evaluate_split))
    results = []
    for seed in range(resolved.value.train.seed, resolved.value.train.seed + seeds):
        again = load(RunSettings, preset="finetune", overrides=[*settings, f"train.seed={seed}"], values=values)
        results.append(train_run(again, path / f"seed-{seed}", evaluate=evaluate_split))
        if results[-1].state != "finished":
            return report(results[-1])
    scores, rows = {}, []
    for name in results[0].evaluation:
        found = [result.evaluation[name] for result in results]
        mean, deviation = fmean(found), stdev(found)
        scores[name] = {"mean": mean, "deviation": deviation, "values": found}
        rows.append((name, *(f"{value:.4f}" for value in (mean, deviation, min(found), max(found)))))
    table = output.table("training", ("score", "mean", "deviation", "lowest", "highest"), rows)
    output.result({"runs": [str(result.path) for result in results], "scores": scores}, table=table)
    return 0
