"""What a fine-tuned model answers: labels, spans or text for examples or plain texts, and its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wenlu.bundle import Bundle
from wenlu.core import plugins
from wenlu.core.errors import DataError, RequestError, SettingsError
from wenlu.core.messages import text
from wenlu.core.version import __version__
from wenlu.data.examples import Example, read_examples
from wenlu.data.fields import check_row
from wenlu.evaluation.contestants import Contestant
from wenlu.evaluation.evaluator import TaskEvaluation
from wenlu.models.roles import architecture
from wenlu.models.transformer import Transformer
from wenlu.tasks._labelled import LabelledTask, Prediction
from wenlu.tasks._predictions import Predictions, predict_examples
from wenlu.training.material import digest, split_examples
from wenlu.training.run import read_settings


def task_of(bundle: Bundle) -> LabelledTask[Any]:
    """The task of a model, with the labels that its config.json has and the settings of its ``wenlu.toml``.

    Raises:
        RequestError: ``tasks.not_labelled`` for a model of another kind.
    """
    module = plugins.load("wenlu.tasks", bundle.task)
    model = bundle.model
    labels = model.config.labels if isinstance(model, Transformer) else ()
    settings = module.SETTINGS(**bundle.task_settings)
    if hasattr(settings, "labels"):
        length = settings.max_length or bundle.measured.max_positions or 0
        settings = replace(settings, labels=labels, max_length=length)
    task = module.create(settings)
    if not isinstance(task, LabelledTask) or architecture(model) not in task.architectures:
        raise RequestError("tasks.not_labelled", model=bundle.path, task=bundle.task)
    return task


def is_labelled(bundle: Bundle) -> bool:
    """Whether a model was trained on labelled examples."""
    module = plugins.load("wenlu.tasks", bundle.task)
    return isinstance(module.create(module.SETTINGS()), LabelledTask)


def predict(bundle: Bundle, examples: Sequence[Example]) -> Predictions:
    """The model's answers, one an example; None for one that has nothing to be read.

    Raises:
        RequestError: ``tasks.not_labelled``.
    """
    return predict_examples(task_of(bundle), bundle.model, examples, bundle.tokenizer)


def questions(task: LabelledTask[Any], rows: Sequence[str | Mapping[str, object]]) -> list[Example]:
    """Examples without answers, of plain texts or of rows with the fields of the task, which are checked.

    Raises:
        RequestError: ``tasks.needs_fields`` for a text where the task's rows have more than one field.
        DataError: ``examples.*`` for a row that is wrong.
    """
    found, said = [], set[str]()
    for number, row in enumerate(rows, start=1):
        where = text("tasks.row", number=number)
        if isinstance(row, str):
            found.append(task.of_text(row, where))
        else:
            found.append(Example(check_row(row, task.questions, where, {}, said), where))
    return found


def answers(bundle: Bundle, rows: Sequence[str | Mapping[str, object]]) -> list[Prediction | None]:
    """The answers to plain texts, or to rows with the fields of the task; see ``questions``."""
    task = task_of(bundle)
    return list(predict(bundle, [task.unanswered(one) for one in questions(task, rows)]).answers)


def labelled_data(
    contestant: Contestant, paths: Sequence[str], split: str | None
) -> tuple[str, dict[str, object], list[Example]]:
    """Name, record and examples of what a model is scored on: files, or a split of its run (``validation``).

    Raises:
        RequestError: ``evaluation.data_missing`` outside a run.
        SettingsError: ``evaluation.split_unread`` for files with a split.
        DataError: ``training.data_changed`` where the run's files are not those that it was trained on.
    """
    task = task_of(contestant.bundle)
    if paths:
        if split is not None:
            raise SettingsError("evaluation.split_unread", split=split, path=paths[0])
        examples = task.converted(list(read_examples(paths, task.schema)))
        return Path(paths[0]).stem or "examples", {"files": list(paths)}, examples
    run, split = contestant.run, split or "validation"
    if run is None or split == "test":
        raise RequestError("evaluation.data_missing", model=contestant.bundle.path)
    data = read_settings(run).value.data
    examples = split_examples(data, task)[split == "validation"]
    if not examples:
        raise RequestError("evaluation.data_missing", model=contestant.bundle.path)
    recorded = run.data().get("splits")
    then = recorded[split]["fingerprint"] if isinstance(recorded, dict) else None
    if digest(examples) != then:
        raise DataError("training.data_changed", then=then, now=digest(examples))
    return split, {"files": list(data.validation_paths or data.paths), "split": split, "fingerprint": then}, examples


def evaluate_examples(bundle: Bundle, examples: Sequence[Example]) -> TaskEvaluation:
    """The task's scores of a model on labelled examples, ``loss`` among them, with the place and answer of each.

    Raises:
        DataError: ``tasks.unknown_labels`` for labels that the model cannot give.
    """
    task = task_of(bundle)
    task.refuse_unknown(examples)
    found = predict_examples(task, bundle.model, examples, bundle.tokenizer)
    where: Sequence[object] = [example.where for example in examples]
    counts = f"examples:{len(examples)}|unanswered:{found.answers.count(None)}"
    definition = f"{bundle.task}|{counts}|wenlu:{__version__}"
    return TaskEvaluation(found.scores(task, examples), {"where": where, "answer": found.answers}, definition)
