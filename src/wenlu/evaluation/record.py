"""What an evaluation leaves behind: the report file of a run, and pages for the browser."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from wenlu.core.messages import text
from wenlu.core.runs import write_file_atomically
from wenlu.core.version import __version__
from wenlu.evaluation.charts import Chart, Estimate, Estimates, Line
from wenlu.evaluation.compare import Scored, TextComparison, compare
from wenlu.evaluation.contestants import Contestant
from wenlu.evaluation.corpus import Corpus
from wenlu.evaluation.evaluator import Evaluation, Summary
from wenlu.evaluation.reports import Report, Section, Settings, Table
from wenlu.metrics.significance import Difference, Interval


def report_path(contestant: Contestant, corpus: Corpus, evaluation: Scored) -> Path | None:
    """Where an evaluation of a run's model is kept: the same model, data and definition have the same name."""
    if contestant.run is None:
        return None
    what = [contestant.bundle.path.name, corpus.record(), evaluation.definition]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    return contestant.run.path / "reports" / f"evaluation-{corpus.name}-{digest}.json"


def write_report(path: Path, record: Mapping[str, object], evaluation: Scored) -> None:
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
        _page_summary(evaluation),
        sections,
        text("evaluation.definition", definition=evaluation.definition),
    )


def comparison_record(
    contestants: Sequence[Contestant], new: TextComparison, old: TextComparison | None
) -> dict[str, object]:
    """A comparison for JSON, with what was forgotten on a text of the old domain."""
    record: dict[str, object] = {
        "data": new.corpus.record(),
        "models": [{**one.as_record(), **new.evaluations[one.name].as_record()} for one in _ranked(contestants, new)],
        "ranking": new.comparison.ranking,
        "pairs": [pair.as_record() for pair in new.comparison.pairs],
        "pairs_by_language": {
            language: [pair.as_record() for pair in compare(new.evaluations, language=language).pairs]
            for language in new.languages
        },
    }
    if old is not None:
        base = contestants[0].name
        record["forgetting"] = {
            "data": old.corpus.record(),
            "base": base,
            "models": [{"name": name, **found.as_record()} for name, found in old.evaluations.items()],
            "pairs": [pair.as_record() for pair in old.comparison.pairs if pair.second == base],
        }
    return record


def comparison_tables(
    contestants: Sequence[Contestant], new: TextComparison, old: TextComparison | None
) -> list[Table]:
    """The models from the best to the worst with their costs; by language; and what was forgotten."""
    ranked = _ranked(contestants, new)
    columns, rows = _differences(new, new.comparison.ranking, "difference")
    columns += [text(f"evaluation.column_{name}") for name in ("parameters", "seconds", "trained_tokens")]
    for row, one in zip(rows, ranked, strict=True):
        row += [
            f"{one.parameters:,}" if one.parameters else "—",
            "—" if one.seconds is None else f"{one.seconds:,.0f}",
            "—" if one.trained_tokens is None else f"{one.trained_tokens:,}",
        ]
    tables = [Table(text("evaluation.section_scores"), columns, rows, _noted(new, text("evaluation.comparison_note")))]
    if new.languages:
        parts = {one.name: new.evaluations[one.name].by_language.values() for one in ranked}
        bits = [[name, *(f"{part.bits_per_byte:.4f}" for part in found)] for name, found in parts.items()]
        columns = [text("evaluation.column_model"), *new.languages]
        tables.append(Table(text("evaluation.section_languages"), columns, bits))
    if old is not None:
        base = contestants[0].name
        title = text("evaluation.forgetting_title", data=old.corpus.name)
        note = _noted(old, text("evaluation.forgetting_note", model=base))
        tables.append(Table(title, *_differences(old, list(old.evaluations), "forgotten"), note))
    return tables


def comparison_page(contestants: Sequence[Contestant], new: TextComparison, old: TextComparison | None) -> Report:
    """A comparison as a page."""
    ranked = _ranked(contestants, new)
    first = new.evaluations[ranked[0].name]
    measure = next(iter(first.measures))
    estimates = [Estimate(one.name, *new.evaluations[one.name].measures[measure]) for one in ranked]
    scores, *others = comparison_tables(contestants, new, old)
    sections: list[Section] = [
        scores,
        Estimates(text("evaluation.section_intervals"), text(f"evaluation.column_{measure}"), estimates),
        *others,
        *curve_sections(ranked),
        Settings(text("evaluation.section_data"), new.corpus.record() | ({"old": old.corpus.record()} if old else {})),
    ]
    return Report(
        text("evaluation.comparison_title", count=len(ranked)),
        _page_summary(first),
        sections,
        definitions(new.evaluations),
    )


def definitions(evaluations: Mapping[str, Scored]) -> str:
    """What the numbers of all models mean; a line each where their tokenizers begin a text differently."""
    models: dict[str, list[str]] = {}
    for name, evaluation in evaluations.items():
        models.setdefault(text("evaluation.definition", definition=evaluation.definition), []).append(name)
    return "\n".join(line if len(models) == 1 else f"{', '.join(names)}: {line}" for line, names in models.items())


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


def charged_note(evaluation: Scored) -> str:
    """What must be said about documents that the tokenizer cannot give back; empty when there are none."""
    if not isinstance(evaluation, Evaluation) or not evaluation.total.charged_documents:
        return ""
    return text("evaluation.charged", count=evaluation.total.charged_documents, total=evaluation.total.documents)


def _differences(found: TextComparison, names: Sequence[str], difference: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the measures of each model, and the difference of the first measure to the first model."""
    measures = [part for name in found.evaluations[names[0]].measures for part in (name, "interval")]
    columns = ["model", *measures, difference, "interval", "p_value"]
    rows = []
    for name in names:
        values = found.evaluations[name].measures.values()
        shown = [part for value, interval in values for part in (f"{value:.4f}", shown_interval(interval))]
        behind = None if name == names[0] else found.comparison.between(name, names[0])
        rows.append([name, *shown, *shown_difference(behind)])
    return [text(f"evaluation.column_{name}") for name in columns], rows


def _noted(found: TextComparison, note: str) -> str:
    notes = [f"{name}: {said}" for name, one in found.evaluations.items() if (said := charged_note(one))]
    return "\n".join([note, *notes]) + "\n"


def _ranked(contestants: Sequence[Contestant], found: TextComparison) -> list[Contestant]:
    return sorted(contestants, key=lambda one: found.comparison.ranking.index(one.name))


def shown_interval(interval: Interval | None) -> str:
    """An interval as people read it."""
    return "—" if interval is None else f"{interval.low:.4f} – {interval.high:.4f}"


def shown_difference(difference: Difference | None) -> tuple[str, str, str]:
    """Value, interval and p-value of a difference to one model; dashes for this one itself."""
    if difference is None:
        return "—", "—", "—"
    interval = difference.interval
    return (
        f"{difference.value:+.4f}",
        "—" if interval is None else f"{interval.low:+.4f} – {interval.high:+.4f}",
        "—" if difference.p_value is None else f"{difference.p_value:.4f}",
    )


def _page_summary(evaluation: Scored) -> str:
    if isinstance(evaluation, Evaluation):
        return text("evaluation.page_summary", documents=evaluation.total.documents, bytes=evaluation.total.num_bytes)
    sizes = evaluation.costs()[1]
    return text("evaluation.page_summary_rows", rows=len(sizes), targets=sum(sizes))


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
