"""Settings: sources in their order, every mistake at once, and a file that says where each value came from."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from wenlu.core import settings
from wenlu.core.errors import SettingsError
from wenlu.core.log import Notice
from wenlu.core.settings import Resolved, changed, decode, load, presets, to_toml, unused_setting

STRICT = {"extra": "forbid"}


@dataclass(frozen=True)
class Train:
    __pydantic_config__ = STRICT
    steps: int = 100
    rate: float = 1e-3
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    budget: str | None = None
    paths: tuple[str, ...] = ()
    compile: bool = False


@dataclass(frozen=True)
class Model:
    __pydantic_config__ = STRICT
    kind: str
    layers: Annotated[int, Field(ge=1)] = 4
    biases: frozenset[str] = frozenset({"q"})
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.kind == "forbidden":
            raise ValueError("this kind is forbidden")


@dataclass(frozen=True)
class Settings:
    __pydantic_config__ = STRICT
    model: Model
    train: Train = field(default_factory=Train)
    second: Model | None = None


def mistakes(error: SettingsError) -> str:
    assert error.id == "core.settings_invalid"
    return str(error)


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "wenlu" / "presets"
    folder.mkdir(parents=True)
    (folder / "tiny.toml").write_text('[model]\nkind = "gpt2"\nlayers = 2\n[train]\nsteps = 7\nrate = 5\n', "utf-8")
    files = resources.files  # of other packages, whose messages may be read here for the first time
    monkeypatch.setattr(settings.resources, "files", lambda name: tmp_path / name if name == "wenlu" else files(name))


def test_sources_in_their_order_with_origins(preset: None, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('# mine\n[train]\nsteps = 8\nprecision = "fp32"\n\n[model]\nlayers = 3\n', "utf-8")
    resolved = load(
        Settings,
        preset="tiny",
        file=file,
        overrides=["train.steps=9"],
        values={"train.paths": ["甲"], "model.kind": None},
    )
    assert resolved.value == Settings(
        model=Model("gpt2", layers=3), train=Train(steps=9, rate=5.0, precision="fp32", paths=("甲",))
    )
    assert isinstance(resolved.value.train.rate, float)
    assert dict(resolved.origins) == {
        "model.kind": "preset tiny",
        "model.layers": "run.toml:7",
        "model.biases": "default",
        "model.cache": "default",
        "train.steps": "command line",
        "train.rate": "preset tiny",
        "train.precision": "run.toml:4",
        "train.budget": "default",
        "train.paths": "command line",
        "train.compile": "default",
        "second": "default",
    }


def test_toml_gives_the_same_settings_back_and_names_origins(tmp_path: Path) -> None:
    value = Settings(
        model=Model('a"b\\文', biases=frozenset({"q", "k"}), cache=Path("x") / "y"),
        train=Train(rate=1e-05, paths=("一", "two"), compile=True),
        second=Model("n"),
    )
    text = to_toml(Resolved(value, {"train.rate": "command line", "train.budget": "preset x"}))
    assert "rate = 1e-05 # command line\n" in text
    assert "# budget =   # preset x\n" in text
    assert "steps = 100 # default\n" in text
    assert tomllib.loads(text)["train"]["paths"] == ["一", "two"]
    file = tmp_path / "run.toml"
    file.write_text(text, "utf-8")
    assert load(Settings, file=file).value == value


def test_all_mistakes_at_once_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        '[train]\nstepz = 5\nrate = "fast"\nprecision = "fp8"\ncompile = 1\n[modle]\nkind = "x"\n[model]\nlayers = 0\n',
        "utf-8",
    )
    with pytest.raises(SettingsError) as caught:
        load(Settings, file=file, overrides=["train.paths=3", "steps=4"])
    message = mistakes(caught.value)
    assert "hold 9 mistake(s)" in message
    for line in (
        "train.stepz (my.toml:2): there is no such setting; did you mean train.steps?",
        'train.rate = "fast" (my.toml:3): expected a number',
        'train.precision = "fp8" (my.toml:4): expected one of auto, bf16, fp32',
        "train.compile = 1 (my.toml:5): expected true or false",
        "modle (my.toml:6): there is no such setting; did you mean model?",
        "model.layers = 0 (my.toml:9): expected a value >= 1",
        "model.kind: is needed and was not given; expected a text",
        "train.paths = 3 (command line): expected a list, each entry a text",
        "steps (command line): there is no such setting; did you mean train.steps?",
    ):
        assert line in message, message
    assert "pydantic" not in message


def test_missing_and_refused_by_the_class_itself() -> None:
    with pytest.raises(SettingsError) as caught:
        load(Settings)
    assert "model: is needed and was not given; expected a table with the keys kind, layers" in mistakes(caught.value)
    with pytest.raises(SettingsError) as caught:
        load(Settings, overrides=["model.layers=1"])
    assert "model.kind: is needed" in mistakes(caught.value)
    with pytest.raises(SettingsError) as caught:
        load(Settings, overrides=["model.kind=forbidden"])
    assert "this kind is forbidden" in mistakes(caught.value)


def test_messages_in_chinese(chinese: None) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Settings, overrides=["model.kind=x", "train.stepz=1", "model.cache=5", "train.rate=x"])
    message = mistakes(caught.value)
    assert "train.stepz（command line）：没有这项设置；您是不是要写 train.steps？" in message
    assert "model.cache = 5（command line）：应为路径或none" in message
    assert 'train.rate = "x"（command line）：应为数' in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=1_000", Train(steps=1000)),
        ("train.rate=3", Train(rate=3.0)),
        ("train.precision=bf16", Train(precision="bf16")),
        ('train.precision="bf16"', Train(precision="bf16")),
        ("train.budget=3m", Train(budget="3m")),
        ("train.budget=500", Train(budget="500")),
        ("train.budget=500 steps", Train(budget="500 steps")),
        ("train.budget=none", Train(budget=None)),
        ("train.budget=a=b", Train(budget="a=b")),
        ("train.compile=true", Train(compile=True)),
        ("train.paths=['a', \"b\"]", Train(paths=("a", "b"))),
        (" train.steps = 5", Train(steps=5)),
    ],
)
def test_overrides(override: str, expected: Train) -> None:
    assert load(Settings, overrides=["model.kind=x", override]).value.train == expected


@pytest.mark.parametrize("override", ["train.steps", "=5", "train..steps=1", ".=1"])
def test_malformed_overrides(override: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Settings, overrides=[override])
    assert caught.value.id == "core.override_malformed"
    assert override in str(caught.value)


@pytest.mark.parametrize("override", ["train=5", "train.steps.more=5", "train.steps=1.5", "train.steps='5'"])
def test_overrides_of_the_wrong_shape(override: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(Settings, overrides=["model.kind=x", override])
    assert "train" in mistakes(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    latin, broken = tmp_path / "latin.toml", tmp_path / "broken.toml"
    latin.write_bytes(b'name = "\xe9"')
    broken.write_text("[train]\nsteps = = 5\n", "utf-8")
    for path, id in (
        (missing, "core.settings_file_not_found"),
        (latin, "core.settings_file_not_utf8"),
        (broken, "core.settings_not_toml"),
        (tmp_path, "core.settings_file_unreadable"),
    ):
        with pytest.raises(SettingsError) as caught:
            load(Settings, file=path)
        assert caught.value.id == id
        assert str(path) in str(caught.value)
    assert "line 2" in str(_raised(broken))


def _raised(path: Path) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(Settings, file=path)
    return caught.value


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b'\xef\xbb\xbf[model]\nkind = "x"\n')
    assert load(Settings, file=path).value.model.kind == "x"


def test_unknown_preset_names_the_nearest(preset: None) -> None:
    with pytest.raises(SettingsError, match=r"did you mean tiny\?"):
        load(Settings, preset="tyni")


def test_presets_that_come_with_wenlu_are_toml() -> None:
    for name in presets():
        content = (resources.files("wenlu") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
        assert tomllib.loads(content)


def test_decode_names_its_source() -> None:
    assert decode(Train, {"steps": 5, "paths": ["a"]}, where="state.json") == Train(steps=5, paths=("a",))
    with pytest.raises(SettingsError, match=r"steps = \"5\" \(state.json\): expected a whole number"):
        decode(Train, {"steps": "5"}, where="state.json")


def test_unused_setting_and_what_was_changed() -> None:
    train = Train(steps=5, paths=("a",))
    assert changed(train, "train", ["steps", "rate", "paths"]) == {"train.steps": 5, "train.paths": ("a",)}
    error = unused_setting("train.rate", 0.5, because=Notice("core.type_path"))
    assert isinstance(error, SettingsError)
    assert "train.rate has no effect here" in str(error)
    assert "0.5; a path" in str(error)
