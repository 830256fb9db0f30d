"""``wenlu demo``: from raw text to four models in one table, two continued prompts and a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wenlu.cli import output
from wenlu.cli.output import option
from wenlu.core.errors import DataError, SettingsError
from wenlu.core.log import notice
from wenlu.core.messages import text
from wenlu.core.publication import write_file_atomically

if TYPE_CHECKING:
    from wenlu.data.store import Store
    from wenlu.data.tokens import PackSettings
    from wenlu.evaluation.ladder import Ladder, Rung
    from wenlu.metrics.significance import Difference

CORPUS = "demo"
VOCAB_SIZE = 8192
HELD_OUT_FRACTION = 0.05
LEAST_DOCUMENTS = 30
NEW_TOKENS = 48
SMALLEST_DIFFERENCE = 0.0005  # bits per byte; what is smaller is shown as 0.000
PLAN, REPORT = "demo.json", "report.html"


@output.command("demo")
@option("demo", "--data", multiple=True, metavar="PATH")
@option("demo", "--budget", default="115s", metavar="TIME")
@option("demo", "-o", "--output", "target", metavar="DIR")
@option("demo", "--vocab-size", type=int, default=VOCAB_SIZE)
@option("demo", "--seed", type=int, default=1)
@output.run
def command(data: tuple[str, ...], budget: str, target: str | None, vocab_size: int, seed: int) -> int:
    """Fetch, pack, train, score, mix, generate, report."""
    from wenlu.data.fetch import fetch_corpus
    from wenlu.data.tokens import corpus_key
    from wenlu.evaluation.ladder import climb
    from wenlu.training.results import RunResult

    seconds = _seconds(budget)
    corpus = list(data) or [str(path) for path in fetch_corpus(CORPUS, fallback=True)]
    settings = _pack_settings(corpus, vocab_size)
    key = corpus_key(settings.data, None, settings.tokenizer)
    directory = _directory(target, {"corpus": key, "seconds": seconds, "seed": seed})
    store = _store(directory, settings)
    if store.test.num_documents < LEAST_DOCUMENTS:
        notice("demo.few_documents", documents=store.test.num_documents, least=LEAST_DOCUMENTS)
    ladder = climb(store, directory, seconds=seconds, seed=seed)
    if isinstance(ladder, RunResult):
        notice("demo.stopped", path=directory)
        return ladder.exit_code
    samples = _samples(store, ladder)
    record = {
        "directory": str(directory),
        "corpus": corpus,
        "documents": {name: store.split(name).num_documents for name in ("train", "validation", "test")},
        "tokens": {name: store.split(name).num_tokens for name in ("train", "validation", "test")},
        **ladder.as_record(),
        "samples": samples,
    }
    write_file_atomically(directory / "ladder.json", json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    write_file_atomically(directory / REPORT, _report(ladder, samples))
    output.result(record, text=_shown(ladder, samples, directory, with_data=bool(data)))
    return 0


def _seconds(budget: str) -> float:
    """The budget of each network as seconds."""
    from wenlu.training.duration import Duration

    duration = Duration.parse(budget, setting="--budget")
    if duration.unit != "seconds":
        raise SettingsError("demo.budget_unit", value=budget)
    return duration.value


def _directory(target: str | None, plan: Mapping[str, object]) -> Path:
    """Where this demo lives: a directory that was made by the same call is continued, another one is left alone."""
    if target is not None:
        directory = Path(target)
        if directory.exists() and any(directory.iterdir()) and _read_plan(directory) != plan:
            raise DataError("demo.other_demo", path=directory)
    else:
        numbered = (Path("runs") / ("demo" if number == 1 else f"demo-{number}") for number in range(1, 10_000))
        directory = next(path for path in numbered if not path.exists() or _read_plan(path) == plan)
    if _read_plan(directory) is None:
        write_file_atomically(directory / PLAN, json.dumps(plan, ensure_ascii=False, indent=1) + "\n")
    else:
        notice("demo.continued", path=directory)
    return directory


def _read_plan(directory: Path) -> object:
    try:
        return json.loads((directory / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _pack_settings(corpus: Sequence[str], vocab_size: int) -> PackSettings:
    from wenlu.core.settings import load
    from wenlu.data.tokens import PackSettings

    values = {
        "data.paths": list(corpus),
        "data.validation_fraction": HELD_OUT_FRACTION,
        "data.test_fraction": HELD_OUT_FRACTION,
        "tokenizer.vocab_size": vocab_size,
    }
    return load(PackSettings, values=values).value


def _store(directory: Path, settings: PackSettings) -> Store:
    from wenlu.data.tokens import Store, build_store

    path = directory / "store"
    if path.exists():
        return Store.open(path)
    return build_store(path, settings.data, tokenizer_settings=settings.tokenizer)


def _samples(store: Store, ladder: Ladder) -> list[dict[str, str]]:
    """How the Transformer and the mixture continue the first words of a held-out document of each language."""
    from wenlu.bundle import load_bundle
    from wenlu.evaluation.ladder import MIXTURE, TRANSFORMER, prompts
    from wenlu.generation.settings import GenerationSettings
    from wenlu.generation.text import complete, prepare

    settings = GenerationSettings(max_new_tokens=NEW_TOKENS, temperature=0.7, top_p=0.9, seed=1)
    samples = []
    for name in (TRANSFORMER, MIXTURE):
        bundle = load_bundle(ladder.rung(name).path)
        model = bundle.language_model
        for language, words in prompts(store).items():
            prompt = prepare(bundle.tokenizer, words, settings, max_positions=model.max_positions)
            [completion] = complete(model, bundle.tokenizer, prompt, settings)
            samples.append({"model": name, "language": language, "prompt": words, "text": completion.text})
    return samples


def _shown(ladder: Ladder, samples: Sequence[Mapping[str, str]], directory: Path, *, with_data: bool) -> str:
    """The ladder, what it says, the continued prompts, and what to type next."""
    documents = len(ladder.rungs[0].evaluation.scores)
    sentences = [text("demo.title", documents=documents), output.render(output.table(*scores_table(ladder)))]
    sentences += [text("demo.interval"), output.render(output.table(*differences_table(ladder)))]
    sentences += [*conclusions(ladder), ""]
    for sample in samples:
        heading = text("demo.sample", model=text(f"ladder.{sample['model']}"), language=sample["language"])
        sentences.append(f"{heading}\n  {sample['prompt']}▸{sample['text']}\n")
    sentences += [text("demo.report", path=directory / REPORT), "", text("demo.next")]
    sentences += [f"  {line}" for line in _next_commands(directory, with_data=with_data)]
    return "\n".join(sentences)


def scores_table(ladder: Ladder) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what each rung cost, and its bits per byte in all and by language."""
    columns = [text(f"demo.column_{name}") for name in ("model", "seconds", "tokens", "parameters")]
    columns += [_heading(language) for language in ladder.comparisons]
    rows = [
        [
            text(f"ladder.{rung.name}"),
            f"{rung.seconds:.0f}",
            f"{rung.tokens:,}",
            f"{rung.parameters:,}",
            *(f"{_bits(rung, language):.3f}" for language in ladder.comparisons),
        ]
        for rung in ladder.rungs
    ]
    return columns, rows


def differences_table(ladder: Ladder) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the paired difference of each rung to the n-gram, in all and by language."""
    from wenlu.evaluation.ladder import NGRAM

    columns = [text("demo.column_model"), *(_heading(language) for language in ladder.comparisons)]
    rows = []
    for name in (rung.name for rung in ladder.rungs if rung.name != NGRAM):
        differences = (comparison.between(name, NGRAM) for comparison in ladder.comparisons.values())
        rows.append([text(f"ladder.{name}"), *map(_difference, differences)])
    return columns, rows


def conclusions(ladder: Ladder) -> list[str]:
    """What the ladder says in words; only what its intervals support."""
    from wenlu.evaluation.ladder import LSTM, MIXTURE, NGRAM, TRANSFORMER

    comparison = ladder.comparisons["all"]
    said = []
    for better, worse in ((TRANSFORMER, NGRAM), (TRANSFORMER, LSTM), (MIXTURE, NGRAM), (MIXTURE, TRANSFORMER)):
        difference = comparison.between(better, worse)
        interval = difference.interval
        if interval is None or interval.low <= 0 <= interval.high or abs(difference.value) < SMALLEST_DIFFERENCE:
            verdict = "demo.not_resolved"
        else:
            verdict = "demo.better" if difference.value < 0 else "demo.worse"
        bits = f"{abs(difference.value):.3f}"
        said.append(text(verdict, first=text(f"ladder.{better}"), second=text(f"ladder.{worse}"), bits=bits))
    weights = ", ".join(f"{text(f'ladder.{name}')} {weight:.2f}" for name, weight in ladder.weights.items())
    said.append(text("demo.weights", weights=weights))
    said.append(_forecast(ladder))
    return said


def _forecast(ladder: Ladder) -> str:
    forecast = ladder.forecast
    if forecast.seconds is None:
        return text("demo.forecast_unknown")
    if forecast.seconds == 0:
        return text("demo.forecast_passed")
    assert forecast.gain_per_doubling is not None
    return text("demo.forecast", minutes=forecast.seconds / 60, gain=forecast.gain_per_doubling)


def _bits(rung: Rung, language: str) -> float:
    summary = rung.evaluation.total if language == "all" else rung.evaluation.by_language[language]
    return summary.bits_per_byte


def _heading(language: str) -> str:
    return text("demo.column_all") if language == "all" else language


def _difference(difference: Difference) -> str:
    if difference.interval is None:
        return f"{difference.value:+.3f}"
    return f"{difference.value:+.3f} [{difference.interval.low:+.3f}, {difference.interval.high:+.3f}]"


def _next_commands(directory: Path, *, with_data: bool) -> list[str]:
    model = directory / "mixture"
    commands = [
        f'wenlu generate "…" --model {model}',
        f'wenlu score "…" --model {directory / "transformer"}',
        f"wenlu train --preset llama-tiny --data {directory / 'store'} --budget 20m",
    ]
    return commands if with_data else [*commands, "wenlu demo --data PATH"]


def _report(ladder: Ladder, samples: Sequence[Mapping[str, str]]) -> str:
    """The page: the same table and sentences, the curves, the prompts."""
    from wenlu.evaluation.charts import Chart, Line
    from wenlu.evaluation.reports import Report, Sample, Samples, Section, Table, render

    curves = {rung.name: [(point.seconds, point.bits_per_byte) for point in rung.curve] for rung in ladder.rungs}
    lines = [Line(text(f"ladder.{name}"), points) for name, points in curves.items() if points]
    longest = max(line.points[-1][0] for line in lines)
    target = ladder.forecast.target
    lines.append(Line(text("ladder.n-gram"), [(0.0, target), (longest, target)]))
    shown = [
        Sample(text(f"ladder.{sample['model']}") + f" · {sample['language']}", sample["prompt"], sample["text"])
        for sample in samples
    ]
    evaluation = ladder.rungs[0].evaluation
    summary = text("demo.title", documents=len(evaluation.scores))
    sections: list[Section] = [
        Table(text("demo.report_ladder"), *scores_table(ladder), note=" ".join(conclusions(ladder))),
        Table(text("demo.report_differences"), *differences_table(ladder), note=text("demo.interval")),
        Chart(text("demo.report_curves"), text("demo.axis_seconds"), text("demo.axis_bits"), lines),
        Samples(text("demo.report_samples"), shown),
    ]
    return render(Report(text("demo.report_title"), summary, sections, evaluation.definition))
