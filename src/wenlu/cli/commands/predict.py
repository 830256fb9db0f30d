"""``wenlu predict RUN [TEXT ... | FILE | -]``: what a fine-tuned model answers, an answer a row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wenlu.cli import output
from wenlu.cli.parsing import Device, File, Words, text_arguments
from wenlu.core.errors import DataError, RequestError
from wenlu.core.log import notice

if TYPE_CHECKING:
    from wenlu.data.examples import Example
    from wenlu.tasks._labelled import AnyLabelled, Prediction


@output.command("predict")
def command(
    model: str,
    texts: Words = (),
    *,
    device: Device = "auto",
    file: File = None,
    format: Literal["table", "jsonl", "conll"] = "table",
) -> None:
    """Load, answer, print."""
    from wenlu.bundle import load_bundle
    from wenlu.evaluation.predictions import predict, task_of

    bundle = load_bundle(model, device=device)
    asked = task_of(bundle)
    found = predict(bundle, [asked.unanswered(one) for one in _examples(asked, texts, file)]).answers
    if output.wants_json() or format == "table":
        record = {"model": str(bundle.path), "task": bundle.task, "answers": found}
        output.result(record, table=_table(asked, found))
    elif format == "jsonl":
        output.result({}, text="\n".join(map(output.as_json, found)))
    else:
        read = [answer for answer in found if answer is not None]
        if any("tags" not in answer for answer in read):
            raise RequestError("tasks.no_tags", task=bundle.task)
        rows = [zip(answer["tokens"], answer["tags"], strict=True) for answer in read]
        output.result({}, text="\n".join("".join(f"{token}\t{tag}\n" for token, tag in row) for row in rows))


def _table(task: AnyLabelled, answers: Sequence[Prediction | None]) -> output.Table:
    """A line an answer; of a row that has nothing to be read there is nothing to show."""
    rows = []
    for number, answer in enumerate(answers, start=1):
        shown, probability = "-", None
        if answer is not None:
            shown, each = task.shown(answer), answer.get("probabilities")
            probability = each.get(shown) if isinstance(each, dict) else answer.get("probability")
        rows.append((number, shown, f"{100 * probability:.1f}%" if isinstance(probability, float) else ""))
    return output.table("predict", ("row", "answer", "probability"), rows)


def _examples(task: AnyLabelled, texts: Sequence[str], file: str | None) -> list[Example]:
    """What is to be answered: the arguments, a file's rows, or the lines of standard input, texts or JSON objects.

    Raises:
        RequestError: ``generation.no_texts``, ``generation.texts_twice``, ``tasks.needs_fields``.
        DataError: ``examples.*``, ``data.bad_json``.
    """
    from wenlu.data.examples import read_examples
    from wenlu.data.files import SourceFile
    from wenlu.data.readers.jsonl import objects
    from wenlu.evaluation.predictions import questions

    if file is None and len(texts) == 1 and os.path.isfile(texts[0]):  # noqa: PTH113  # pathlib fails on long texts
        file, texts = texts[0], ()
        notice("tasks.reads_file", path=file)
    if file is not None:
        if texts:
            raise RequestError("generation.texts_twice", file=file)
        if ".txt" in Path(file).suffixes and task.reads_text:
            return questions(task, text_arguments((), file))
        return list(read_examples([file], task.questions))
    lines = text_arguments(texts, None)
    lines[0] = lines[0].removeprefix("\ufeff") if list(texts) == ["-"] else lines[0]
    if list(texts) != ["-"] or not "".join(lines).lstrip().startswith("{"):
        return questions(task, lines)
    rows = []
    asked = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    for _, row in objects(asked, SourceFile(Path("-"), "jsonl", "")):
        if isinstance(row, DataError):
            raise row
        rows.append(row)
    return questions(task, rows)
