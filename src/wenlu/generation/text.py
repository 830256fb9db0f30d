"""Text around the engine: a prompt becomes ids, new ids become text, piece by piece and never half a character."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from wenlu.core.log import warn
from wenlu.generation.engine import FinishReason, Room, room, stream
from wenlu.generation.settings import GenerationSettings
from wenlu.generation.stop_strings import StopMatcher
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
    unknown: dict[str, None] = {}
    if tokenizer.unknown_id is not None:
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id == tokenizer.unknown_id:
                unknown[text[start:end]] = None
    if unknown:
        shown = " ".join(repr(characters) for characters in list(unknown)[:20])
        warn("generation.unknown_characters", number=len(unknown), characters=shown)
    fit = _fit(encoding.ids, settings, max_positions)
    return Prompt(text, tuple(encoding.ids), fit.dropped, fit.new_tokens, tuple(unknown))


def prepare_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], settings: GenerationSettings, *, max_positions: int | None
) -> Prompt:
    """The prompt of a conversation, through the model's own chat template, up to where its answer begins.

    Raises:
        RequestError: there is no template, it refuses the messages, or the prompt does not fit (see ``engine.room``).
        CheckpointError: the template is broken or wants too much (see ``tokenization.chat``).
    """
    chat = encode_chat(tokenizer, messages)
    fit = _fit(chat.ids, settings, max_positions)
    return Prompt(chat.text, chat.ids, fit.dropped, fit.new_tokens, (), complete=True)


def _fit(ids: Sequence[int], settings: GenerationSettings, max_positions: int | None) -> Room:
    """What fits; what is cut is said in a warning."""
    fit = room(len(ids), settings, max_positions=max_positions)
    if fit.dropped:
        kept = len(ids) - fit.dropped
        warn("generation.prompt_cut", dropped=fit.dropped, kept=kept, max_positions=max_positions)
    return fit


def stream_text(
    model: LanguageModel, tokenizer: Tokenizer, prompt: Prompt, settings: GenerationSettings
) -> Iterator[Piece]:
    """Continue a prompt, piece by piece of text.

    A piece holds whole characters only and never a part of a stop string. Special tokens other than end tokens, and ids
    beyond the tokenizer's vocabulary, are never produced.
    """
    ends = frozenset(settings.end_token_ids or (tokenizer.end_id,))
    beyond = range(tokenizer.vocab_size, model.vocab_size)
    texts = [_Text(tokenizer, prompt.ids, settings) for _ in range(settings.num_sequences)]
    steps = stream(
        model,
        prompt.ids,
        settings,
        start_id=None if prompt.complete else tokenizer.context_id,
        end_ids=ends,
        suppressed={*tokenizer.special_ids, *beyond} - ends,
        stop=lambda sequence, token_id: texts[sequence].push(token_id),
    )
    for step in steps:
        text = texts[step.sequence]
        text.ids.append(step.token_id)
        text.log_probs.append(step.log_prob)
        reason = step.finish_reason
        if reason is not None:
            completion = text.finish(reason)
            yield Piece(step.sequence, text.take(), completion)
        elif piece := text.take():
            yield Piece(step.sequence, piece)


def complete(
    model: LanguageModel, tokenizer: Tokenizer, prompt: Prompt, settings: GenerationSettings
) -> list[Completion]:
    """All continuations of a prompt, finished."""
    finished: dict[int, Completion] = {}
    for piece in stream_text(model, tokenizer, prompt, settings):
        if piece.completion is not None:
            finished[piece.sequence] = piece.completion
    return [finished[number] for number in sorted(finished)]


@dataclass
class _Text:
    """The text of one sequence as it grows."""

    tokenizer: Tokenizer
    prompt_ids: Sequence[int]
    settings: GenerationSettings
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.decoder = self.tokenizer.stream()
        for token_id in self.prompt_ids[-_PRIMING_TOKENS:]:
            self.decoder.push(token_id)
        self.matcher = StopMatcher(self.settings.stop)
        self.pieces: list[str] = []
        self.taken = 0

    def push(self, token_id: int) -> bool:
        """Take in the next token; True when a stop string is complete."""
        armed = len(self.ids) >= self.settings.min_new_tokens
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
