"""``wenlu train``: a run directory from a settings file, a preset and options; and going on with one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from wenlu.cli import output
from wenlu.cli.parsing import Words, option, together
from wenlu.core.errors import SettingsError
from wenlu.core.log import notice
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.core.settings import Resolved
    from wenlu.training.results import RunResult
    from wenlu.training.settings import RunSettings

DEFAULT_PRESET = "llama-tiny"
_SHOWN = 40  # characters of a text in a table


run_options = together(
    option("train", "--preset", metavar="NAME"),
    option("train", "--data", multiple=True, metavar="PATH"),
    option("train", "--budget", metavar="DURATION"),
    option("train", "-o", "--output", metavar="RUN"),
)
"""What is said of a new run beside its settings."""


@output.command("train")
@run_options
def command(
    settings: Words = (),
    *,
    values: dict[str, Any],
    resume: Annotated[str | None, "RUN"] = None,
    verify: bool = False,
    replay: Annotated[int | None, "STEP"] = None,
    allow_inexact: bool = False,
    dry_run: bool = False,
) -> int:
    """Train, resume, verify or replay a step."""
    if replay is not None and (resume is None or verify or settings):
        raise SettingsError("training.replay_alone")
    if verify and (resume is None or settings or allow_inexact):
        raise SettingsError("training.verify_alone")
    if allow_inexact and resume is None:
        raise SettingsError("training.allow_inexact_alone")
    if resume is not None and (new := [*values, *(["dry-run"] if dry_run else [])]):
        raise SettingsError("training.resume_option", option=f"--{new[0]}")
    from wenlu.core.runs import RUNS
    from wenlu.evaluation.evaluator import evaluate_split
    from wenlu.training.run import resume_run, train_run
    from wenlu.training.verification import verify_run

    if resume is None:
        resolved, path = resolve(settings, values)
        if dry_run:
            from wenlu.cli.commands.plan import show_plan

            return show_plan(resolved, path)
        return report(train_run(resolved, path, evaluate=evaluate_split))
    path = Path(resume)
    if not path.is_dir() and (RUNS / resume).is_dir():
        path = RUNS / resume
    if verify:
        found = verify_run(path)
        steps = {"first_step": found.first, "last_step": found.last}
        sentence = text("training.verified", first=found.first, last=found.last, digest=found.digest)
        output.result({"run": path, **steps, "digest": found.digest, "equal": True}, text=sentence)
        return 0
    if replay is not None:
        return _replay(path, replay, allow_inexact=allow_inexact)
    return report(resume_run(path, overrides=settings, evaluate=evaluate_split, allow_inexact=allow_inexact))


def resolve(words: Words, given: Mapping[str, Any]) -> tuple[Resolved[RunSettings], Path]:
    """The settings and the run directory that the words of a command line and its ``run_options`` mean.

    Raises:
        SettingsError: ``training.several_files``, ``training.not_a_settings_file``, or wrong settings.
    """
    from wenlu.core.settings import load
    from wenlu.training.settings import RunSettings

    files = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(files) > 1:
        raise SettingsError("training.several_files", files=", ".join(files))
    file = Path(files[0]) if files else None
    if file is not None and file.suffix != ".toml":
        raise SettingsError("training.not_a_settings_file", path=file)
    preset = given.get("preset")
    if file is None and preset is None:
        preset = DEFAULT_PRESET
        notice("training.default_preset", preset=preset)
    values = {"data.paths": given.get("data"), "train.budget": given.get("budget")}
    resolved = load(RunSettings, preset=preset, file=file, overrides=overrides, values=values)
    name = str(preset) if file is None else file.stem
    return resolved, Path(given["output"]) if given.get("output") else new_run(name)


def _replay(path: Path, step: int, *, allow_inexact: bool) -> int:
    from wenlu.training.verification import replay_step

    found = replay_step(path, step, allow_inexact=allow_inexact)
    norms = ", ".join(f"{role} {_number(value)}" for role, value in found.gradient_norms.items())
    loss, norm = _number(found.loss), _number(found.gradient_norm)
    lines = [text("training.replayed", step=step, loss=loss, norm=norm, norms=norms)]
    for name in ("held", "modules", "parameters"):
        if names := getattr(found, name):
            lines.append(text(f"training.replay_{name}", names=", ".join(names)))
    if found.is_finite:
        lines.append(text("training.replay_finite"))
    rows = []
    for part in found.documents:
        shown = part.text if len(part.text) <= _SHOWN else part.text[:_SHOWN] + "…"
        rows.append((part.micro_batch, part.row, part.document, part.tokens, _number(part.loss), repr(shown)[1:-1]))
    table = output.table("training", ("micro_batch", "row", "document", "tokens", "loss", "text"), rows)
    output.result({"run": path, **found.as_record()}, text="\n".join(lines), table=table)
    return 0


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"


def new_run(name: str) -> Path:
    """A directory under ``runs/`` that is not there yet: the name, or the name and a number."""
    from wenlu.core.runs import RUNS

    numbered = (RUNS / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in numbered if not path.exists())


def _kind(path: Path) -> str:
    """What a run trained, by its task."""
    from wenlu.core.runs import Run
    from wenlu.tasks._base import CorpusObjective
    from wenlu.tasks._labelled import LabelledTask
    from wenlu.training.resolution import create_task
    from wenlu.training.run import read_settings

    task = create_task(read_settings(Run(path)).value.task)
    if isinstance(task, LabelledTask):
        return "labelled"
    return task.architecture if isinstance(task, CorpusObjective) else "decoder"


def report(result: RunResult) -> int:
    """Print how the run ended; its exit code."""
    ended = {"run": result.path, "state": result.state, "step": result.step, "seconds": result.seconds}
    record = {**ended, "model": result.model, "evaluation": dict(result.evaluation)}
    rows = [(name, f"{value:.4f}") for name, value in result.evaluation.items()]
    table = output.table("training", ("score", "value"), rows) if rows else None
    if result.state == "finished":
        notice(f"training.try_{_kind(result.path)}", path=result.path)
    sentence = text("training.finished", path=result.path, step=result.step, seconds=result.seconds)
    output.result(record, text=sentence, table=table)
    return result.exit_code
