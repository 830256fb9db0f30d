"""Splitting texts into documents loses nothing and keeps the order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wenlu.data.corpora._rows import pages, paragraphs


@given(st.lists(st.text(min_size=1, max_size=60), max_size=40), st.integers(4, 100))
def test_pages_keep_every_block_in_order(blocks: list[str], characters: int) -> None:
    split = list(pages(blocks, characters=characters))
    assert [block for page in split for block in page] == blocks
    assert all(page for page in split)
    longest = max(map(len, blocks), default=0)
    assert all(sum(map(len, page)) <= characters * 3 // 2 + longest for page in split)
    assert all(sum(map(len, page)) >= characters // 4 for page in split[:-1])


@given(st.text(alphabet="ab \n\t文"))
def test_paragraphs_keep_every_character_that_is_not_blank(text: str) -> None:
    kept = "".join(paragraphs(text))
    assert "".join(kept.split()) == "".join(text.split())
