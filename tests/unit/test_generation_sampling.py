"""Samplers against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from wenlu.core.errors import SettingsError
from wenlu.generation.sampling import (
    Sampler,
    draw,
    filtered,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_counts,
    penalize_repetition,
)
from wenlu.generation.settings import GenerationSettings

INF = math.inf
CPU = torch.device("cpu")
PROBABILITIES = [0.5, 0.25, 0.15, 0.1]
LOGITS = torch.tensor([PROBABILITIES]).log()


def kept(logits: torch.Tensor) -> list[int]:
    return [index for index, value in enumerate(logits[0].tolist()) if value > -INF]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    logits = torch.tensor([[3.0, -2.0, 3.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalize_repetition(logits, seen, penalty=2.0).tolist() == [[1.5, -4.0, 3.0, -2.0]]


def test_count_penalties_follow_the_published_formula() -> None:
    logits, counts = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[0.0, 1.0, 3.0]])
    penalized = penalize_counts(logits, counts, presence=0.5, frequency=0.25)
    assert penalized.tolist() == [[1.0, 0.25, -0.25]]


@pytest.mark.parametrize(("k", "expected"), [(1, [0]), (2, [0, 1]), (9, [0, 1, 2, 3])])
def test_top_k(k: int, expected: list[int]) -> None:
    assert kept(keep_top_k(LOGITS, k)) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.01, [0]), (0.49, [0]), (0.51, [0, 1]), (0.74, [0, 1]), (0.76, [0, 1, 2]), (0.95, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p: float, expected: list[int]) -> None:
    assert kept(keep_top_p(LOGITS, p)) == expected


def test_top_p_sees_an_unsorted_distribution() -> None:
    assert kept(keep_top_p(torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log(), 0.7)) == [1, 3]


@pytest.mark.parametrize(
    ("probabilities", "p", "expected"),
    [([0.2] * 5, 0.5, [0, 1, 2]), ([0.1, 0.3, 0.3, 0.3], 0.5, [1, 2]), ([0.25, 0.1, 0.4, 0.25], 0.5, [0, 2])],
)
def test_top_p_keeps_the_smaller_ids_of_ties(probabilities: list[float], p: float, expected: list[int]) -> None:
    alone = torch.tensor([probabilities]).log()
    assert kept(keep_top_p(alone, p)) == expected
    distinct = torch.arange(len(probabilities), dtype=torch.float32)[None]
    both = keep_top_p(torch.cat([distinct, alone]), p)
    assert kept(both[1:]) == expected
    assert torch.equal(both[:1], keep_top_p(distinct, p))


@pytest.mark.parametrize(("p", "expected"), [(0.01, [0, 1, 2, 3]), (0.25, [0, 1, 2]), (0.4, [0, 1]), (1.0, [0])])
def test_min_p_compares_with_the_most_probable(p: float, expected: list[int]) -> None:
    assert kept(keep_min_p(LOGITS, p)) == expected


def test_filters_follow_one_another() -> None:
    settings = GenerationSettings(temperature=0.5, top_k=3, top_p=0.9)
    # At temperature 1/2 probabilities are squared: .25 .0625 .0225 .01; top-k leaves .746 .187 .067.
    assert kept(filtered(LOGITS, settings)) == [0, 1]
    assert torch.allclose(filtered(LOGITS, settings)[0, 0], LOGITS[0, 0] / 0.5)


@pytest.mark.parametrize(
    ("u", "expected"), [(0.0, 0), (0.4999, 0), (0.5001, 1), (0.7499, 1), (0.7501, 2), (0.9001, 3), (1 - 2**-53, 3)]
)
def test_draw_takes_the_quantile(u: float, expected: int) -> None:
    assert draw(LOGITS, torch.tensor([u], dtype=torch.float64)).tolist() == [expected]


def test_draw_never_takes_what_was_dropped() -> None:
    logits = torch.tensor([[-INF, 0.0, -INF, 0.0, -INF]])
    for u in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53):
        assert draw(logits, torch.tensor([u], dtype=torch.float64)).item() in (1, 3)


def test_draws_follow_the_distribution() -> None:
    """10,000 draws: each frequency within 4 standard deviations of its probability."""
    sampler = Sampler(GenerationSettings(temperature=1.0, top_p=1.0, seed=3), [], vocab_size=4, device=CPU)
    ids = [int(sampler.choose(LOGITS, sequences=[0], position=position)) for position in range(10_000)]
    for token_id, probability in enumerate(PROBABILITIES):
        deviation = math.sqrt(probability * (1 - probability) / len(ids))
        assert abs(ids.count(token_id) / len(ids) - probability) < 4 * deviation


def test_a_draw_depends_on_seed_sequence_and_position_alone() -> None:
    settings = GenerationSettings(num_sequences=4, temperature=1.0, top_p=1.0)
    logits = torch.zeros(1, 1000)

    def chosen(settings: GenerationSettings, sequences: list[int], position: int) -> list[int]:
        sampler = Sampler(settings, [], vocab_size=1000, device=CPU)
        return sampler.choose(logits.expand(len(sequences), -1), sequences=sequences, position=position).tolist()

    together = chosen(settings, [0, 1, 2, 3], 5)
    assert len(set(together)) > 1
    assert chosen(settings, [2], 5) == [together[2]]
    assert chosen(settings, [3, 1], 5) == [together[3], together[1]]
    assert chosen(settings, [0], 6) != [together[0]]
    assert chosen(settings.replace(seed=1), [0], 5) != [together[0]]


def test_penalties_count_prompt_and_continuation_as_defined() -> None:
    """The repetition penalty sees prompt and continuation, the other two the continuation alone."""
    repetition = Sampler(GenerationSettings(do_sample=False, repetition_penalty=4.0), [0], vocab_size=3, device=CPU)
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    assert [int(repetition.choose(logits, sequences=[0], position=index)) for index in range(3)] == [1, 2, 0]
    frequency = Sampler(GenerationSettings(do_sample=False, frequency_penalty=0.6), [0], vocab_size=3, device=CPU)
    assert [int(frequency.choose(logits, sequences=[0], position=index)) for index in range(4)] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": INF},
        {"frequency_penalty": math.nan},
        {"num_sequences": 0},
        {"max_new_tokens": 0},
        {"max_length": 0},
        {"min_new_tokens": -1},
        {"min_new_tokens": 5, "max_new_tokens": 4},
        {"stop": ("",)},
        {"overlong": "shorten"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as caught:
        GenerationSettings(**wrong)
    assert caught.value.id == "generation.invalid"
    assert next(iter(wrong)) in str(caught.value)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(SettingsError, match=r"(?s)temperature.*top_k.*top_p"):
        GenerationSettings(temperature=-1.0, top_k=-1, top_p=7.0)


def test_greedy_with_several_sequences_is_refused() -> None:
    for wrong in ({"do_sample": False}, {"temperature": 0.0}):
        with pytest.raises(SettingsError) as caught:
            GenerationSettings(num_sequences=2, **wrong)
        assert caught.value.id == "generation.greedy_several"


def test_replace_refuses_what_greedy_search_does_not_read() -> None:
    settings = GenerationSettings()
    assert settings.replace(do_sample=False, temperature=None).greedy
    assert settings.replace(temperature=0.0).greedy
    with pytest.raises(SettingsError, match="top_k"):
        settings.replace(do_sample=False, top_k=5)
    with pytest.raises(SettingsError, match="3"):
        settings.replace(do_sample=False, num_sequences=3)


def test_replace_takes_the_users_length_instead_of_the_models() -> None:
    settings = GenerationSettings(max_new_tokens=10)
    assert settings.replace(max_length=300).max_new_tokens is None
    assert settings.replace(top_k=3).max_new_tokens == 10
