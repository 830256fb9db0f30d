"""``wenlu compare RUN RUN ...``: several models on the same text by the same measure, with a paired test.

The measure is bits per byte for models of next tokens, the loss of their objective for others. With a text of the old
domain, what is forgotten of it is the loss of each model there minus that of the model named first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wenlu.cli import output
from wenlu.cli.parsing import File, Paths, Split, Words
from wenlu.core.errors import RequestError, SettingsError
from wenlu.core.log import notice
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.evaluation.contestants import Contestant
    from wenlu.evaluation.documents import Corpus
    from wenlu.evaluation.evaluator import Evaluation, Scored

    Scorer = Callable[[Contestant, Corpus], Scored]


@output.command("compare")
def command(
    models: Words = (),
    *,
    data: Paths,
    old_data: Paths = (),
    split: Split | None = None,
    limit_bytes: int | None = None,
    context: int | None = None,
    stride: int | None = None,
    html: File = None,
) -> None:
    """Load, score all on the same documents or rows, test, print."""
    from wenlu.core.publication import write_file_atomically
    from wenlu.evaluation.compare import TextComparison, compare
    from wenlu.evaluation.documents import open_corpus
    from wenlu.evaluation.record import comparison_page, comparison_record, comparison_tables, definitions

    contestants = _contestants(models)
    if limit_bytes is not None and limit_bytes < 1:
        raise RequestError("evaluation.limit", found=limit_bytes)
    score = _scorer(contestants, context, stride, f"sample-of-{limit_bytes}-bytes" if limit_bytes else "all")
    found = []
    for corpus in [open_corpus(paths, split=split) for paths in (data, old_data) if paths]:
        evaluations = _evaluations(contestants, corpus, score, limit_bytes)
        found.append(TextComparison(corpus, evaluations, compare(evaluations)))
    new, old = found[0], found[1] if old_data else None
    scores, *others = comparison_tables(contestants, new, old)
    scores = replace(scores, title=text("evaluation.comparison_title", count=len(contestants)))
    shown = ""
    for table in (scores, *others):
        shown += output.render(output.Table(table.columns, table.rows, table.title)) + f"{table.note}\n"
    output.result(comparison_record(contestants, new, old), text=shown + definitions(new.evaluations))
    if html is not None:
        write_file_atomically(Path(html), comparison_page(contestants, new, old))
        notice("evaluation.report_written", path=html)


def _contestants(models: Words) -> list[Contestant]:
    """The models, each under a name of its own: the run's, or the words of the user where two runs share one."""
    from wenlu.evaluation.contestants import open_contestant

    if len(models) < 2:
        raise SettingsError("evaluation.needs_two", count=len(models))
    opened = [open_contestant(model) for model in models]
    paths = [contestant.bundle.path.resolve() for contestant in opened]
    for path in paths:
        if paths.count(path) > 1:
            raise SettingsError("evaluation.same_model", path=path)
    names = [contestant.name for contestant in opened]
    return [
        replace(contestant, name=str(contestant.bundle.path)) if names.count(contestant.name) > 1 else contestant
        for contestant in opened
    ]


def _evaluations(
    contestants: Sequence[Contestant], corpus: Corpus, score: Scorer, limit_bytes: int | None
) -> dict[str, Scored]:
    """Every model on the same documents: the store's tokens if they are everybody's, else the texts."""

    if limit_bytes or any(corpus.tokens_of(contestant.bundle.tokenizer) is None for contestant in contestants):
        corpus = corpus.as_texts(limit_bytes or 0)
    evaluations = {}
    for contestant in contestants:
        notice("evaluation.scoring_model", model=contestant.name)
        evaluations[contestant.name] = score(contestant, corpus)
    return evaluations


def _scorer(contestants: Sequence[Contestant], context: int | None, stride: int | None, choice: str) -> Scorer:
    """How each of them is scored on a text: on its documents, or on the rows of the objective that they share."""
    from wenlu.evaluation.evaluator import evaluate_documents
    from wenlu.evaluation.objectives import common_objective, evaluate_objective

    objective = common_objective(contestants)
    if objective is not None:
        if stride is not None:
            raise RequestError("evaluation.option_unread", option="--stride", task=objective.settings.name)
        columns = min(contestant.columns(context) for contestant in contestants)
        return lambda one, corpus: evaluate_objective(one, objective, corpus, sequence_length=columns, choice=choice)
    limited = [contestant for contestant in contestants if contestant.model.max_positions is not None]
    smallest = min(limited or contestants, key=lambda contestant: contestant.context)
    windows = smallest.windows(context=context, stride=stride)
    evaluate = partial(evaluate_documents, windows=windows, choice=choice)

    def score(one: Contestant, corpus: Corpus) -> Evaluation:
        tokenizer = one.bundle.tokenizer
        documents = corpus.documents(tokenizer)
        return evaluate(one.model, documents, context_id=tokenizer.context_id, end_id=tokenizer.end_id)

    return score
