"""What an evaluation leaves behind: the report file of a run, and pages for the browser."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from wenlu.core.messages import text
from wenlu.core.publication import write_file_atomically
from wenlu.core.version import __version__
from wenlu.evaluation.compare import TextComparison, compare
from wenlu.evaluation.contestants import Contestant
from wenlu.evaluation.documents import Corpus
from wenlu.evaluation.evaluator import Evaluation, Scored, Summary
from wenlu.evaluation.reports import Chart, Estimate, Estimates, Line, Section, Settings, Table, render
from wenlu.metrics.significance import Difference, Interval


def report_path(contestant: Contestant, data: Mapping[str, object], evaluation: Scored, *, name: str) -> Path | None:
    """Where an evaluation of a run's model is kept: the same model, data and definition have the same name."""
    if contestant.run is None:
        return None
    what = [contestant.bundle.path.name, data, evaluation.definition]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    return contestant.run.path / "reports" / f"evaluation-{name}-{digest}.json"


def write_report(path: Path, record: Mapping[str, object], evaluation: Scored) -> None:
    """Write the record with the scores of every document, or row."""
    content = {**record, "wenlu": __version__, "documents": evaluation.rows}
    write_file_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def evaluation_page(contestant: Contestant, corpus: Corpus, evaluation: Evaluation) -> str:
    """One model's evaluation as a page."""
    sections: list[Section] = [summary_table(evaluation)]
    if len(parts := _parts(evaluation)) > 1:
        estimates = [Estimate(name, part.bits_per_byte, part.bits_per_byte_interval) for name, part in parts.items()]
        title, unit = text("evaluation.section_languages"), text("evaluation.column_bits_per_byte")
        sections.append(Estimates(title, unit, estimates))
    sections += curve_sections([contestant])
    sections.append(Settings(text("evaluation.section_data"), {**contestant.as_record(), **corpus.record}))
    title, summary = text("evaluation.evaluation_title", model=contestant.name), _page_summary(evaluation)
    return render(title, summary, sections, text("evaluation.definition", definition=evaluation.definition))


def comparison_record(
    contestants: Sequence[Contestant], new: TextComparison, old: TextComparison | None
) -> dict[str, object]:
    """A comparison for JSON, with what was forgotten on a text of the old domain."""
    models = [{**one.as_record(), **new.evaluations[one.name].as_record()} for one in _ranked(contestants, new)]
    record: dict[str, object] = {"data": new.corpus.record, "models": models, "ranking": new.comparison.ranking}
    record["pairs"] = new.comparison.pairs_record()
    languages = {name: compare(new.evaluations, language=name).pairs_record() for name in new.languages}
    record["pairs_by_language"] = languages
    if old is not None:
        base = contestants[0].name
        models = [{"name": name, **found.as_record()} for name, found in old.evaluations.items()]
        pairs = [pair for pair in old.comparison.pairs_record() if pair["second"] == base]
        record["forgetting"] = {"data": old.corpus.record, "base": base, "models": models, "pairs": pairs}
    return record


def comparison_tables(
    contestants: Sequence[Contestant], new: TextComparison, old: TextComparison | None
) -> list[Table]:
    """The models from the best to the worst with their costs; by language; and what was forgotten."""
    ranked = _ranked(contestants, new)
    columns, rows = _differences(new, new.comparison.ranking, "difference")
    columns += [text(f"evaluation.column_{name}") for name in ("parameters", "seconds", "trained_tokens")]
    for row, one in zip(rows, ranked, strict=True):
        costs = one.parameters or None, one.seconds, one.trained_tokens
        row += ["—" if cost is None else f"{cost:,.0f}" for cost in costs]
    tables = [Table(text("evaluation.section_scores"), columns, rows, _noted(new, text("evaluation.comparison_note")))]
    if new.languages:
        parts = {one.name: new.evaluations[one.name].by_language.values() for one in ranked}
        bits = [[name, *(f"{part.bits_per_byte:.4f}" for part in found)] for name, found in parts.items()]
        title, columns = text("evaluation.section_languages"), [text("evaluation.column_model"), *new.languages]
        tables.append(Table(title, columns, bits))
    if old is not None:
        base = contestants[0].name
        title = text("evaluation.forgetting_title", data=old.corpus.name)
        note = _noted(old, text("evaluation.forgetting_note", model=base))
        tables.append(Table(title, *_differences(old, list(old.evaluations), "forgotten"), note))
    return tables


def comparison_page(contestants: Sequence[Contestant], new: TextComparison, old: TextComparison | None) -> str:
    """A comparison as a page."""
    ranked = _ranked(contestants, new)
    first = new.evaluations[ranked[0].name]
    measure = next(iter(first.measures))
    estimates = [Estimate(one.name, *new.evaluations[one.name].measures[measure]) for one in ranked]
    scores, *others = comparison_tables(contestants, new, old)
    unit, old_data = text(f"evaluation.column_{measure}"), {"old": old.corpus.record} if old else {}
    sections: list[Section] = [
        scores,
        Estimates(text("evaluation.section_intervals"), unit, estimates),
        *others,
        *curve_sections(ranked),
        Settings(text("evaluation.section_data"), {**new.corpus.record, **old_data}),
    ]
    title = text("evaluation.comparison_title", count=len(ranked))
    return render(title, _page_summary(first), sections, definitions(new.evaluations))


def definitions(evaluations: Mapping[str, Scored]) -> str:
    """What the numbers of all models mean; a line each where their tokenizers begin a text differently."""
    models: dict[str, list[str]] = {}
    for name, evaluation in evaluations.items():
        models.setdefault(text("evaluation.definition", definition=evaluation.definition), []).append(name)
    return "\n".join(line if len(models) == 1 else f"{', '.join(names)}: {line}" for line, names in models.items())


def curve_sections(contestants: Sequence[Contestant]) -> list[Section]:
    """The curves that the logs of the models' runs hold: loss of each step, and validation bits per byte."""
    training = [_curve(one, "step", "loss") for one in contestants]
    validation = [_curve(one, "evaluation", "bits_per_byte") for one in contestants]
    step, bits = text("evaluation.axis_step"), text("evaluation.column_bits_per_byte")
    charts = [
        Chart(text("evaluation.section_training"), step, text("evaluation.axis_loss"), training),
        Chart(text("evaluation.section_validation"), step, bits, validation),
    ]
    return [chart for chart in charts if any(len(line.points) > 1 for line in chart.lines)]


def summary_table(evaluation: Evaluation) -> Table:
    """One row a language, then all."""
    names = ("language", "documents", "tokens", "loss", "perplexity", "bits_per_byte", "interval", "bits_per_character")
    rows = []
    for name, part in _parts(evaluation).items():
        sizes = f"{part.documents:,}", f"{part.tokens:,}", f"{part.loss:.4f}", f"{part.perplexity:.2f}"
        bits = f"{part.bits_per_byte:.4f}", shown_interval(part.bits_per_byte_interval)
        rows.append([name, *sizes, *bits, f"{part.bits_per_character:.4f}"])
    columns = [text(f"evaluation.column_{name}") for name in names]
    return Table(text("evaluation.section_scores"), columns, rows, charged_note(evaluation))


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
        shown += ["—"] * 3 if name == names[0] else _shown(found.comparison.between(name, names[0]))
        rows.append([name, *shown])
    return [text(f"evaluation.column_{name}") for name in columns], rows


def _shown(difference: Difference) -> list[str]:
    """Value, interval and p-value."""
    p_value = "—" if difference.p_value is None else f"{difference.p_value:.4f}"
    return [f"{difference.value:+.4f}", shown_interval(difference.interval, "+"), p_value]


def _noted(found: TextComparison, note: str) -> str:
    notes = [f"{name}: {said}" for name, one in found.evaluations.items() if (said := charged_note(one))]
    return "\n".join([note, *notes]) + "\n"


def _ranked(contestants: Sequence[Contestant], found: TextComparison) -> list[Contestant]:
    return sorted(contestants, key=lambda one: found.comparison.ranking.index(one.name))


def shown_interval(interval: Interval | None, sign: str = "") -> str:
    """An interval as people read it; ``sign`` is "+" where both signs are shown."""
    return "—" if interval is None else f"{interval.low:{sign}.4f} – {interval.high:{sign}.4f}"


def _page_summary(evaluation: Scored) -> str:
    if isinstance(evaluation, Evaluation):
        return text("evaluation.page_summary", documents=evaluation.total.documents, bytes=evaluation.total.num_bytes)
    sizes = evaluation.costs()[1]
    return text("evaluation.page_summary_rows", rows=len(sizes), targets=sum(sizes))


def _parts(evaluation: Evaluation) -> dict[str, Summary]:
    """The summaries by language, where there are several, and that of all."""
    languages = evaluation.by_language if len(evaluation.by_language) > 1 else {}
    return {**languages, text("evaluation.all_languages"): evaluation.total}


def _curve(contestant: Contestant, event: str, name: str) -> Line:
    log = contestant.run.read_log() if contestant.run is not None else []
    found = [(record.get("step"), record.get(name)) for record in log if record.get("event") == event]
    numbers = [(x, y) for x, y in found if isinstance(x, int) and isinstance(y, int | float)]
    return Line(contestant.name, [(float(x), float(y)) for x, y in numbers])
