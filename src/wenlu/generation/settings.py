"""What a user may ask of generation, and its two forms on disk: our names and those of ``generation_config.json``."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from wenlu.core.errors import CheckpointError, SettingsError
from wenlu.core.gguf import SUFFIX as GGUF_SUFFIX
from wenlu.core.gguf import Header, read_header
from wenlu.core.log import warn

DEFAULT_NEW_TOKENS = 128
FILE_NAME = "generation_config.json"

# Fields whose values only a random draw reads; whoever gives one of them wants draws.
SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How a text is continued.

    ``max_new_tokens`` and ``max_length`` (which counts the prompt) both bound the length, the smaller one wins; with
    neither, ``DEFAULT_NEW_TOKENS`` does. ``temperature`` 0 means greedy, as in the public completion APIs. ``top_k`` 0,
    ``top_p`` 1, ``min_p`` 0, ``repetition_penalty`` 1 and the other penalties 0 are off. Before ``min_new_tokens``
    tokens neither an end token nor a stop string ends a text. ``end_token_ids``, when given, replace the tokenizer's
    end token. ``overlong`` says what happens to a prompt that leaves no room for what is asked.

    Raises:
        SettingsError: ``generation.invalid`` with everything that is out of range.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int = 0
    do_sample: bool = True
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    num_sequences: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0
    overlong: Literal["error", "cut"] = "error"
    end_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if problems := _problems(self):
            raise SettingsError("generation.invalid", problems="; ".join(problems))
        if self.greedy and self.num_sequences > 1:
            raise SettingsError("generation.greedy_several", number=self.num_sequences)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken each time."""
        return not self.do_sample or self.temperature == 0

    def replace(self, **given: object) -> GenerationSettings:
        """These settings with those that a user gave explicitly (None: not given).

        Raises:
            SettingsError: ``generation.unread`` when greedy search was asked together with a setting that only sampling
                reads; ``generation.invalid`` for values out of range.
        """
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        length = {"max_new_tokens", "max_length"}
        if length & changes.keys():  # a bound that is given replaces the model's bounds, it is not added to them
            changes = dict.fromkeys(length) | changes
        if changes.get("do_sample") is False or changes.get("temperature") == 0:
            if isinstance(number := changes.get("num_sequences"), int) and number > 1:
                raise SettingsError("generation.greedy_several", number=number)
            if unread := [name for name in SAMPLING_FIELDS if changes.get(name, 0) != 0]:
                raise SettingsError("generation.unread", names=", ".join(unread))
            changes |= {"do_sample": False, "num_sequences": 1}
        elif not self.do_sample and any(name in changes for name in SAMPLING_FIELDS):
            changes["do_sample"] = True
        return dataclasses.replace(self, **changes)  # the callers' options are typed


def _problems(settings: GenerationSettings) -> list[str]:
    """What is out of range, as ``name = value (range)``; a formula reads the same in every language."""
    checks = {
        "max_new_tokens": (settings.max_new_tokens is None or settings.max_new_tokens >= 1, "≥ 1"),
        "max_length": (settings.max_length is None or settings.max_length >= 1, "≥ 1"),
        "min_new_tokens": (settings.min_new_tokens >= 0, "≥ 0"),
        "temperature": (math.isfinite(settings.temperature) and settings.temperature >= 0, "≥ 0"),
        "top_k": (settings.top_k >= 0, "≥ 0"),
        "top_p": (0 < settings.top_p <= 1, "0 < top_p ≤ 1"),
        "min_p": (0 <= settings.min_p <= 1, "0 ≤ min_p ≤ 1"),
        "repetition_penalty": (math.isfinite(settings.repetition_penalty) and settings.repetition_penalty > 0, "> 0"),
        "presence_penalty": (math.isfinite(settings.presence_penalty), "-∞ < x < ∞"),
        "frequency_penalty": (math.isfinite(settings.frequency_penalty), "-∞ < x < ∞"),
        "num_sequences": (settings.num_sequences >= 1, "≥ 1"),
        "stop": (all(settings.stop), 'len(stop) ≥ 1, stop ≠ ""'),
        "overlong": (settings.overlong in ("error", "cut"), '"error" | "cut"'),
    }
    wrong = {name: allowed for name, (holds, allowed) in checks.items() if not holds}
    problems = [f"{name} = {getattr(settings, name)!r} ({allowed})" for name, allowed in wrong.items()]
    if (bound := settings.max_new_tokens) is not None and settings.min_new_tokens > bound:
        problems.append(f"min_new_tokens = {settings.min_new_tokens} (≤ max_new_tokens = {bound})")
    return problems


# Our name -> the name that Hugging Face's GenerationConfig gives the same thing. What it has no name for keeps ours and
# is written only when it is not the default, so that those libraries read the file without a remark.
_SAME_NAMES = ("max_new_tokens", "max_length", "min_new_tokens", "do_sample", *SAMPLING_FIELDS, "repetition_penalty")
HF_NAMES = {"num_sequences": "num_return_sequences", "stop": "stop_strings", "end_token_ids": "eos_token_id"}
HF_NAMES |= {name: name for name in _SAME_NAMES}
# Keys of such files that say nothing about how a text is continued, and values at which the others are switched off.
_SILENT_KEYS = {"transformers_version", "_from_model_config", "use_cache", "cache_implementation"}
_SILENT_KEYS |= {"bos_token_id", "pad_token_id"}
_OFF: tuple[object, ...] = (None, False, 0, 1, 1.0, [], {}, "")


def save(
    settings: GenerationSettings, folder: Path, *, end_id: int, pad_id: int | None = None, start_id: int | None = None
) -> None:
    """Write ``generation_config.json`` into a model directory; a greedy one has no sampling settings."""
    unread = (*SAMPLING_FIELDS, "seed") if settings.greedy else ()
    record: dict[str, object] = {}
    for field in dataclasses.fields(settings):
        value, known = getattr(settings, field.name), HF_NAMES.get(field.name)
        if field.name not in unread and value not in (None, ()) and (known or value != field.default):
            record[known or field.name] = list(value) if isinstance(value, tuple) else value
    record["do_sample"] = not settings.greedy
    record["eos_token_id"] = list(settings.end_token_ids) or end_id
    record["bos_token_id"] = end_id if start_id is None else start_id
    if pad_id is not None:
        record["pad_token_id"] = pad_id
    content = json.dumps(record, ensure_ascii=False, indent=2)
    (folder / FILE_NAME).write_text(content + "\n", encoding="utf-8")


def load(directory: Path) -> GenerationSettings:
    """Read ``generation_config.json`` of a model directory; what is silent there has our default.

    A setting that changes the text and that we do not have (beams, banned n-grams, ...) is named in a warning. Of a
    GGUF file, the defaults with all tokens that end a turn or a text.

    Raises:
        CheckpointError: ``generation.bad_file`` when it is not JSON of the right kind, or a value has a wrong type;
            ``core.gguf_*``.
        SettingsError: ``generation.invalid`` when a value is out of range.
    """
    if directory.suffix == GGUF_SUFFIX and directory.is_file():
        return GenerationSettings(end_token_ids=_end_tokens(read_header(directory)))
    path = directory / FILE_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return GenerationSettings()
    except (ValueError, OSError) as error:
        raise CheckpointError("generation.bad_file", where=str(path), found=str(error)) from error
    if not isinstance(record, dict):
        raise CheckpointError("generation.bad_file", where=str(path), found=type(record).__name__)
    names = {field.name: field.name for field in dataclasses.fields(GenerationSettings)}
    names |= {theirs: name for name, theirs in HF_NAMES.items()}
    given = {names[key]: value for key, value in record.items() if key in names and value is not None}
    values: dict[str, Any] = {name: _typed(name, value, where=str(path)) for name, value in given.items()}
    unknown = [key for key in record if key not in names and key not in _SILENT_KEYS and record[key] not in _OFF]
    if unknown:
        warn("generation.unsupported", where=str(path), names=", ".join(sorted(unknown)))
    return GenerationSettings(**values)


def _end_tokens(header: Header) -> tuple[int, ...]:
    """The ids of a GGUF file that end a text, a turn or a message; none where only the end of a text is named."""
    size, ids = len(header.values("tokenizer.ggml.tokens", str)), dict[int, None]()
    for key in (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")):
        if (id := header.integer(key)) is not None:
            if not 0 <= id < size:
                header.refuse(key, id, f"0 ... {size - 1}")
            ids[id] = None
    return tuple(ids) if len(ids) > 1 else ()


def _typed(name: str, value: object, *, where: str) -> object:
    """The value as the field of this name wants it: lists become tuples, a single end token or stop string a tuple."""
    default = getattr(GenerationSettings(), name)
    if isinstance(default, tuple):
        value = tuple(value) if isinstance(value, list) else (value,)
        kind: type = int if name == "end_token_ids" else str
        if all(isinstance(item, kind) and not isinstance(item, bool) for item in value):
            return value
    else:
        accepted = (int, float) if isinstance(default, float) else (int if default is None else type(default))
        if isinstance(value, accepted) and isinstance(value, bool) == isinstance(default, bool):
            return float(value) if isinstance(default, float) else value
    raise CheckpointError("generation.bad_file", where=f"{where}: {name}", found=repr(value))
