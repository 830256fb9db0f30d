"""What an evaluation leaves behind: the report file of a run, and pages for the browser."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from wenlu.core.messages import text
from wenlu.core.runs import write_file_atomically
from wenlu.core.version import __version__
from wenlu.evaluation.charts import Chart, Estimate, Estimates, Line
from wenlu.evaluation.compare import Comparison
from wenlu.evaluation.contestants import Contestant
from wenlu.evaluation.corpus import Corpus
from wenlu.evaluation.evaluator import Evaluation, Summary
from wenlu.evaluation.reports import Report, Section, Settings, Table
from wenlu.metrics.significance import Difference, Interval


class Reported(Protocol):
    """What an evaluation of any kind has for its report."""

    @property
    def definition(self) -> str:
        """What the numbers mean."""

    def documents_record(self) -> Mapping[str, Sequence[object]]:
        """One column a field."""


def report_path(contestant: Contestant, corpus: Corpus, evaluation: Reported) -> Path | None:
    """Where an evaluation of a run's model is kept: the same model, data and definition have the same name."""
    if contestant.run is None:
        return None
    what = [contestant.bundle.path.name, corpus.record(), evaluation.definition]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    return contestant.run.path / "reports" / f"evaluation-{corpus.name}-{digest}.json"


def write_report(path: Path, record: Mapping[str, object], evaluation: Reported) -> None:
    """Write the record with the scores of every document, or row."""
    content = {**record, "wenlu": __version__, "documents": evaluation.documents_record()}
    write_file_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def evaluation_page(contestant: Contestant, corpus: Corpus, evaluation: Evaluation) -> Report:
    """One model's evaluation as a page."""
    scores = text("evaluation.section_scores")
    sections: list[Section] = [Table(scores, summary_columns(), summary_rows(evaluation), charged_note(evaluation))]
    languages = {name: part for name, part in evaluation.by_language.items() if len(evaluation.by_language) > 1}
    estimates = [Estimate(name, part.bits_per_byte, part.bits_per_byte_interval) for name, part in languages.items()]
    if estimates:
        total = evaluation.total
        estimates.append(Estimate(text("evaluation.all_languages"), total.bits_per_byte, total.bits_per_byte_interval))
        sections.append(
            Estimates(text("evaluation.section_languages"), text("evaluation.column_bits_per_byte"), estimates)
        )
    sections += curve_sections([contestant])
    sections.append(Settings(text("evaluation.section_data"), {**contestant.as_record(), **corpus.record()}))
    return Report(
        text("evaluation.evaluation_title", model=contestant.name),
        text("evaluation.page_summary", documents=evaluation.total.documents, bytes=evaluation.total.num_bytes),
        sections,
        text("evaluation.definition", definition=evaluation.definition),
    )


def comparison_page(
    contestants: Sequence[Contestant],
    corpus: Corpus,
    evaluations: Mapping[str, Evaluation],
    comparison: Comparison,
) -> Report:
    """A comparison as a page."""
    by_name = {contestant.name: contestant for contestant in contestants}
    ranked = [by_name[name] for name in comparison.ranking]
    first = evaluations[comparison.ranking[0]]
    estimates = [
        Estimate(name, evaluations[name].total.bits_per_byte, evaluations[name].total.bits_per_byte_interval)
        for name in comparison.ranking
    ]
    sections: list[Section] = [
        Table(
            text("evaluation.section_scores"),
            comparison_columns(),
            comparison_rows(ranked, evaluations, comparison),
            text("evaluation.comparison_note"),
        ),
        Estimates(text("evaluation.section_intervals"), text("evaluation.column_bits_per_byte"), estimates),
    ]
    if len(first.by_language) > 1:
        sections.append(
            Table(text("evaluation.section_languages"), language_columns(first), language_rows(ranked, evaluations))
        )
    sections += curve_sections(ranked)
    sections.append(Settings(text("evaluation.section_data"), corpus.record()))
    return Report(
        text("evaluation.comparison_title", count=len(contestants)),
        text("evaluation.page_summary", documents=first.total.documents, bytes=first.total.num_bytes),
        sections,
        text("evaluation.definition", definition=first.definition),
    )


def curve_sections(contestants: Sequence[Contestant]) -> list[Section]:
    """The curves that the logs of the models' runs hold: loss of each step, and validation bits per byte."""
    training = [Line(one.name, _curve(one, "step", "loss")) for one in contestants]
    validation = [Line(one.name, _curve(one, "evaluation", "bits_per_byte")) for one in contestants]
    step, bits = text("evaluation.axis_step"), text("evaluation.column_bits_per_byte")
    charts = [
        Chart(text("evaluation.section_training"), step, text("evaluation.axis_loss"), training),
        Chart(text("evaluation.section_validation"), step, bits, validation),
    ]
    return [chart for chart in charts if any(len(line.points) > 1 for line in chart.lines)]


def summary_columns() -> list[str]:
    """Column names of ``summary_rows``."""
    names = ("language", "documents", "tokens", "loss", "perplexity", "bits_per_byte", "interval", "bits_per_character")
    return [text(f"evaluation.column_{name}") for name in names]


def summary_rows(evaluation: Evaluation) -> list[list[str]]:
    """One row a language, then all."""
    parts = dict(evaluation.by_language) if len(evaluation.by_language) > 1 else {}
    rows = [_summary_row(language, part) for language, part in parts.items()]
    return [*rows, _summary_row(text("evaluation.all_languages"), evaluation.total)]


def charged_note(evaluation: Evaluation) -> str:
    """What must be said about documents that the tokenizer cannot give back; empty when there are none."""
    total = evaluation.total
    if not total.charged_documents:
        return ""
    return text("evaluation.charged", count=total.charged_documents, total=total.documents)


def comparison_columns() -> list[str]:
    """Column names of ``comparison_rows``."""
    scores = ("model", "bits_per_byte", "interval", "difference", "interval", "p_value")
    costs = ("parameters", "seconds", "trained_tokens")
    return [text(f"evaluation.column_{name}") for name in (*scores, *costs)]


def comparison_rows(
    ranked: Sequence[Contestant], evaluations: Mapping[str, Evaluation], comparison: Comparison
) -> list[list[str]]:
    """One row a model, the best first; differences and p-values are against the best."""
    rows = []
    for contestant in ranked:
        total = evaluations[contestant.name].total
        rows.append(
            [
                contestant.name,
                f"{total.bits_per_byte:.4f}",
                shown_interval(total.bits_per_byte_interval),
                *shown_difference(comparison.behind_best(contestant.name)),
                f"{contestant.parameters:,}" if contestant.parameters else "—",
                "—" if contestant.seconds is None else f"{contestant.seconds:,.0f}",
                "—" if contestant.trained_tokens is None else f"{contestant.trained_tokens:,}",
            ]
        )
    return rows


def language_columns(evaluation: Evaluation) -> list[str]:
    """Column names of ``language_rows``."""
    return [text("evaluation.column_model"), *evaluation.by_language]


def language_rows(ranked: Sequence[Contestant], evaluations: Mapping[str, Evaluation]) -> list[list[str]]:
    """Bits per byte by model and language."""
    return [
        [one.name, *(f"{part.bits_per_byte:.4f}" for part in evaluations[one.name].by_language.values())]
        for one in ranked
    ]


def shown_interval(interval: Interval | None) -> str:
    """An interval as people read it."""
    return "—" if interval is None else f"{interval.low:.4f} – {interval.high:.4f}"


def shown_difference(difference: Difference | None) -> tuple[str, str, str]:
    """Value, interval and p-value of a difference to the best; dashes for the best itself."""
    if difference is None:
        return "—", "—", "—"
    interval = difference.interval
    return (
        f"+{difference.value:.4f}",
        "—" if interval is None else f"{interval.low:+.4f} – {interval.high:+.4f}",
        "—" if difference.p_value is None else f"{difference.p_value:.4f}",
    )


def _summary_row(name: str, part: Summary) -> list[str]:
    return [
        name,
        f"{part.documents:,}",
        f"{part.tokens:,}",
        f"{part.loss:.4f}",
        f"{part.perplexity:.2f}",
        f"{part.bits_per_byte:.4f}",
        shown_interval(part.bits_per_byte_interval),
        f"{part.bits_per_character:.4f}",
    ]


def _curve(contestant: Contestant, event: str, name: str) -> list[tuple[float, float]]:
    points = []
    for record in contestant.run.read_log() if contestant.run is not None else []:
        step, value = record.get("step"), record.get(name)
        if record.get("event") == event and isinstance(step, int) and isinstance(value, int | float):
            points.append((float(step), float(value)))
    return points
