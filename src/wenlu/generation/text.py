"""Text around the engine: a prompt becomes ids, new ids become text, piece by piece and never half a character."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wenlu.core.log import warn
from wenlu.generation.engine import FinishReason, Room, room, stream
from wenlu.generation.settings import GenerationSettings
from wenlu.models.config import LanguageModel
from wenlu.tokenization.chat import Message, encode_chat
from wenlu.tokenization.tokenizer import Tokenizer

# Tokens of the prompt that the decoder reads first: some tokenizers write a token differently at the start of a text.
_PRIMING_TOKENS = 8


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model gets it.

    ``dropped_tokens`` of ``ids`` are cut off at the start because they do not fit; at most ``new_tokens`` follow;
    ``unknown_characters`` are those that the tokenizer lacks, each once, in the order in which they come. What is
    ``complete`` begins as the model wants it; else the prompt is read as the beginning of a document.
    """

    text: str
    ids: tuple[int, ...]
    dropped_tokens: int
    new_tokens: int
    unknown_characters: tuple[str, ...]
    complete: bool = False


@dataclass(frozen=True)
class Completion:
    """One finished continuation: its text (without the prompt and the stop string), and the tokens it came from."""

    text: str
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: FinishReason
    stop: str | None


@dataclass(frozen=True)
class Piece:
    """Text that is certain by now, of one sequence; its last piece brings the completion."""

    sequence: int
    text: str
    completion: Completion | None = None


def prepare(tokenizer: Tokenizer, text: str, settings: GenerationSettings, *, max_positions: int | None) -> Prompt:
    """Encode a prompt and decide what fits; what is unknown or cut is said in a warning.

    Raises:
        RequestError: the prompt does not fit (see ``engine.room``).
    """
    encoding = tokenizer.encode_with_offsets(text, where="prompt")
    pairs = zip(encoding.ids, encoding.offsets, strict=True)
    unknown = tuple(dict.fromkeys(text[start:end] for id, (start, end) in pairs if id == tokenizer.unknown_id))
    if unknown:
        warn("generation.unknown_characters", number=len(unknown), characters=" ".join(map(repr, unknown[:20])))
    return Prompt(text, tuple(encoding.ids), *_fit(encoding.ids, settings, max_positions), unknown)


def prepare_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], settings: GenerationSettings, *, max_positions: int | None
) -> Prompt:
    """The prompt of a conversation, through the model's own chat template, up to where its answer begins.

    Raises:
        RequestError: there is no template, it refuses the messages, or the prompt does not fit (see ``engine.room``).
        CheckpointError: the template is broken or wants too much (see ``tokenization.chat``).
    """
    chat = encode_chat(tokenizer, messages)
    return Prompt(chat.text, chat.ids, *_fit(chat.ids, settings, max_positions), (), complete=True)


def _fit(ids: Sequence[int], settings: GenerationSettings, max_positions: int | None) -> Room:
    """What fits; what is cut is said in a warning."""
    fit = room(len(ids), settings, max_positions=max_positions)
    if fit.dropped:
        warn("generation.prompt_cut", dropped=fit.dropped, kept=len(ids) - fit.dropped, max_positions=max_positions)
    return fit


def stream_text(
    model: LanguageModel, tokenizer: Tokenizer, prompt: Prompt, settings: GenerationSettings
) -> Iterator[Piece]:
    """Continue a prompt, piece by piece of text.

    A piece holds whole characters only and never a part of a stop string. Special tokens other than end tokens, and ids
    beyond the tokenizer's vocabulary, are never produced.
    """
    texts = [_Text(tokenizer, prompt.ids, settings) for _ in range(settings.num_sequences)]
    start_id = None if prompt.complete else tokenizer.context_id
    ends = settings.end_token_ids or (tokenizer.end_id,)
    never = {*tokenizer.special_ids, *range(tokenizer.vocab_size, model.vocab_size)}  # but for ends

    def stop(number: int, token_id: int) -> bool:
        return texts[number].push(token_id)

    steps = stream(model, prompt.ids, settings, start_id=start_id, end_ids=ends, suppressed=never, stop=stop)
    for number, token_id, log_prob, reason in steps:
        text = texts[number]
        text.ids.append(token_id)
        text.log_probs.append(log_prob)
        completion = text.finish(reason) if reason is not None else None
        if (piece := text.take()) or completion is not None:
            yield Piece(number, piece, completion)


def complete(
    model: LanguageModel, tokenizer: Tokenizer, prompt: Prompt, settings: GenerationSettings
) -> list[Completion]:
    """All continuations of a prompt, finished."""
    pieces = stream_text(model, tokenizer, prompt, settings)
    finished = {piece.sequence: piece.completion for piece in pieces if piece.completion is not None}
    return [finished[number] for number in sorted(finished)]


class StopMatcher:
    """Lets text through up to the first stop string; ``found`` is that string once it came.

    The stop string that is complete first wins (of two that end together, the one that began first), so the result does
    not depend on how the text was cut into pieces. What is let through never contains a part of a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held = ""

    def push(self, piece: str, *, armed: bool = True) -> str:
        """The text that is certain by now; while not ``armed``, everything, and nothing of it counts for a match."""
        assert self.found is None, "the text has ended"
        held, self._held = self._held + piece, ""
        if not armed:
            return held
        matches = [(start + len(stop), start, stop) for stop in self.stops if (start := held.find(stop)) >= 0]
        if matches:
            _, start, self.found = min(matches)
            return held[:start]
        longest = max(map(len, self.stops), default=1) - 1
        ends = (held[-length:] for length in range(min(longest, len(held)), 0, -1))
        self._held = next((end for end in ends if any(stop.startswith(end) for stop in self.stops)), "")
        return held.removesuffix(self._held)

    def finish(self) -> str:
        """The text that was held back and turned out not to be a stop string."""
        held, self._held = self._held, ""
        return held


class _Text:
    """The text of one sequence as it grows."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], settings: GenerationSettings) -> None:
        self.decoder, self.matcher = tokenizer.stream(), StopMatcher(settings.stop)
        for token_id in prompt_ids[-_PRIMING_TOKENS:]:
            self.decoder.push(token_id)
        self.min_new_tokens = settings.min_new_tokens
        self.ids: list[int] = []
        self.log_probs: list[float] = []
        self.pieces: list[str] = []
        self.taken = 0

    def push(self, token_id: int) -> bool:
        """Take in the next token; True when a stop string is complete."""
        armed = len(self.ids) >= self.min_new_tokens
        self.pieces.append(self.matcher.push(self.decoder.push(token_id), armed=armed))
        return self.matcher.found is not None

    def take(self) -> str:
        """The text that came since the last call."""
        text = "".join(self.pieces[self.taken :])
        self.taken = len(self.pieces)
        return text

    def finish(self, reason: FinishReason) -> Completion:
        """End the text; what was held back is let through, unless a stop string is in it."""
        if self.matcher.found is None:
            self.pieces.append(self.matcher.push(self.decoder.finish()))
        if self.matcher.found is None:
            self.pieces.append(self.matcher.finish())
        else:
            reason = "stop"
        return Completion("".join(self.pieces), tuple(self.ids), tuple(self.log_probs), reason, self.matcher.found)
