"""Tag schemes: told apart, converted, refused by place."""

from __future__ import annotations

import random

import pytest

from wenlu.core.errors import DataError
from wenlu.data.tag_schemes import Scheme, Span, SpanScheme, detect, from_spans, spans, split, to_bio

SAME = {  # one sentence with adjacent spans, worked out by hand
    "BIO": ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC", "B-PER"],
    "IOB1": ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-LOC", "I-PER"],
    "BIOES": ["B-PER", "E-PER", "O", "S-LOC", "B-LOC", "E-LOC", "S-PER"],
}
SPANS = [Span(0, 2, "PER"), Span(3, 4, "LOC"), Span(4, 6, "LOC"), Span(6, 7, "PER")]


@pytest.mark.parametrize("scheme", ["BIO", "IOB1", "BIOES"])
def test_each_scheme_is_recognised_and_says_the_same(scheme: SpanScheme) -> None:
    assert detect([(["O"], "a:1"), (SAME[scheme], "a:2")]) == scheme
    assert spans(SAME[scheme], scheme) == SPANS
    assert to_bio(SAME[scheme], scheme) == SAME["BIO"]


def test_tags_are_made_of_spans() -> None:
    assert from_spans(SPANS, 7) == SAME["BIO"]
    assert from_spans(SPANS, 7, scheme="BIOES") == SAME["BIOES"]
    assert from_spans([Span(0, 1, ""), Span(1, 4, "")], 4, scheme="BIOES") == ["S", "B", "I", "E"]
    assert from_spans([], 2) == ["O", "O"]


def test_other_letters_and_separators_are_bioes() -> None:
    assert to_bio(["B-N", "M-N", "E-N", "S-N"], "BIOES") == ["B-N", "I-N", "I-N", "B-N"]
    assert to_bio(["B-N", "I-N", "L-N", "U-N"], detect([(["B-N", "L-N", "U-N"], "-")])) == ["B-N", "I-N", "I-N", "B-N"]
    assert to_bio(["B_N", "I_N"], "BIO") == ["B-N", "I-N"]
    segmented = ["B", "E", "S", "B", "M", "E"]
    assert detect([(segmented, "-")]) == "BIOES"
    assert spans(segmented, "BIOES") == [Span(0, 2, ""), Span(2, 3, ""), Span(3, 6, "")]
    assert to_bio(segmented, "BIOES") == ["B", "I", "B", "B", "I", "I"]


def test_parts_of_speech_are_plain() -> None:
    tags = ["NOUN", "I", "S", "B", "-LRB-", "LS", "O"]
    assert detect([(tags, "-")]) == "plain"
    assert to_bio(tags, "plain") == tags
    assert [split(tag) for tag in ("O", "B-PER", "I-PER.NOM", "B", "B-", "Bee")] == [
        ("O", ""),
        ("B", "PER"),
        ("I", "PER.NOM"),
        ("B", ""),
        ("", "B-"),
        ("", "Bee"),
    ]


def test_only_outside_tags_are_bio() -> None:
    assert detect([]) == detect([(["O", "O"], "-")]) == "BIO"


@pytest.mark.parametrize(
    ("scheme", "tags", "number"),
    [
        ("BIO", ["O", "I-PER"], 2),
        ("BIO", ["B-PER", "I-LOC"], 2),
        ("BIO", ["I-PER"], 1),
        ("BIO", ["B-PER", "E-PER"], 2),
        ("IOB1", ["O", "B-PER"], 2),
        ("IOB1", ["I-LOC", "B-PER"], 2),
        ("IOB1", ["S-PER"], 1),
        ("BIOES", ["B-PER", "O"], 2),
        ("BIOES", ["B-PER"], 2),
        ("BIOES", ["O", "E-PER"], 2),
        ("BIOES", ["B-PER", "E-LOC"], 2),
        ("BIOES", ["S-PER", "I-PER"], 2),
        ("BIOES", ["E-PER"], 1),
        ("BIOES", ["what"], 1),
    ],
)
def test_what_contradicts_a_scheme_is_refused_by_place(scheme: Scheme, tags: list[str], number: int) -> None:
    with pytest.raises(DataError) as caught:
        to_bio(tags, scheme, where="ner.conll:7")
    assert caught.value.id == "tags.inconsistent"
    assert f"ner.conll:7, token {number}" in str(caught.value) and scheme in str(caught.value)


def test_two_schemes_at_once_are_refused_with_both_places() -> None:
    with pytest.raises(DataError, match=r"(?s)only BIO has a:1, 1: B-PER; only IOB1 has a:2, 3: I-PER"):
        detect([(["B-PER", "O"], "a:1"), (["O", "O", "I-PER"], "a:2")])
    with pytest.raises(DataError, match=r"(?s)only BIO has a:1, 2: B-LOC; only IOB1 has a:1, 1: I-PER"):
        detect([(["I-PER", "B-LOC"], "a:1")])
    with pytest.raises(DataError, match=r"(?s)a:2, 1.*'PER' beside 'B-PER'"):
        detect([(["B-PER", "O"], "a:1"), (["PER"], "a:2")])


def test_random_spans_come_back_from_every_scheme() -> None:
    generator = random.Random(1)
    for _ in range(300):
        found, place = [], 0
        while place < 12:
            length = generator.randint(1, 3)
            if generator.random() < 0.6:
                found.append(Span(place, place + length, generator.choice(["A", "B"])))
            place += length
        bio = from_spans(found, 15)
        assert spans(bio) == spans(from_spans(found, 15, scheme="BIOES"), "BIOES") == found
        iob1 = [
            f"I{tag[1:]}" if tag[0] == "B" and (i == 0 or bio[i - 1][1:] != tag[1:]) else tag
            for i, tag in enumerate(bio)
        ]
        assert to_bio(iob1, "IOB1") == bio
