"""``wenlu train``: a run directory from a settings file, a preset and options; and going on with one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.cli.output import command as verb
from wenlu.core.errors import SettingsError
from wenlu.core.log import notice
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.core.settings import Resolved
    from wenlu.models.roles import Architecture
    from wenlu.training.results import RunResult
    from wenlu.training.settings import RunSettings

DEFAULT_PRESET = "llama-tiny"
_SHOWN = 40  # characters of a text in a table


@verb("train")
@argument("train", "settings", nargs=-1)
@option("train", "--preset", metavar="NAME")
@option("train", "--data", multiple=True, metavar="PATH")
@option("train", "--budget", metavar="DURATION")
@option("train", "-o", "--output", "target", metavar="RUN")
@option("train", "--resume", metavar="RUN")
@option("train", "--verify", is_flag=True)
@option("train", "--replay", type=int, metavar="STEP")
@option("train", "--allow-inexact", is_flag=True)
@option("train", "--dry-run", is_flag=True)
@output.run
def command(
    settings: tuple[str, ...],
    preset: str | None,
    data: tuple[str, ...],
    budget: str | None,
    target: str | None,
    resume: str | None,
    verify: bool,
    replay: int | None,
    allow_inexact: bool,
    dry_run: bool,
) -> int:
    """Train, resume, verify or replay a step."""
    if replay is not None and (resume is None or verify or settings):
        raise SettingsError("training.replay_alone")
    if verify and (resume is None or settings or allow_inexact):
        raise SettingsError("training.verify_alone")
    if allow_inexact and resume is None:
        raise SettingsError("training.allow_inexact_alone")
    new = {"--preset": preset, "--data": data, "--budget": budget, "--output": target, "--dry-run": dry_run}
    for name, value in new.items():
        if value and resume is not None:
            raise SettingsError("training.resume_option", option=name)
    from wenlu.evaluation.evaluator import evaluate_split
    from wenlu.training.run import resume_run, train_run

    if resume is None:
        resolved, path = resolve(settings, preset=preset, data=data, budget=budget, target=target)
        if dry_run:
            from wenlu.cli.commands.plan import show_plan

            return show_plan(resolved, path)
        return _report(train_run(resolved, path, evaluate=evaluate_split))
    path = _run_path(resume)
    if verify:
        return _verify(path)
    if replay is not None:
        return _replay(path, replay, allow_inexact=allow_inexact)
    return _report(resume_run(path, overrides=settings, evaluate=evaluate_split, allow_inexact=allow_inexact))


def resolve(
    words: tuple[str, ...], *, preset: str | None, data: tuple[str, ...], budget: str | None, target: str | None
) -> tuple[Resolved[RunSettings], Path]:
    """The settings and the run directory that the words of a command line mean.

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
    if file is None and preset is None:
        preset = DEFAULT_PRESET
        notice("training.default_preset", preset=preset)
    values = {"data.paths": list(data) or None, "train.budget": budget}
    resolved = load(RunSettings, preset=preset, file=file, overrides=overrides, values=values)
    name = file.stem if file is not None else preset or DEFAULT_PRESET
    return resolved, Path(target) if target else _new_run(name)


def _verify(path: Path) -> int:
    from wenlu.training.verification import verify_run

    found = verify_run(path)
    record = {"run": path, "first_step": found.first, "last_step": found.last, "digest": found.digest, "equal": True}
    sentence = text("training.verified", first=found.first, last=found.last, digest=found.digest)
    output.result(record, text=sentence)
    return 0


def _replay(path: Path, step: int, *, allow_inexact: bool) -> int:
    from wenlu.training.verification import replay_step

    found = replay_step(path, step, allow_inexact=allow_inexact)
    norms = ", ".join(f"{role} {_number(value)}" for role, value in found.gradient_norms.items())
    loss, norm = _number(found.loss), _number(found.gradient_norm)
    lines = [text("training.replayed", step=step, loss=loss, norm=norm, norms=norms)]
    shown = [
        text("training.replay_held", names=", ".join(found.held)) if found.held else "",
        text("training.replay_modules", names=", ".join(found.modules)) if found.modules else "",
        text("training.replay_parameters", names=", ".join(found.parameters)) if found.parameters else "",
        text("training.replay_finite") if found.is_finite else "",
    ]
    columns = [text(f"training.column_{name}") for name in ("micro_batch", "row", "document", "tokens", "loss", "text")]
    rows = [
        (part.micro_batch, part.row, part.document, part.tokens, _number(part.loss), _short(part.text))
        for part in found.documents
    ]
    table = output.table(columns, rows)
    output.result({"run": path, **found.as_record()}, text="\n".join([*lines, *filter(None, shown)]), table=table)
    return 0


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"


def _short(shown: str) -> str:
    """The beginning of a text, on one line."""
    return repr(shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…")[1:-1]


def _new_run(name: str) -> Path:
    """A directory under ``runs/`` that is not there yet: the name, or the name and a number."""
    from wenlu.core.runs import RUNS

    numbered = (RUNS / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(path for path in numbered if not path.exists())


def _run_path(where: str) -> Path:
    """The run that a user means by a directory or a name under ``runs/``."""
    from wenlu.core.runs import RUNS

    path = Path(where)
    return path if path.is_dir() or not (RUNS / where).is_dir() else RUNS / where


def _architecture(path: Path) -> Architecture:
    """What a run trained, by its task."""
    from wenlu.core.runs import Run
    from wenlu.tasks._base import CorpusObjective
    from wenlu.training.preparation import create_task
    from wenlu.training.run import read_settings

    task = create_task(read_settings(Run(path)).value.task)
    return task.architecture if isinstance(task, CorpusObjective) else "decoder"


def _report(result: RunResult) -> int:
    """Print how the run ended; its exit code."""
    record: dict[str, object] = {
        "run": result.path,
        "state": result.state,
        "step": result.step,
        "seconds": result.seconds,
        "model": result.model,
        "evaluation": dict(result.evaluation),
    }
    rows = [(name, f"{value:.4f}") for name, value in result.evaluation.items()]
    table = output.table((text("training.column_score"), text("training.column_value")), rows) if rows else None
    sentence = text("training.finished", path=result.path, step=result.step, seconds=result.seconds)
    if result.state == "finished":
        notice(f"training.try_{_architecture(result.path)}", path=result.path)
    output.result(record, text=sentence, table=table)
    return result.exit_code
