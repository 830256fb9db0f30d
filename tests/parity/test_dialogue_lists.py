"""Our reader of dialogue lists against a full YAML parser."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wenlu.data.corpora._rows import Counts
from wenlu.data.corpora.dialogues import read_conversations

LIST = """categories:
- tests
conversations:
- - plain words
  - an answer, with a comma
- - 'it''s quoted'
  - "with \\"double\\" quotes and \\u6587"
- - a plain line that
    goes on here
  - |
    def f():
        return 1

    f()
- - 你好
  - '1963'
  - >-
    folded
    lines

    and a paragraph
"""


def read(text: str) -> list[list[str]]:
    counts = Counts()
    conversations = list(read_conversations(text, counts))
    assert not counts.dropped
    return conversations


def test_a_list_of_every_kind_of_text_is_read_as_yaml_reads_it() -> None:
    expected = [[str(line).strip() for line in lines] for lines in yaml.safe_load(LIST)["conversations"]]
    assert read(LIST) == expected


words = st.text(alphabet=st.sampled_from("abc 你好?!,.'\"-:#[]{}&*|>\\文é"), min_size=1, max_size=20).filter(
    lambda text: text.strip() != ""
)


@given(st.lists(st.lists(words.map(str.strip), min_size=2, max_size=4), min_size=1, max_size=4, unique_by=tuple))
@pytest.mark.parametrize("style", [None, "'", '"'])
def test_what_yaml_writes_is_read_back(style: str | None, conversations: list[list[str]]) -> None:
    written = yaml.safe_dump(
        {"conversations": conversations}, allow_unicode=True, default_style=style, width=10_000, sort_keys=False
    )
    listed = written.replace('"conversations"', "conversations").replace("'conversations'", "conversations")
    assert read(listed) == conversations
