"""Files of every earlier format are read and give what they gave; those of a newer one are refused by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import wenlu
from golden.make import GOLDEN, copy_run, observe
from promises import Figure
from small_world import MODELS, RUNS
from wenlu.core.errors import WenluError
from wenlu.core.publication import MANIFEST, publish
from wenlu.training.run import resume_run

SETS = sorted(path.name for path in GOLDEN.iterdir() if (path / "expected.json").is_file())
NEWEST = SETS[-1]
TOLERANCE = 1e-5
LARGEST_BYTES = 200_000
CHECKPOINT = "runs/qwen3/checkpoints/step-00000004"


def flat(value: object, name: str = "") -> dict[str, object]:
    """Nested tables and lists as one table with dotted names."""
    if isinstance(value, dict):
        return {key: leaf for part, inner in value.items() for key, leaf in flat(inner, f"{name}.{part}").items()}
    if isinstance(value, list):
        return flat(dict(enumerate(value)), name)
    return {name: value}


@pytest.mark.promise("T15")
@pytest.mark.parametrize("name", SETS)
def test_files_of_earlier_formats_give_what_they_gave(name: str, tmp_path: Path, figure: Figure) -> None:
    golden = GOLDEN / name
    found = flat(observe(golden, tmp_path))
    expected = flat(json.loads((golden / "expected.json").read_text(encoding="utf-8")))
    assert found.keys() == expected.keys()
    worst = 0.0
    for key, value in expected.items():
        if isinstance(value, float):
            worst = max(worst, abs(found[key] - value) / max(abs(value), 1.0))
        else:
            assert found[key] == value, key
    assert worst <= TOLERANCE
    directories = len([*(golden / "models").iterdir(), *(golden / "runs").iterdir()]) + 1
    figure(f"set {name}: {directories} of {directories} directories load, {len(found)} scores within {worst:.0e}")


def test_the_newest_set_has_every_kind_of_directory_and_all_are_small() -> None:
    assert {path.name for path in (GOLDEN / NEWEST / "models").iterdir()} == set(MODELS)
    assert {path.name for path in (GOLDEN / NEWEST / "runs").iterdir()} == set(RUNS)
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < LARGEST_BYTES
    for path in GOLDEN.rglob("*.toml"):
        assert not re.search(r"= \[?\"/", path.read_text(encoding="utf-8")), f"{path} names a place of one machine"


def edit(directory: Path, name: str, before: str, after: str) -> None:
    """Change a file; the digests of all but a manifest are made right again."""
    text = (directory / name).read_text(encoding="utf-8")
    assert before in text
    (directory / name).write_text(text.replace(before, after, 1), encoding="utf-8")
    if name != MANIFEST:
        copied = directory.with_name("copied")
        shutil.copytree(directory, copied, ignore=shutil.ignore_patterns(MANIFEST))
        publish(directory, lambda target: write_copy(copied, target), replace=True)


def write_copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def resume_of_checkpoint(checkpoint: Path) -> object:
    """Continue the run that a checkpoint of a set is in."""
    golden = checkpoint.parents[3]
    return resume_run(copy_run(golden, checkpoint.parents[1].name, golden / "scratch"), allow_inexact=True)


NEWER: dict[str, tuple[str, str, str, str, Callable[[Path], object]]] = {
    "model": ("models/qwen3", "wenlu.toml", "format = 1", "format = 2", wenlu.load),
    "n-gram model": ("models/ngram", "wenlu.toml", "format = 1", "format = 7", wenlu.load),
    "model's manifest": ("models/lstm", MANIFEST, '"format": 1', '"format": 2', wenlu.load),
    "kind of model": ("models/lstm", "config.json", "wenlu_lstm", "wenlu_lstm_2", wenlu.load),
    "store": ("store", "store.json", '"format": 1', '"format": 2', wenlu.open_store),
    "store's manifest": ("store", MANIFEST, '"format": 1', '"format": 2', wenlu.open_store),
    "checkpoint's state": (CHECKPOINT, "state.json", '"format": 1', '"format": 2', resume_of_checkpoint),
}


@pytest.mark.promise("T15")
def test_a_newer_format_is_refused_by_name(tmp_path: Path, figure: Figure) -> None:
    for number, (place, name, before, after, open_it) in enumerate(NEWER.values()):
        directory = tmp_path / str(number) / place
        shutil.copytree(GOLDEN / NEWEST, tmp_path / str(number))
        edit(directory, name, before, after)
        with pytest.raises(WenluError) as caught:
            open_it(directory)
        assert directory.name in str(caught.value)
        assert re.search("newer|format|not known", str(caught.value))
        assert caught.value.exit_code == 2
    figure(f"{len(NEWER)} kinds of newer files: {len(NEWER)} refused by name")


@pytest.mark.parametrize(
    ("before", "after"), [("hidden_size = 8", "hidden_size = 16"), ('kind = "qwen3"', 'kind = "llama"')]
)
def test_a_run_whose_settings_describe_another_model_is_refused(before: str, after: str, tmp_path: Path) -> None:
    run = copy_run(GOLDEN / NEWEST, "qwen3", tmp_path)
    text = (run / "run.toml").read_text(encoding="utf-8")
    assert before in text
    (run / "run.toml").write_text(text.replace(before, after), encoding="utf-8")
    state = run / "checkpoints" / "step-00000004" / "state.json"
    for recorded in (True, False):  # earlier states do not say with which settings they were made
        if not recorded:
            text = state.read_text(encoding="utf-8")
            content = {key: value for key, value in json.loads(text).items() if key != "settings"}
            edit(state.parent, state.name, text, json.dumps(content))
        with pytest.raises(WenluError) as caught:
            resume_run(run, allow_inexact=True)
        assert caught.value.id == ("training.resume_setting" if recorded else "training.other_model")
