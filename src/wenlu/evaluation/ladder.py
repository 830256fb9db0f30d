"""The ladder: an n-gram, an LSTM, a Transformer and a mixture on one corpus, one tokenizer, one clock and one score.

What ``wenlu demo`` runs. The networks train for the same seconds; the n-gram counts everything once. All rungs are
scored on the same held-out documents (the test split, that nothing else has seen) with the same windows; the
mixture's weights are fitted on the validation split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from wenlu.bundle import Bundle, load_bundle, save_bundle
from wenlu.core.log import notice
from wenlu.core.publication import publish
from wenlu.core.runs import Run, is_run
from wenlu.core.settings import load
from wenlu.data.store import Store
from wenlu.evaluation.compare import Comparison, compare
from wenlu.evaluation.contestants import logged_sum
from wenlu.evaluation.documents import sample_documents, store_documents
from wenlu.evaluation.evaluator import Evaluation, evaluate_documents, evaluate_split
from wenlu.evaluation.mixing import fit_mixture
from wenlu.evaluation.scoring import Windows
from wenlu.models.mixture import Mixture
from wenlu.training.results import RunResult
from wenlu.training.run import resume_run, train_run
from wenlu.training.settings import EvaluateSettings, RunSettings

NGRAM, LSTM, TRANSFORMER, MIXTURE = "n-gram", "lstm", "transformer", "mixture"
PRESETS = {NGRAM: "ngram-5", LSTM: "lstm-base", TRANSFORMER: "llama-tiny"}
MIXED = (TRANSFORMER, NGRAM)
CONTEXT, STRIDE = 256, 128
_WEIGHT_TOKENS = 65_536
_CURVE_TOKENS = 8_192  # of validation text, at each point of a curve
_LEAST_TREND_POINTS = 3
_LEAST_LANGUAGE_DOCUMENTS = 10  # a language with fewer gets no column of its own
_PROMPT_DOCUMENT_TOKENS = 16
_PROMPT_LANGUAGES = ("zh", "en")
_PROMPT_CHARACTERS = {"zh": 12}
_PROMPT_WORDS = 8


class CurvePoint(NamedTuple):
    """Bits per byte of (a sample of) the validation text after ``seconds`` of training."""

    seconds: float
    bits_per_byte: float


@dataclass(frozen=True)
class Rung:
    """One model of the ladder. ``tokens`` counts training tokens read, those read again too; ``curve`` may be empty."""

    name: str
    path: Path
    seconds: float
    tokens: int
    parameters: int
    evaluation: Evaluation
    curve: Sequence[CurvePoint] = ()

    def as_record(self) -> dict[str, object]:
        """For JSON."""
        costs = {"seconds": self.seconds, "tokens": self.tokens, "parameters": self.parameters}
        return {"name": self.name, "path": str(self.path), **costs, **self.evaluation.as_record(), "curve": self.curve}


@dataclass(frozen=True)
class Forecast:
    """When the Transformer alone should reach the n-gram, from its own curve.

    ``target`` is the n-gram's bits per byte of the curve's text. ``seconds`` is None when the curve gives no trend; 0
    when it has passed already. ``gain_per_doubling`` is the share of the bits that twice the time saves.
    """

    target: float
    seconds: float | None
    gain_per_doubling: float | None


@dataclass(frozen=True)
class Ladder:
    """The rungs from the first to the last, all pairs compared in all and by language, the mixture's weights."""

    rungs: tuple[Rung, ...]
    comparisons: Mapping[str, Comparison]
    weights: Mapping[str, float]
    forecast: Forecast

    def rung(self, name: str) -> Rung:
        """One rung by its name."""
        return next(rung for rung in self.rungs if rung.name == name)

    def as_record(self) -> dict[str, object]:
        """For JSON."""
        differences = {language: comparison.pairs_record() for language, comparison in self.comparisons.items()}
        rungs = [rung.as_record() for rung in self.rungs]
        record = {"rungs": rungs, "differences": differences, "mixture_weights": dict(self.weights)}
        return {**record, "forecast": asdict(self.forecast)}


def climb(store: Store, directory: Path, *, seconds: float, seed: int = 1) -> Ladder | RunResult:
    """Train what is not there yet below ``directory``, score all of it, and compare.

    A finished rung is taken as it is, an interrupted one is resumed, so a second call is quick. When a signal stops a
    rung, the result of that run is all there is.

    Args:
        seconds: training time of each network; evaluations are outside this clock.

    Raises:
        DataError: ``evaluation.no_documents`` when the store's test or validation split is empty.
    """
    bundles = {}
    for name in PRESETS:
        result = _train(name, store, directory / name, seconds=seconds, seed=seed)
        if result.state == "stopped":
            return result
        bundles[name] = load_bundle(directory / name)
    windows, text = Windows(CONTEXT, STRIDE), store.validation
    models = [bundles[name].language_model for name in MIXED]
    sample = sample_documents(store_documents(text), _WEIGHT_TOKENS)
    weights = fit_mixture(models, sample, names=MIXED, context_id=text.context_id, windows=windows).weights
    mixture, tokenizer = Mixture([bundles[name].model for name in MIXED], weights), bundles[TRANSFORMER].tokenizer
    publish(directory / MIXTURE, partial(save_bundle, model=mixture, tokenizer=tokenizer), replace=True)
    bundles[MIXTURE] = load_bundle(directory / MIXTURE)
    rungs = tuple(_rung(name, bundle, store, directory, windows) for name, bundle in bundles.items())
    evaluations = {rung.name: rung.evaluation for rung in rungs}
    by_language = rungs[0].evaluation.by_language
    large = [name for name, summary in by_language.items() if summary.documents >= _LEAST_LANGUAGE_DOCUMENTS]
    languages = large if len(by_language) > 1 else []
    comparisons = {"all": compare(evaluations), **{name: compare(evaluations, language=name) for name in languages}}
    settings, ngram = EvaluateSettings(), bundles[NGRAM].model
    target = evaluate_split(ngram, text, settings, context=CONTEXT, max_tokens=_CURVE_TOKENS)["bits_per_byte"]
    curves = {rung.name: rung.curve for rung in rungs}
    return Ladder(rungs, comparisons, dict(zip(MIXED, weights, strict=True)), crossing(curves[TRANSFORMER], target))


def crossing(curve: Sequence[CurvePoint], target: float) -> Forecast:
    """When a curve should reach ``target`` bits per byte, if longer runs go on as this one did.

    Bits per byte fall about as a power of the training time (the form of J. Kaplan et al., "Scaling laws for neural
    language models", 2020). The power is fitted where the rate is constant, beyond the first steep fall; the level is
    that of the run's end, because a longer run anneals at its end too. An estimate: it leaves out that text runs short.
    """
    if not curve:
        return Forecast(target, None, None)
    end, power = curve[-1], 0.0
    trend = [point for point in curve if end.seconds * 0.3 <= point.seconds <= end.seconds * 0.55]
    if len(trend) >= _LEAST_TREND_POINTS:
        logs = np.log(trend)
        power = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    gain = 1 - 2**power if power < 0 else None
    if gain is None or end.bits_per_byte <= target:
        return Forecast(target, 0.0 if end.bits_per_byte <= target else None, gain)
    return Forecast(target, end.seconds * (target / end.bits_per_byte) ** (1 / power), gain)


def _train(name: str, store: Store, path: Path, *, seconds: float, seed: int) -> RunResult:
    """Train a rung, or go on with it; one that is finished stays as it is."""
    if is_run(path):
        return resume_run(path, evaluate=evaluate_split, store=store)
    notice("ladder.rung", name=name, preset=PRESETS[name])
    values: dict[str, object] = {"data.paths": [str(store.path)], "train.seed": seed}
    values |= {"evaluate.max_tokens": _CURVE_TOKENS, "evaluate.final_max_tokens": _CURVE_TOKENS}
    if name != NGRAM:
        values |= {"train.budget": f"{seconds:g}s", "evaluate.every": "5%"}
    resolved = load(RunSettings, preset=PRESETS[name], values=values)
    return train_run(resolved, path, evaluate=evaluate_split, store=store)


def _rung(name: str, bundle: Bundle, store: Store, directory: Path, windows: Windows) -> Rung:
    model, text = bundle.language_model, store.test
    notice("ladder.scoring", name=name, documents=text.num_documents)
    evaluation = evaluate_documents(
        model,
        store_documents(text),
        context_id=text.context_id,
        end_id=text.end_id,
        windows=windows,
        total_tokens=text.num_tokens,
    )
    logs = [Run.open(directory / part).read_log() for part in (MIXED if name == MIXTURE else (name,))]
    seconds, tokens = (math.fsum(logged_sum(log, name) for log in logs) for name in ("seconds", "tokens"))
    parameters = model.statistics(sequence_length=CONTEXT).parameters
    curve = _curve(logs[0]) if len(logs) == 1 else ()
    return Rung(name, directory / name, seconds, int(tokens), parameters, evaluation, curve)


def _curve(log: Sequence[Mapping[str, object]]) -> list[CurvePoint]:
    """The evaluations during a run against the seconds of its steps."""
    seconds, points = 0.0, []
    for record in log:
        if record["event"] == "step":
            seconds += cast(float, record["seconds"])
        elif record["event"] == "evaluation":
            points.append(CurvePoint(seconds, cast(float, record["bits_per_byte"])))
    return points


def prompts(store: Store) -> dict[str, str]:
    """How a held-out document of each language begins: its first words, to be continued."""
    found: dict[str, str] = {}
    for document in store_documents(store.test):
        language = document.language
        if language in _PROMPT_LANGUAGES and language not in found and document.size >= _PROMPT_DOCUMENT_TOKENS:
            text = store.tokenizer.decode(document.ids[:_PROMPT_DOCUMENT_TOKENS].tolist())
            characters = _PROMPT_CHARACTERS.get(language)
            text = text[:characters] if characters else " ".join(text.split(" ")[:_PROMPT_WORDS])
            if "\n" not in text:
                found[language] = text
    return {language: found[language] for language in _PROMPT_LANGUAGES if language in found}
