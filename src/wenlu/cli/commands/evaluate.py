"""``wenlu evaluate [MODEL]``: what a text costs a language model, or how well another does what it was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.core.errors import RequestError
from wenlu.core.log import notice
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.evaluation.compare import Scored
    from wenlu.evaluation.contestants import Contestant
    from wenlu.evaluation.corpus import Corpus
    from wenlu.models.device import DeviceName
    from wenlu.tasks._base import CorpusObjective, Score


@output.command("evaluate")
@argument("evaluate", "model", required=False)
@option("evaluate", "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@option("evaluate", "--data", multiple=True, metavar="PATH")
@option("evaluate", "--split", type=click.Choice(["train", "validation", "test"]))
@option("evaluate", "--limit", type=int, metavar="TOKENS")
@option("evaluate", "--context", type=int)
@option("evaluate", "--stride", type=int)
@option("evaluate", "--html", metavar="FILE")
@output.run
def command(
    model: str | None,
    device: DeviceName,
    data: tuple[str, ...],
    split: str | None,
    limit: int | None,
    context: int | None,
    stride: int | None,
    html: str | None,
) -> None:
    """Load, score, print, write the report into the run."""
    from wenlu.core.runs import write_file_atomically
    from wenlu.evaluation.contestants import open_contestant
    from wenlu.evaluation.evaluator import evaluate_documents
    from wenlu.evaluation.objectives import objective_of
    from wenlu.evaluation.record import evaluation_page, summary_columns, summary_rows
    from wenlu.evaluation.reports import render

    contestant = open_contestant(model, device=device)
    corpus = _corpus(contestant, data, split)
    if (objective := objective_of(contestant)) is not None:
        if stride is not None or html is not None:
            unread = "--html" if stride is None else "--stride"
            raise RequestError("evaluation.option_unread", option=unread, task=contestant.bundle.task)
        _objective(contestant, objective, corpus, contestant.columns(context), _limit(limit))
        return
    tokenizer = contestant.bundle.tokenizer
    evaluation = evaluate_documents(
        contestant.model,
        corpus.documents(tokenizer),
        context_id=tokenizer.context_id,
        end_id=tokenizer.end_id,
        windows=contestant.windows(context=context, stride=stride),
        max_tokens=_limit(limit),
        total_tokens=corpus.num_tokens(tokenizer),
    )
    _tell(contestant, corpus, evaluation, summary_columns(), summary_rows(evaluation))
    if html is not None:
        write_file_atomically(Path(html), render(evaluation_page(contestant, corpus, evaluation)))
        notice("evaluation.report_written", path=html)


def _objective(
    contestant: Contestant, objective: CorpusObjective, corpus: Corpus, sequence_length: int, limit: int
) -> None:
    """Score a model by what it was pre-trained for, where that is not next tokens."""
    from wenlu.evaluation.objectives import evaluate_objective
    from wenlu.evaluation.record import shown_interval

    found = evaluate_objective(contestant, objective, corpus, sequence_length=sequence_length, max_tokens=limit)
    columns = [text(f"evaluation.column_{name}") for name in ("score", "value", "interval", "count", "meaning")]
    shown = {name: shown_interval(found.intervals.get(name)) for name in found.scores}
    rows = [
        [name, f"{score.value:.4f}", shown[name], f"{score.count:,}", _meaning(name, score)]
        for name, score in found.scores.items()
    ]
    _tell(contestant, corpus, found, columns, rows)


def _meaning(name: str, score: Score) -> str:
    """What a score of an objective is, in the reader's language; a plugin's own score has its definition alone."""
    try:
        return text(f"evaluation.meaning_{name}")
    except KeyError:
        return score.definition


def _corpus(contestant: Contestant, data: tuple[str, ...], split: str | None) -> Corpus:
    """The given data, or the store that the model's run was trained on."""
    from wenlu.evaluation.contestants import store_of
    from wenlu.evaluation.corpus import open_corpus

    if data:
        return open_corpus(data, split=split)
    store = store_of(contestant.run) if contestant.run is not None else None
    if store is None:
        raise RequestError("evaluation.data_missing", model=contestant.bundle.path)
    notice("evaluation.own_store", path=store)
    return open_corpus([store], split=split)


def _limit(limit: int | None) -> int:
    if limit is not None and limit < 1:
        raise RequestError("evaluation.limit", found=limit)
    return limit or 0


def _tell(
    contestant: Contestant, corpus: Corpus, found: Scored, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print the scores and what they mean; write the report into the model's run."""
    from wenlu.evaluation.record import charged_note, report_path, write_report

    path = report_path(contestant, corpus, found)
    record = {"model": contestant.as_record(), "data": corpus.record(), **found.as_record()}
    title = text("evaluation.evaluation_title", model=contestant.name)
    table = output.render(output.table(columns, rows, title=title))
    lines = [table, charged_note(found), text("evaluation.definition", definition=found.definition)]
    output.result({**record, "report": None if path is None else str(path)}, text="\n".join(filter(None, lines)))
    if path is not None:
        write_report(path, record, found)
        notice("evaluation.report_written", path=path)
