"""``wenlu compare RUN RUN ...``: several models on the same text, in bits per byte, with a paired test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.core.errors import RequestError, SettingsError
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.evaluation.compare import Comparison
    from wenlu.evaluation.contestants import Contestant
    from wenlu.evaluation.corpus import Corpus
    from wenlu.evaluation.evaluator import Evaluation
    from wenlu.evaluation.scoring import Windows


@output.command("compare")
@argument("compare", "models", nargs=-1)
@option("compare", "--data", multiple=True, required=True, metavar="PATH")
@option("compare", "--split", type=click.Choice(["train", "validation", "test"]))
@option("compare", "--limit-bytes", type=int)
@option("compare", "--context", type=int)
@option("compare", "--stride", type=int)
@option("compare", "--html", metavar="FILE")
@output.run
def command(
    models: tuple[str, ...],
    data: tuple[str, ...],
    split: str | None,
    limit_bytes: int | None,
    context: int | None,
    stride: int | None,
    html: str | None,
) -> None:
    """Load, score all on the same documents, test, print."""
    from wenlu.core.log import notice
    from wenlu.core.runs import write_file_atomically
    from wenlu.evaluation.compare import compare
    from wenlu.evaluation.corpus import open_corpus
    from wenlu.evaluation.record import comparison_page
    from wenlu.evaluation.reports import render

    contestants = _contestants(models)
    if limit_bytes is not None and limit_bytes < 1:
        raise RequestError("evaluation.limit", found=limit_bytes)
    corpus = open_corpus(data, split=split)
    limited = [contestant for contestant in contestants if contestant.model.max_positions is not None]
    smallest = min(limited or contestants, key=lambda contestant: contestant.context)
    windows = smallest.windows(context=context, stride=stride)
    evaluations = _evaluations(contestants, corpus, windows, limit_bytes)
    comparison = compare(evaluations)
    _show(contestants, corpus, evaluations, comparison)
    if html is not None:
        page = comparison_page(contestants, corpus, evaluations, comparison)
        write_file_atomically(Path(html), render(page))
        notice("evaluation.report_written", path=html)


def _contestants(models: tuple[str, ...]) -> list[Contestant]:
    """The models, each under a name of its own: the run's, or the words of the user where two runs share one."""
    from dataclasses import replace

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
    contestants: Sequence[Contestant], corpus: Corpus, windows: Windows, limit_bytes: int | None
) -> dict[str, Evaluation]:
    """Every model on the same documents: the store's tokens if they are everybody's, else the texts."""
    from wenlu.core.log import notice
    from wenlu.evaluation.documents import encode_texts, sample_texts
    from wenlu.evaluation.evaluator import evaluate_documents

    sample = sample_texts(corpus.texts(), limit_bytes) if limit_bytes else None
    shared = sample is None and all(corpus.fits(contestant.bundle.tokenizer) for contestant in contestants)
    choice = f"sample-of-{limit_bytes}-bytes" if limit_bytes else "all"
    evaluations = {}
    for contestant in contestants:
        tokenizer = contestant.bundle.tokenizer
        notice("evaluation.scoring_model", model=contestant.name)
        if shared:
            documents = corpus.documents(tokenizer)
        else:
            documents = encode_texts(corpus.texts() if sample is None else sample, tokenizer)
        evaluations[contestant.name] = evaluate_documents(
            contestant.model, documents, context_id=tokenizer.context_id, windows=windows, choice=choice
        )
    return evaluations


def _show(
    contestants: Sequence[Contestant], corpus: Corpus, evaluations: dict[str, Evaluation], comparison: Comparison
) -> None:
    from wenlu.evaluation.compare import compare
    from wenlu.evaluation.record import (
        charged_note,
        comparison_columns,
        comparison_rows,
        language_columns,
        language_rows,
    )

    by_name = {contestant.name: contestant for contestant in contestants}
    ranked = [by_name[name] for name in comparison.ranking]
    first = evaluations[comparison.ranking[0]]
    languages = list(first.by_language) if len(first.by_language) > 1 else []
    record = {
        "data": corpus.record(),
        "models": [{**one.as_record(), **evaluations[one.name].as_record()} for one in ranked],
        "ranking": comparison.ranking,
        "pairs": [pair.as_record() for pair in comparison.pairs],
        "pairs_by_language": {
            language: [pair.as_record() for pair in compare(evaluations, language=language).pairs]
            for language in languages
        },
    }
    title = text("evaluation.comparison_title", count=len(contestants))
    rows = comparison_rows(ranked, evaluations, comparison)
    lines = [output.render(output.table(comparison_columns(), rows, title=title))]
    if languages:
        title = text("evaluation.section_languages")
        lines.append(
            output.render(output.table(language_columns(first), language_rows(ranked, evaluations), title=title))
        )
    lines += [f"{one.name}: {note}" for one in ranked if (note := charged_note(evaluations[one.name]))]
    lines += [text("evaluation.comparison_note"), text("evaluation.definition", definition=first.definition)]
    output.result(record, text="\n".join(lines))
