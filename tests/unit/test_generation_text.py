"""Text around the engine: whole characters, stop strings, unknown characters, cut prompts."""

from __future__ import annotations

import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_language_model import ByteTokenizer, ScriptedModel
from wenlu.generation.settings import GenerationSettings
from wenlu.generation.text import Completion, StopMatcher, complete, prepare, stream_text

TOKENIZER = ByteTokenizer()
GREEDY = GenerationSettings(do_sample=False, max_new_tokens=60)


def say(text: str, *, prompt: str = "", settings: GenerationSettings = GREEDY) -> tuple[list[str], Completion]:
    """What a model that says ``text`` streams after the prompt."""
    prompt_ids = TOKENIZER.encode(prompt)
    model = ScriptedModel([0] * len(prompt_ids) + [*text.encode(), TOKENIZER.end_id], TOKENIZER.vocab_size)
    request = prepare(TOKENIZER, prompt, settings, max_positions=None)
    pieces = list(stream_text(model, TOKENIZER, request, settings))
    completion = pieces[-1].completion
    assert completion is not None
    assert "".join(piece.text for piece in pieces) == completion.text
    return [piece.text for piece in pieces], completion


def test_no_piece_holds_half_a_character() -> None:
    pieces, completion = say("汉字和🙂é.")
    assert [piece for piece in pieces if piece] == list("汉字和🙂é.")
    assert (completion.text, completion.finish_reason) == ("汉字和🙂é.", "end")
    assert completion.ids[-1] == TOKENIZER.end_id


@pytest.mark.parametrize("bound", [1, 2])
def test_a_bound_inside_a_character_shows_the_gap_at_the_end_only(bound: int) -> None:
    pieces, completion = say("汉字", settings=GREEDY.replace(max_new_tokens=3 + bound))
    assert completion.text == "汉�"
    assert completion.finish_reason == "length"
    assert all("�" not in piece for piece in pieces[:-1])


@pytest.mark.parametrize("stop", ["字典", "典", "🙂", "字典🙂"])
def test_stop_string_ends_the_text_before_it(stop: str) -> None:
    text = "汉字典🙂后"
    pieces, completion = say(text, settings=GREEDY.replace(stop=(stop,)))
    assert completion.text == text[: text.index(stop)]
    assert (completion.finish_reason, completion.stop) == ("stop", stop)
    assert len(completion.ids) == len(text[: text.index(stop) + len(stop)].encode())
    shown = list(itertools.accumulate(pieces))
    assert all(completion.text.startswith(part) for part in shown), "a part of the stop string was shown"


def test_a_stop_string_that_never_completes_is_shown_in_the_end() -> None:
    pieces, completion = say("one </s", settings=GREEDY.replace(stop=("</s>",)))
    assert (completion.text, completion.finish_reason, completion.stop) == ("one </s", "end", None)
    assert "<" not in "".join(pieces[:-1])


def test_a_stop_string_on_the_last_allowed_token_wins_over_the_length() -> None:
    _, completion = say("abcd", settings=GREEDY.replace(stop=("cd",), max_new_tokens=4))
    assert (completion.text, completion.finish_reason) == ("ab", "stop")


def test_stop_strings_wait_for_min_new_tokens() -> None:
    _, completion = say("a.b.c.d", settings=GREEDY.replace(stop=(".",), min_new_tokens=4))
    assert (completion.text, completion.finish_reason) == ("a.b.c", "stop")


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_matching_does_not_depend_on_the_pieces(text: str, stops: list[str], data: st.DataObject) -> None:
    def through(pieces: list[str]) -> tuple[str, str | None]:
        matcher = StopMatcher(stops)
        shown = ""
        for piece in pieces:
            shown += matcher.push(piece)
            assert not any(stop in shown for stop in stops)
            if matcher.found is not None:
                return shown, matcher.found
        return shown + matcher.finish(), None

    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
    shown, found = through([text[start:end] for start, end in itertools.pairwise(cuts)])
    assert (shown, found) == through(list(text)) == through([text])
    first = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)
    assert shown == (text if first is None else text[: first - len(found or "")])


def test_special_tokens_are_never_produced() -> None:
    model = ScriptedModel([TOKENIZER.unknown_id, 257, 65, TOKENIZER.end_id], TOKENIZER.vocab_size)
    request = prepare(TOKENIZER, "", GREEDY, max_positions=None)
    [completion] = complete(model, TOKENIZER, request, GREEDY)
    assert not {TOKENIZER.unknown_id, 257} & set(completion.ids)
    assert completion.finish_reason == "end"


def test_unknown_characters_are_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="wenlu"):
        request = prepare(TOKENIZER, "a\x07b\x01c\x07", GREEDY, max_positions=None)
    assert request.unknown_characters == ("\x07", "\x01")
    [record] = caplog.records
    assert "'\\x07' '\\x01'" in str(record.msg)


def test_nothing_is_said_when_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="wenlu"):
        prepare(TOKENIZER, "汉字", GREEDY, max_positions=100)
    assert not caplog.records


def test_a_cut_prompt_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    settings = GREEDY.replace(overlong="cut", max_new_tokens=4)
    with caplog.at_level(logging.WARNING, logger="wenlu"):
        request = prepare(TOKENIZER, "abcdefghijkl", settings, max_positions=10)
    assert request.dropped_tokens == 6
    [record] = caplog.records
    assert "6" in str(record.msg) and "10" in str(record.msg)
