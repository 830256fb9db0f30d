"""``wenlu evaluate [MODEL]``: what a text costs a language model, or how well another does what it was trained for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from wenlu.cli import output
from wenlu.cli.parsing import Device, File, Paths, Split
from wenlu.core.errors import RequestError
from wenlu.core.log import notice
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.evaluation.contestants import Contestant
    from wenlu.evaluation.evaluator import Scored
    from wenlu.tasks._base import Score


@output.command("evaluate")
def command(
    model: str | None = None,
    *,
    device: Device = "auto",
    data: Paths = (),
    split: Split | None = None,
    limit: Annotated[int | None, "TOKENS"] = None,
    context: int | None = None,
    stride: int | None = None,
    html: File = None,
) -> None:
    """Load, score, print, write the report into the run."""
    from wenlu.core.publication import write_file_atomically
    from wenlu.evaluation.contestants import open_contestant
    from wenlu.evaluation.documents import open_corpus
    from wenlu.evaluation.evaluator import evaluate_documents
    from wenlu.evaluation.objectives import evaluate_objective, objective_of
    from wenlu.evaluation.predictions import evaluate_examples, is_labelled, labelled_data
    from wenlu.evaluation.record import evaluation_page, summary_table

    contestant = open_contestant(model, device=device)
    bundle, labelled = contestant.bundle, is_labelled(contestant.bundle)
    objective = None if labelled else objective_of(contestant)
    given = {"--limit": limit, "--context": context, "--stride": stride, "--html": html}
    read = () if labelled else tuple(given) if objective is None else ("--limit", "--context")
    if unread := [name for name, value in given.items() if value is not None and name not in read]:
        raise RequestError("evaluation.option_unread", option=unread[0], task=bundle.task)
    if labelled:
        name, record, examples = labelled_data(contestant, data, split)
        found = evaluate_examples(bundle, examples)
        _tell(contestant, name, record, found, _table(found.scores, lambda _, score: score.definition))
        return
    if not data:
        store = contestant.run.data().get("store") if contestant.run is not None else None
        if not isinstance(store, str):
            raise RequestError("evaluation.data_missing", model=bundle.path)
        notice("evaluation.own_store", path=store)
        data = (store,)
    corpus = open_corpus(data, split=split)
    if limit is not None and limit < 1:
        raise RequestError("evaluation.limit", found=limit)
    if objective is not None:
        columns = contestant.columns(context)
        judged = evaluate_objective(contestant, objective, corpus, sequence_length=columns, max_tokens=limit or 0)
        _tell(contestant, corpus.name, corpus.record, judged, _table(judged.scores, _meaning))
        return
    evaluation = evaluate_documents(
        contestant.model,
        corpus.documents(bundle.tokenizer),
        context_id=bundle.tokenizer.context_id,
        end_id=bundle.tokenizer.end_id,
        windows=contestant.windows(context=context, stride=stride),
        max_tokens=limit or 0,
        total_tokens=corpus.num_tokens(bundle.tokenizer),
    )
    table = summary_table(evaluation)
    _tell(contestant, corpus.name, corpus.record, evaluation, output.Table(table.columns, table.rows))
    if html is not None:
        write_file_atomically(Path(html), evaluation_page(contestant, corpus, evaluation))
        notice("evaluation.report_written", path=html)


def _table(scores: Mapping[str, Score], meaning: Callable[[str, Score], str]) -> output.Table:
    """A row a score: its value, its interval, and what it means."""
    from wenlu.evaluation.record import shown_interval

    rows = [
        [name, f"{score.value:.4f}", shown_interval(score.interval), f"{score.count:,}", meaning(name, score)]
        for name, score in scores.items()
    ]
    return output.table("evaluation", ("score", "value", "interval", "count", "meaning"), rows)


def _meaning(name: str, score: Score) -> str:
    """What a score of an objective is, in the reader's language; a plugin's own score has its definition alone."""
    try:
        return text(f"evaluation.meaning_{name}")
    except KeyError:
        return score.definition


def _tell(contestant: Contestant, name: str, data: Mapping[str, object], found: Scored, table: output.Table) -> None:
    """Print the scores and what they mean; write the report into the model's run."""
    from wenlu.evaluation.record import charged_note, report_path, write_report

    path = report_path(contestant, data, found, name=name)
    record = {"model": contestant.as_record(), "data": data, **found.as_record()}
    titled = replace(table, title=text("evaluation.evaluation_title", model=contestant.name))
    lines = [output.render(titled), charged_note(found), text("evaluation.definition", definition=found.definition)]
    output.result({**record, "report": None if path is None else str(path)}, text="\n".join(filter(None, lines)))
    if path is not None:
        write_report(path, record, found)
        notice("evaluation.report_written", path=path)
