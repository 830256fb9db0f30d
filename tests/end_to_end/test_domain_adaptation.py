"""``wenlu compare`` for models of any task: what one gains and forgets that goes on with text of another domain."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from tiny_training import WORDS
from wenlu.bundle import save_bundle
from wenlu.cli.main import main
from wenlu.core.publication import MANIFEST, publish
from wenlu.evaluation.contestants import open_contestant
from wenlu.evaluation.documents import open_corpus
from wenlu.evaluation.objectives import _tokens
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tokenization.tokenizer import Tokenizer

OTHERS = ["rain", "falls", "on", "green", "hills", "the", "a", "in", "spring", "春雨", "世界", "青", "水"]
COMMON = ("train.batch_size=4", "train.sequence_length=32", "train.threads=1", "train.precision=fp32")
COMMON += ("data.document=line", "train.budget=none", "evaluate.max_tokens=500", "optimizer.learning_rate=0.01")
SMALL = ("model.num_layers=1", "model.num_heads=2", "model.hidden_size=16", "tokenizer.vocab_size=320")
PRESETS = {"causal": ("llama-tiny",), "masked": ("bert-tiny", "task.mask_rate=0.15")}  # the default of models from afar
NEW, OLD = ("--data", "new-held.jsonl"), ("--old-data", "old-held.jsonl")


def wenlu(*words: object, code: int = 0) -> Result:
    found = CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")
    assert found.exit_code == code, found.output
    return found


def compared(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(wenlu("compare", *words, "--json").stdout)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of two domains; of each kind of model one of the old domain, and one that went on from it with the new."""
    home = tmp_path_factory.mktemp("adaptation")
    for number, (name, words) in enumerate(
        [("old", WORDS), ("old-held", WORDS), ("new", OTHERS), ("new-held", OTHERS)]
    ):
        draw = random.Random(number)
        lines = [" ".join(draw.choices(words, k=draw.randint(3, 20))) + "." for _ in range(40 if "-" in name else 160)]
        if "-" in name:
            lines = [json.dumps({"text": line}) for line in lines]
        (home / f"{name}.{'jsonl' if '-' in name else 'txt'}").write_text("\n".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for kind, preset in PRESETS.items():
            settings = ("train", "--preset", *preset, *COMMON, "train.steps=60")
            wenlu(*settings, *SMALL, "--data", "old.txt", "-o", f"runs/{kind}")
            wenlu(*settings, f"model.start=runs/{kind}", "--data", "new.txt", "-o", f"runs/{kind}-new")
    return home


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def parts(model: str, data: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Costs and sizes of the documents or rows, from the report of an evaluation of one model alone."""
    found = json.loads(wenlu("evaluate", model, "--data", data, "--json").stdout)
    rows = {
        name: np.array(column)
        for name, column in json.loads(Path(found["report"]).read_text(encoding="utf-8"))["documents"].items()
    }
    if "targets" in rows:
        return rows["nats"], rows["targets"]
    assert rows["lossless"].all()
    return rows["nats"] / math.log(2), rows["num_bytes"]


@pytest.mark.parametrize("kind", PRESETS)
def test_gain_and_forgetting_are_those_of_the_single_evaluations(kind: str) -> None:
    """Differences and intervals as numpy has them, from other draws; the adapted model really forgets."""
    base, adapted = kind, f"{kind}-new"
    found = compared(base, adapted, *NEW, *OLD)
    assert found["ranking"] == [adapted, base] == [model["name"] for model in found["models"]]
    forgetting = found["forgetting"]
    assert forgetting["base"] == base and [model["name"] for model in forgetting["models"]] == [base, adapted]
    [gained] = [pair for pair in found["pairs"] if pair["first"] == base]
    [forgotten] = forgetting["pairs"]
    assert (forgotten["first"], forgotten["second"]) == (adapted, base)
    draws = np.random.default_rng(5)
    for pair, data in ((gained, "new-held.jsonl"), (forgotten, "old-held.jsonl")):
        (first, sizes), (second, others) = (parts(pair[name], data) for name in ("first", "second"))
        assert len(sizes) > 10 and (sizes == others).all()
        assert pair["difference"] == pytest.approx((first.sum() - second.sum()) / sizes.sum(), abs=1e-9)
        drawn = draws.integers(0, len(sizes), size=(4000, len(sizes)))
        differences = (first - second)[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        expected = np.quantile(differences, [0.025, 0.975])
        assert pair["interval"] == pytest.approx(expected, abs=0.15 * (expected[1] - expected[0]))
        assert pair["interval"][0] > 0 and pair["p_value"] < 0.01
    for text, models in ((NEW, found["models"]), (("--data", OLD[1]), forgetting["models"])):
        for model in models:
            alone = json.loads(wenlu("evaluate", model["name"], *text, "--json").stdout)
            assert {name: model[name] for name in alone if name in model} == {
                name: alone[name] for name in alone if name in model
            }


def test_forgetting_is_counted_from_the_model_named_first() -> None:
    forgetting = compared("masked-new", "masked", *NEW, *OLD)["forgetting"]
    assert forgetting["base"] == "masked-new"
    [pair] = forgetting["pairs"]
    assert (pair["first"], pair["second"]) == ("masked", "masked-new") and pair["interval"][1] < 0
    assert "forgetting" not in compared("masked-new", "masked", *NEW)


@pytest.mark.parametrize("kind", PRESETS)
@pytest.mark.parametrize(
    ("language", "words"), [("en", ("forgotten", "behind the best")), ("zh", ("遗忘", "落后最佳"))]
)
def test_tables_and_pages(
    kind: str, language: str, words: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENLU_LANG", language)
    page = tmp_path / "page.html"
    shown = wenlu("compare", kind, f"{kind}-new", *NEW, *OLD, "--html", page).stdout
    found = compared(kind, f"{kind}-new", *NEW, *OLD)
    [forgotten] = found["forgetting"]["pairs"]
    gained = -next(pair for pair in found["pairs"] if pair["first"] != kind)["difference"]
    for content in (shown, page.read_text(encoding="utf-8")):
        assert all(word in content for word in (*words, "old-held"))
        assert f"{forgotten['difference']:+.4f}" in content and f"{gained:+.4f}" in content
        assert not re.search(r"https?:|<script", content)


def masked_loss(model: str, columns: int = 32) -> float:
    found = json.loads(wenlu("evaluate", model, *NEW, "--context", columns, "--json").stdout)
    assert found["definition"].startswith(f"masked_lm|columns:{columns}|")
    value: float = found["loss"]["value"]
    return value


@pytest.mark.parametrize("settings", [("task.name=next_sentence",), ("task.unit=word", "task.mask_rate=0.3")])
def test_encoders_of_different_objectives_are_compared_as_masked_models(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    """The same masked tokens for all, with default settings, and it is said."""
    words = ("--preset", *PRESETS["masked"], *COMMON, "train.steps=3", "model.start=runs/masked", "--data", "new.txt")
    wenlu("train", *words, *settings, "-o", tmp_path / "other")
    found = wenlu("compare", "masked", tmp_path / "other", *NEW, "--context", "24", "--json")
    assert settings[0].rpartition("=")[2] in found.stderr and "scored by masked_lm" in found.stderr
    models = {model["name"]: model for model in json.loads(found.stdout)["models"]}
    assert models["masked"]["loss"]["value"] == pytest.approx(masked_loss("masked", 24), abs=1e-9)
    shutil.copytree(tmp_path / "other" / "final", tmp_path / "alone")  # without its run it has the default settings
    for name in (MANIFEST, "wenlu.toml"):
        (tmp_path / "alone" / name).unlink()
    assert models["other"]["loss"]["value"] == pytest.approx(masked_loss(str(tmp_path / "alone"), 24), abs=1e-9)
    assert len({model["definition"] for model in models.values()}) == 1


def test_models_of_one_objective_are_compared_by_it(tmp_path: Path) -> None:
    words = (
        "--preset",
        *PRESETS["masked"],
        *COMMON,
        "train.steps=3",
        "task.name=next_sentence",
        "model.start=runs/masked",
    )
    for name in ("a", "b"):
        wenlu("train", *words, f"train.seed={ord(name)}", "--data", "new.txt", "-o", tmp_path / name)
    found = wenlu("compare", tmp_path / "a", tmp_path / "b", *NEW, "--json")
    assert "scored by" not in found.stderr
    for model in json.loads(found.stdout)["models"]:
        assert model["definition"].startswith("next_sentence|")


def model_directory(path: Path, kind: str, task: str, tokenizer: Tokenizer) -> str:
    """A model with random weights, outside any run."""
    sizes = ModelSettings(kind=kind, num_layers=1, num_heads=2, hidden_size=16)
    model = build_model(sizes, vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, sequence_length=32, seed=1)
    publish(path, lambda place: save_bundle(place, model=model, tokenizer=tokenizer, task=task))
    return str(path)


@pytest.fixture(scope="module")
def strangers(home: Path) -> dict[str, str]:
    """Models of other tasks and other tokenizers; one that has no output for words."""
    ours = Tokenizer.load(home / "runs/masked/final")
    other = Tokenizer.load(home / "runs/causal/final")
    bare = home / "bare"
    shutil.copytree(home / "runs/masked/final", bare)
    for name in (MANIFEST, "wenlu.toml"):
        (bare / name).unlink()
    weights = load_file(bare / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("cls.")}
    save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    return {
        "bare": str(bare),
        "t5": model_directory(home / "t5", "t5", "span_corruption", ours),
        "t5-other": model_directory(home / "t5-other", "t5", "span_corruption", other),
        "bart": model_directory(home / "bart", "bart", "denoising", ours),
        "bert-other": model_directory(home / "bert-other", "bert", "masked_lm", other),
    }


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("masked", "causal", "masked: masked_lm, causal: causal_lm"),
        ("masked", "t5", "masked: masked_lm, t5: span_corruption"),
        ("t5", "bart", "t5: span_corruption, bart: denoising"),
        ("t5", "causal", "t5: span_corruption, causal: causal_lm"),
        ("masked", "bert-other", "bert-other: "),
        ("t5", "t5-other", "t5-other: "),
        ("masked", "bare", "bert"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    first: str, second: str, said: str, language: str, strangers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENLU_LANG", language)
    refused = wenlu("compare", *(strangers.get(name, name) for name in (first, second)), *NEW, code=2)
    assert said in refused.stderr and not refused.stdout
    if "other" in second:
        prints = [open_contestant(strangers.get(name, name)).bundle.tokenizer.fingerprint for name in (first, second)]
        assert prints[0] != prints[1] and all(print[:12] in refused.stderr for print in prints)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stride", "8"), "--stride"),
        (("--context", "0"), "--context"),
        (("--context", "1000"), "1000"),
        (("--limit-bytes", "0"), "0"),
        (("--split", "test"), "--split test"),
        (("--old-data", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: tuple[str, ...], said: str) -> None:
    """Before any model is scored, which may take long."""
    refused = wenlu("compare", "masked", "masked-new", *NEW, *words, code=2)
    assert said in refused.stderr and not refused.stdout
    assert "scoring" not in refused.stderr


@pytest.mark.parametrize("spoilt", ["cls.predictions.transform.LayerNorm.weight", "bert.pooler.dense.weight"])
def test_a_model_that_says_nan_is_neither_scored_nor_the_best(spoilt: str, tmp_path: Path) -> None:
    """As for models of next tokens: NaN is not less than any loss. The pooler is only in what judges pairs."""
    words = ("train.steps=1", "task.name=next_sentence", "model.start=runs/masked", "--data", "old.txt")
    wenlu("train", "--preset", *PRESETS["masked"], *COMMON, *words, "-o", tmp_path / "run")
    shutil.copytree(tmp_path / "run/final", tmp_path / "spoilt", ignore=shutil.ignore_patterns(MANIFEST))
    weights = load_file(tmp_path / "spoilt/model.safetensors")
    weights[spoilt][:] = math.nan
    save_file(weights, tmp_path / "spoilt/model.safetensors", metadata={"format": "pt"})
    text = [json.dumps({"text": (" ".join(WORDS) + ". ") * 4}) for _ in range(20)]  # long enough for pairs
    (tmp_path / "long.jsonl").write_text("\n".join(text), encoding="utf-8")
    for verb in ("evaluate", "compare"):
        others = () if verb == "evaluate" else (tmp_path / "run",)
        refused = wenlu(verb, tmp_path / "spoilt", *others, "--data", tmp_path / "long.jsonl", code=1)
        assert "NaN" in refused.stderr and not refused.stdout


def test_a_sample_and_the_length_of_rows(tmp_path: Path) -> None:
    found = compared("masked", "masked-new", *NEW, "--limit-bytes", "800", "--context", "16")
    whole = compared("masked", "masked-new", *NEW, "--context", "16")
    for model, all_of_it in zip(found["models"], whole["models"], strict=True):
        assert "|columns:16|" in model["definition"] and "sample-of-800-bytes" in model["definition"]
        assert 0 < model["loss"]["count"] < all_of_it["loss"]["count"] / 2


def test_encoder_decoders_whose_settings_differ_have_the_defaults_of_their_task(
    strangers: dict[str, str], tmp_path: Path
) -> None:
    words = (*COMMON, "train.steps=2", "task.name=span_corruption", "task.mean_span=2", "task.num_sentinels=20")
    settings = ("model.kind=t5", "model.num_layers=1", "model.num_heads=2", "model.hidden_size=16")
    (tmp_path / "none.toml").write_text("", encoding="utf-8")
    wenlu("train", tmp_path / "none.toml", *words, *settings, "--data", "old.txt", "-o", tmp_path / "spans")
    tokenizer = Tokenizer.load(tmp_path / "spans/final")
    plain = model_directory(tmp_path / "plain", "t5", "span_corruption", tokenizer)
    found = wenlu("compare", tmp_path / "spans", plain, *NEW, "--json")
    assert "mean_span:2" in found.stderr
    models = {model["name"]: model for model in json.loads(found.stdout)["models"]}
    alone = json.loads(wenlu("evaluate", plain, *NEW, "--context", "32", "--json").stdout)
    assert models["plain"]["loss"] == alone["loss"] and "mean_span" not in alone["definition"]


@pytest.mark.parametrize("sampled", [False, True])
def test_the_files_of_a_folder_are_the_sources_of_its_pairs(sampled: bool, tmp_path: Path) -> None:
    """As in a token store; of one, they are its files."""
    for letter in "ab":
        (tmp_path / f"{letter}.jsonl").write_text("\n".join([json.dumps({"text": letter * 9})] * 5), encoding="utf-8")
    corpus, tokenizer = open_corpus([str(tmp_path)]), open_contestant("masked").bundle.tokenizer
    store = _tokens(corpus.as_texts(60 if sampled else 0), tokenizer)
    texts = [tokenizer.decode(store.document(number)[:-1].tolist()) for number in range(store.num_documents)]
    assert len(texts) == (7 if sampled else 10) and store.files is not None
    assert {(text[0], file) for text, file in zip(texts, store.files.tolist(), strict=True)} == {("a", 0), ("b", 1)}
