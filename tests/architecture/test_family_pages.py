"""The pages of the families are what the code draws today.

After an intended change: ``WENLU_UPDATE_DOCS=1 python -m pytest tests/architecture/test_family_pages.py``, look at the
difference, and commit the pages.
"""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from family_pages import CHOICES, NOT_SHOWN, blocks
from published_models import PUBLISHED
from wenlu.core import plugins
from wenlu.models.build import FAMILIES, family
from wenlu.models.config import StackConfig, TransformerConfig
from wenlu.models.families._transformer import TransformerFamily

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"(<!-- generated: ([\w ]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
LANGUAGES = ["en", "zh"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_drawings_and_tables_are_those_of_the_code(
    language: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WENLU_LANG", language)
    monkeypatch.chdir(tmp_path)  # where no run has the name of a kind
    path = DOCS / language / "families.md"
    made, page = blocks(language), path.read_text(encoding="utf-8")
    assert sorted(name for _, name, _ in BLOCK.findall(page)) == sorted(made)
    fresh = BLOCK.sub(lambda match: f"{match[1]}{made[match[2]]}\n{match[3]}", page)
    if os.environ.get("WENLU_UPDATE_DOCS"):
        path.write_text(fresh, encoding="utf-8")
        page = fresh
    pairs = zip(BLOCK.finditer(page), BLOCK.finditer(fresh), strict=True)
    stale = [ours[2] for ours, new in pairs if ours[0] != new[0]]
    assert not stale, "see the head of this file"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_family_has_a_section_with_words(language: str) -> None:
    page = (DOCS / language / "families.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `(\w+)`\n\n(.*?)(?=^## |\Z)", page, flags=re.DOTALL | re.MULTILINE))
    assert sorted(sections) == plugins.names(FAMILIES)
    for name, text in sections.items():
        words = BLOCK.sub("", text).strip()
        assert len(words) > 60 and f"<!-- generated: drawing {name} -->" in text, name


def test_every_family_of_transformers_has_a_published_model_and_every_choice_a_row() -> None:
    kinds = [name for name in plugins.names(FAMILIES) if isinstance(family(name), TransformerFamily)]
    assert sorted(one.kind for one in PUBLISHED) == kinds
    known = {field.name for cls in (StackConfig, TransformerConfig) for field in fields(cls)}
    assert set(CHOICES) == known - NOT_SHOWN
