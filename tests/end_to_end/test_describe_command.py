"""``wenlu describe``: models on disk of every kind, kinds, presets, and what is none of these."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gguf_models import gguf_file
from wenlu.cli.main import main
from wenlu.core.settings import presets
from wenlu.models.build import build_model
from wenlu.models.config import LanguageModel
from wenlu.models.meta import meta_device
from wenlu.training.settings import RunSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "1"
MODELS = sorted((GOLDEN / "models").iterdir())


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WENLU_LANG", "en")
    monkeypatch.chdir(tmp_path)


def describe(*words: object) -> Result:
    return CliRunner().invoke(main, ["describe", *map(str, words)], prog_name="wenlu")


def record(*words: object) -> dict[str, object]:
    result = describe(*words, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_a_model_directory(path: Path) -> None:
    from wenlu.models.checkpoint import load_model

    found = record(path)
    model: LanguageModel = load_model(path)  # type: ignore[assignment]
    total = model.statistics(sequence_length=found["sequence_length"]).parameters  # type: ignore[arg-type]
    assert found["parameters"]["total"] == total == sum(line["parameters"] for line in found["lines"])  # type: ignore[index,attr-defined,misc]
    shown = describe(path).stdout
    assert f"= {total:,}\n" in shown
    assert all(line["text"] in shown for line in found["lines"])  # type: ignore[attr-defined,index]


def test_a_mixture_is_drawn_with_its_components_and_an_ngram_with_its_counts() -> None:
    shown = describe(GOLDEN / "models" / "mixture").stdout
    assert shown.startswith("mixture: ") and shown.count(" ×\n") == 2
    config = json.loads((GOLDEN / "models" / "ngram" / "config.json").read_text(encoding="utf-8"))
    lines = describe(GOLDEN / "models" / "ngram").stdout.splitlines()
    for order, count in enumerate(config["num_ngrams"], start=1):
        assert lines[order].startswith(f"  order {order}; discounts ") and lines[order].endswith(f" {count:,}")


def test_a_run_and_a_gguf_file(tmp_path: Path) -> None:
    run = record(GOLDEN / "runs" / "qwen3")
    assert "checkpoints" in str(run["model"]) and run["config"]["decoder"]["qk_norm"] == "head"  # type: ignore[index]
    path, model = gguf_file(tmp_path, "llama")
    assert record(path)["parameters"]["total"] == sum(p.numel() for p in model.parameters())  # type: ignore[index]


def test_a_kind_has_the_sizes_of_a_new_model() -> None:
    defaults = RunSettings()
    with meta_device():
        model = build_model(
            type(defaults.model)(kind="t5"),
            vocab_size=defaults.tokenizer.vocab_size, end_id=0, sequence_length=defaults.train.sequence_length,
        )  # fmt: skip
    found = record("t5")
    assert found["model"] == "t5" and found["parameters"]["total"] == sum(p.numel() for p in model.parameters())  # type: ignore[index]


@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_drawn(preset: str) -> None:
    result = describe(preset)
    assert result.exit_code == 0 and result.stdout, result.stderr


def test_a_published_size_of_a_preset() -> None:
    assert record("gpt2-small")["parameters"]["total"] == 124_439_808  # type: ignore[index]


def test_a_preset_has_the_heads_of_its_task() -> None:
    parts = {part["name"] for line in record("bert-base")["lines"] for part in line["parts"]}  # type: ignore[attr-defined]
    assert {"head.pooler", "head.pair", "head.transform"} <= parts
    assert record("bert-base")["parameters"]["total"] == 110_106_428  # type: ignore[index]  # BertForPreTraining


def test_nothing_of_this_name(tmp_path: Path) -> None:
    result = describe("berd")
    assert result.exit_code == 2
    assert "berd" in result.stderr and "such as bert\n" in result.stderr
    far = describe("xyz").stderr
    assert "xyz" in far and "roberta" in far and "gpt2-small" in far
    (tmp_path / "empty").mkdir()
    assert describe("empty").exit_code == 2
    assert describe().exit_code == 2  # there is no run
