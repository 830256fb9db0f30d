"""``wenlu plan``: what a run will need, before its first step; ``wenlu train --dry-run`` shows the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wenlu.cli import output
from wenlu.cli.commands.train import resolve, run_options
from wenlu.cli.parsing import Words
from wenlu.core.errors import GateError, WenluError, is_out_of_memory
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.core.settings import Resolved
    from wenlu.training.planning import Plan
    from wenlu.training.settings import RunSettings

TRIAL = (sys.executable, "-P", "-c", "import sys; from wenlu.cli.commands.plan import trial; trial(sys.argv[1])")
_DOUBT = 0.15


@output.command("plan", like=["train"])
@run_options
def command(settings: Words = (), *, values: dict[str, Any], check: bool = False) -> int:
    """Plan a run."""
    return show_plan(*resolve(settings, values), check=check)


def show_plan(resolved: Resolved[RunSettings], path: Path, *, check: bool = False) -> int:
    """Print the plan of the run that ``wenlu train`` would make at ``path``.

    Raises:
        GateError: with ``check``, ``training.plan_too_large`` or ``training.plan_not_tried``, after the plan is shown.
    """
    from wenlu.training.planning import plan_run

    plan = plan_run(resolved, path, trial_command=TRIAL)
    rows = [(text(f"plan.row_{name}"), value, note) for name, value, note in _rows(plan)]
    table = output.table("plan", ("what", "value", "note"), rows)
    output.result(plan.as_record(), table=table, text="\n".join(_remarks(plan)) or None)
    if check and not plan.fits:
        known = not (plan.fits_memory and plan.fits_disk)
        id = "training.plan_too_large" if known else "training.plan_not_tried"
        raise GateError(id, path=path, remarks="; ".join(_remarks(plan)))
    return 0


def trial(folder: str) -> None:
    """The process of the trial: import what ``wenlu train`` imports, then take some steps."""
    import wenlu.cli.main  # noqa: F401  # it is resident in a real run, too
    from wenlu.evaluation.evaluator import evaluate_split
    from wenlu.training.trial import run_trial

    try:
        run_trial(Path(folder), evaluate_split)
    except WenluError as error:
        sys.exit("; ".join(line.strip() for line in str(error).splitlines()))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(137)  # as if the system had ended it


def _rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """(name of the row, value, note)"""
    train, flops, trial = plan.settings.train, plan.flops_per_token * plan.tokens_per_step, plan.trial
    split = ", ".join(f"{text(f'plan.role_{role}')} {count:,}" for role, count in plan.parameters.items())
    yield "parameters", f"{sum(plan.parameters.values()):,}", split
    yield "flops_token", f"{plan.flops_per_token / 1e6:,.1f} MFLOP", ""
    yield "flops_step", f"{flops / 1e9:,.1f} GFLOP", text("plan.note_tokens", tokens=plan.tokens_per_step)
    if plan.steps is not None:
        yield "flops_run", f"{flops * plan.steps / 1e12:,.2f} TFLOP", text("plan.note_steps", steps=plan.steps)
    yield from ((f"memory_{name}", _size(size), "") for name, size in vars(plan.parts).items())
    measured = trial is not None and trial.peak_bytes is not None
    note = text("plan.note_formulas", size=_size(plan.formula_bytes)) if measured else ""
    yield "memory_peak", _size(plan.peak_bytes), note
    yield "memory_free", _size(plan.memory_free), ""
    if plan.largest_batch is not None:
        yield "largest_batch", f"{plan.largest_batch:,}", text("plan.note_batch", batch_size=train.batch_size)
    if trial is not None:
        speed = text("plan.note_speed", tokens=plan.tokens_per_step / trial.seconds_per_step)
        yield "seconds_step", f"{trial.seconds_per_step * 1000:,.1f} ms", speed
    yield from ((f"seconds_{name}", _duration(seconds), "") for name, seconds in plan.seconds.items())
    if plan.seconds:
        yield "seconds_total", _duration(sum(plan.seconds.values())), ""
    yield from ((f"disk_{name}", _size(size), "") for name, size in plan.disk.items())
    yield "disk_free", _size(plan.disk_free), ""


def _remarks(plan: Plan) -> Iterator[str]:
    """What is not as it should be, or was not measured."""
    from wenlu.training.memory import split_batch

    if plan.corpus.source != "prepared":
        yield text(f"plan.corpus_{plan.corpus.source}", vocab_size=plan.corpus.vocab_size)
    if plan.trial is None:
        yield text("plan.no_trial", reason=plan.trial_failure)
    elif abs(plan.formula_bytes / plan.peak_bytes - 1) > _DOUBT:
        yield text("plan.doubt", formulas=_size(plan.formula_bytes), trial=_size(plan.peak_bytes))
    if not plan.fits_memory:
        rows = plan.settings.train.batch_size * plan.settings.train.accumulation
        size, accumulation = split_batch(rows, max(1, plan.largest_batch or 0))
        advice = "plan.advice" if plan.largest_batch else "plan.no_advice"
        yield text(advice, batch_size=size, accumulation=accumulation)
    if not plan.fits_disk:
        yield text("plan.disk_short", needed=_size(sum(plan.disk.values())), free=_size(plan.disk_free))


def _size(size: int | None) -> str:
    return text("plan.unknown") if size is None else f"{size / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 600 else f"{seconds / 60:,.1f} min"
