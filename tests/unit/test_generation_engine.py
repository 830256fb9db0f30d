"""The engine: lengths, reasons to end, independence of sequences, cached equals recomputed."""

from __future__ import annotations

import pytest
import torch

from tiny_language_model import ScriptedModel, TinyModel
from wenlu.core.errors import NotFiniteError, RequestError
from wenlu.generation.engine import Room, room, stream
from wenlu.generation.settings import GenerationSettings
from whole_sequences import generate

END = 0
SAMPLED = GenerationSettings(temperature=1.0, top_p=1.0, max_new_tokens=12)
GREEDY = GenerationSettings(do_sample=False, max_new_tokens=12)


def without_cache(model: TinyModel, prompt: list[int], number: int) -> list[int]:
    """Greedy search that reads the whole text again for every token."""
    ids = [END, *prompt]
    for _ in range(number):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == END:
            break
    return ids[1 + len(prompt) :]


def test_greedy_equals_recomputing_everything() -> None:
    model = TinyModel(30, seed=1)
    [sequence] = generate(model, [3, 4, 5], GREEDY, start_id=END)
    assert sequence.ids == without_cache(model, [3, 4, 5], 12)
    assert model.calls[0] == (1, 4)


def test_only_new_tokens_are_read() -> None:
    model = TinyModel(30, seed=1)
    generate(model, [3, 4, 5], GREEDY.replace(max_new_tokens=4, min_new_tokens=4), start_id=END)
    assert model.calls == [(1, 4), (1, 1), (1, 1), (1, 1)]


def test_log_probs_are_the_models_own() -> None:
    model = TinyModel(30, seed=1)
    settings = SAMPLED.replace(temperature=0.3, top_k=5, repetition_penalty=1.3)
    [sequence] = generate(model, [7], settings, start_id=END)
    ids = torch.tensor([[END, 7, *sequence.ids]])
    expected = model(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None])[0, 1:, 0]
    assert torch.allclose(torch.tensor(sequence.log_probs, dtype=torch.float64), expected, atol=1e-5)


def test_a_sequence_does_not_depend_on_the_others() -> None:
    model = TinyModel(30, seed=2)
    several = generate(model, [1, 2], SAMPLED.replace(num_sequences=5), start_id=END)
    assert len({tuple(sequence.ids) for sequence in several}) == 5
    assert {sequence.finish_reason for sequence in several} == {"end", "length"}, (
        "sequences must end at different times"
    )
    for number in (1, 2, 3):
        fewer = generate(model, [1, 2], SAMPLED.replace(num_sequences=number), start_id=END)
        assert [sequence.ids for sequence in fewer] == [sequence.ids for sequence in several[:number]]


def test_seed_decides() -> None:
    model = TinyModel(30, seed=2)
    first, again, other = (generate(model, [1], SAMPLED.replace(seed=seed), start_id=END)[0].ids for seed in (1, 1, 2))
    assert first == again != other


def test_end_token_ends() -> None:
    [sequence] = generate(ScriptedModel([5, 6, END, 7], 10), [], GREEDY, start_id=END)
    assert (sequence.ids, sequence.finish_reason) == ([5, 6, END], "end")


def test_other_end_tokens_replace_the_start_token() -> None:
    settings = GREEDY.replace(end_token_ids=(6, 8))
    [sequence] = generate(ScriptedModel([5, END, 6, 7], 10), [], settings, start_id=END)
    assert (sequence.ids, sequence.finish_reason) == ([5, END, 6], "end")


def test_min_new_tokens_holds_the_end_back() -> None:
    [sequence] = generate(ScriptedModel([END] * 9, 10), [], GREEDY.replace(min_new_tokens=3), start_id=END)
    assert len(sequence.ids) == 4
    assert sequence.ids[3] == END
    assert END not in sequence.ids[:3]


def test_suppressed_ids_never_come_but_ends_do() -> None:
    [sequence] = generate(ScriptedModel([5, 5, END], 10), [], GREEDY, start_id=END, suppressed={5, END})
    assert 5 not in sequence.ids
    assert sequence.finish_reason == "end"


def test_stop_check_ends_its_sequence_alone() -> None:
    model = TinyModel(30, seed=2)
    settings = SAMPLED.replace(num_sequences=3, min_new_tokens=12)
    seen: list[tuple[int, int]] = []

    def stop(number: int, token_id: int) -> bool:
        seen.append((number, token_id))
        return number == 1 and sum(owner == 1 for owner, _ in seen) == 4

    sequences = generate(model, [], settings, start_id=END, stop=stop)
    assert [(len(item.ids), item.finish_reason) for item in sequences] == [(12, "length"), (4, "stop"), (12, "length")]
    assert [token_id for number, token_id in seen if number == 2] == sequences[2].ids


def test_max_length_counts_the_prompt() -> None:
    model = ScriptedModel([5] * 20, 10)
    settings = GenerationSettings(do_sample=False, max_length=8)
    [sequence] = generate(model, [1, 2, 3], settings, start_id=END)
    assert (len(sequence.ids), sequence.finish_reason) == (5, "length")
    with pytest.raises(RequestError) as caught:
        generate(model, [1] * 8, settings, start_id=END)
    assert caught.value.id == "generation.max_length_reached"


@pytest.mark.parametrize(
    ("prompt", "asked", "expected"),
    [
        (4, {"max_new_tokens": 6}, Room(0, 6)),
        (4, {"max_new_tokens": 6, "max_length": 7}, Room(0, 3)),
        (4, {}, Room(0, 6)),
        (9, {}, Room(0, 1)),
        (4, {"max_new_tokens": 7, "overlong": "cut"}, Room(1, 7)),
        (40, {"max_new_tokens": 3, "overlong": "cut"}, Room(33, 3)),
        (40, {"max_new_tokens": 10, "overlong": "cut"}, Room(40, 10)),
        (40, {"overlong": "cut"}, Room(35, 5)),
    ],
)
def test_room_in_a_model_of_ten_positions(prompt: int, asked: dict[str, object], expected: Room) -> None:
    settings = GenerationSettings(do_sample=False, **asked)
    assert room(prompt, settings, max_positions=10) == expected
    model = TinyModel(30, max_positions=10)  # asserts that it never reads more
    [sequence] = generate(model, [1] * prompt, settings.replace(min_new_tokens=expected.new_tokens), start_id=END)
    assert len(sequence.ids) == expected.new_tokens


@pytest.mark.parametrize(
    ("prompt", "asked", "problem", "numbers"),
    [
        (4, {"max_new_tokens": 7}, "generation.does_not_fit", ["4", "7", "10", "6"]),
        (10, {}, "generation.prompt_too_long", ["10"]),
        (12, {"max_new_tokens": 1}, "generation.prompt_too_long", ["12", "10"]),
        (2, {"max_new_tokens": 11, "overlong": "cut"}, "generation.longer_than_model", ["11", "10"]),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(
    prompt: int, asked: dict[str, object], problem: str, numbers: list[str]
) -> None:
    with pytest.raises(RequestError) as caught:
        room(prompt, GenerationSettings(**asked), max_positions=10)
    assert caught.value.id == problem
    assert all(number in str(caught.value) for number in numbers)


def test_unbounded_models_take_any_prompt() -> None:
    assert room(10_000, GenerationSettings(), max_positions=None) == Room(0, 128)


def test_the_mode_of_the_model_is_restored() -> None:
    model = TinyModel(30).train()
    steps = stream(model, [], GREEDY.replace(min_new_tokens=12), start_id=END)
    next(steps)
    assert not model.training
    assert torch.is_grad_enabled(), "a suspended generator must leave its caller's gradients on"
    steps.close()
    assert model.training


def test_logits_that_are_not_finite_are_refused() -> None:
    model = TinyModel(30)
    with torch.no_grad():
        model.output[0, 3] = torch.nan
    with pytest.raises(NotFiniteError) as caught:
        generate(model, [1], GREEDY, start_id=END)
    assert caught.value.id == "generation.not_finite"
