"""``wenlu demo``: from raw text to four models in one table, two continued prompts and a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from wenlu.cli import output
from wenlu.cli.parsing import Paths
from wenlu.core.errors import DataError, SettingsError
from wenlu.core.log import notice
from wenlu.core.messages import text
from wenlu.core.publication import write_file_atomically

if TYPE_CHECKING:
    from wenlu.data.store import Store
    from wenlu.evaluation.ladder import Ladder
    from wenlu.evaluation.reports import Table

CORPUS = "demo"
VOCAB_SIZE = 8192
HELD_OUT_FRACTION = 0.05
LEAST_DOCUMENTS = 30
NEW_TOKENS = 48
SMALLEST_DIFFERENCE = 0.0005  # bits per byte; what is smaller is shown as 0.000
PLAN, REPORT = "demo.json", "report.html"


@output.command("demo")
def command(
    *,
    data: Paths = (),
    budget: Annotated[str, "TIME"] = "115s",
    target: Annotated[str | None, "-o", "--output", "DIR"] = None,
    vocab_size: int = VOCAB_SIZE,
    seed: int = 1,
) -> int:
    """Fetch, pack, train, score, mix, generate, report."""
    from wenlu.core.settings import load
    from wenlu.data.fetch import fetch_corpus
    from wenlu.data.tokens import SPLITS, PackSettings, Store, build_store, corpus_key
    from wenlu.evaluation.ladder import climb
    from wenlu.training.results import RunResult
    from wenlu.training.schedules import Duration

    duration = Duration.parse(budget, setting="--budget")
    if duration.unit != "seconds":
        raise SettingsError("demo.budget_unit", value=budget)
    corpus = list(data) or [str(path) for path in fetch_corpus(CORPUS, fallback=True)]
    held_out = dict.fromkeys(("data.validation_fraction", "data.test_fraction"), HELD_OUT_FRACTION)
    values = {"data.paths": corpus, **held_out, "tokenizer.vocab_size": vocab_size}
    settings = load(PackSettings, values=values).value
    key = corpus_key(settings.data, None, settings.tokenizer)
    directory = _directory(target, {"corpus": key, "seconds": duration.value, "seed": seed})
    path = directory / "store"
    made = path.exists()
    store = Store.open(path) if made else build_store(path, settings.data, tokenizer_settings=settings.tokenizer)
    if store.test.num_documents < LEAST_DOCUMENTS:
        notice("demo.few_documents", documents=store.test.num_documents, least=LEAST_DOCUMENTS)
    ladder = climb(store, directory, seconds=duration.value, seed=seed)
    if isinstance(ladder, RunResult):
        notice("demo.stopped", path=directory)
        return ladder.exit_code
    samples = _samples(store, ladder)
    splits = {name: store.split(name) for name in SPLITS}
    record = {
        "directory": str(directory),
        "corpus": corpus,
        "documents": {name: part.num_documents for name, part in splits.items()},
        "tokens": {name: part.num_tokens for name, part in splits.items()},
        **ladder.as_record(),
        "samples": samples,
    }
    write_file_atomically(directory / "ladder.json", json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    write_file_atomically(directory / REPORT, _report(ladder, samples))
    output.result(record, text=_shown(ladder, samples, directory, with_data=bool(data)))
    return 0


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
    scores, differences = (output.render(output.Table(table.columns, table.rows)) for table in _tables(ladder))
    title = text("demo.title", documents=len(ladder.rungs[0].evaluation.scores))
    sentences = [title, scores, text("demo.interval"), differences, *_conclusions(ladder), ""]
    for sample in samples:
        heading = text("demo.sample", model=text(f"ladder.{sample['model']}"), language=sample["language"])
        sentences.append(f"{heading}\n  {sample['prompt']}▸{sample['text']}\n")
    sentences += [
        text("demo.report", path=directory / REPORT),
        "",
        text("demo.next"),
        f'  wenlu generate "…" --model {directory / "mixture"}',
        f'  wenlu score "…" --model {directory / "transformer"}',
        f"  wenlu train --preset llama-tiny --data {directory / 'store'} --budget 20m",
    ]
    return "\n".join(sentences if with_data else [*sentences, "  wenlu demo --data PATH"])


def _tables(ladder: Ladder) -> tuple[Table, Table]:
    """What each rung cost, and its bits per byte in all and by language; then its paired differences to the n-gram."""
    from wenlu.evaluation.ladder import NGRAM
    from wenlu.evaluation.reports import Table

    languages = [text("demo.column_all") if name == "all" else name for name in ladder.comparisons]
    model, *costs = (text(f"demo.column_{name}") for name in ("model", "seconds", "tokens", "parameters"))
    scores, differences = [], []
    for rung in ladder.rungs:
        name, summaries = text(f"ladder.{rung.name}"), {**rung.evaluation.by_language, "all": rung.evaluation.total}
        bits = [f"{summaries[language].bits_per_byte:.3f}" for language in ladder.comparisons]
        scores.append([name, f"{rung.seconds:.0f}", f"{rung.tokens:,}", f"{rung.parameters:,}", *bits])
        if rung.name != NGRAM:
            differences.append([name])
            for difference in (comparison.between(rung.name, NGRAM) for comparison in ladder.comparisons.values()):
                interval = difference.interval
                around = "" if interval is None else f" [{interval.low:+.3f}, {interval.high:+.3f}]"
                differences[-1].append(f"{difference.value:+.3f}{around}")
    return (
        Table(text("demo.report_ladder"), [model, *costs, *languages], scores, " ".join(_conclusions(ladder))),
        Table(text("demo.report_differences"), [model, *languages], differences, text("demo.interval")),
    )


def _conclusions(ladder: Ladder) -> list[str]:
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
    forecast = ladder.forecast
    if forecast.seconds:
        assert forecast.gain_per_doubling is not None
        said.append(text("demo.forecast", minutes=forecast.seconds / 60, gain=forecast.gain_per_doubling))
    else:
        said.append(text("demo.forecast_unknown" if forecast.seconds is None else "demo.forecast_passed"))
    return said


def _report(ladder: Ladder, samples: Sequence[Mapping[str, str]]) -> str:
    """The page: the same table and sentences, the curves, the prompts."""
    from wenlu.evaluation.reports import Chart, Line, Sample, Samples, Section, render

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
    chart = Chart(text("demo.report_curves"), text("demo.axis_seconds"), text("demo.axis_bits"), lines)
    sections: list[Section] = [*_tables(ladder), chart, Samples(text("demo.report_samples"), shown)]
    return render(text("demo.report_title"), summary, sections, evaluation.definition)
