"""``wenlu generate PROMPT``: continue a text, on the terminal as it comes."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import click

from wenlu.cli import output
from wenlu.cli.parsing import Device, ModelName, option, text_argument
from wenlu.core.errors import SettingsError
from wenlu.core.log import notice
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.bundle import Bundle
    from wenlu.generation.settings import GenerationSettings
    from wenlu.generation.text import Completion, Prompt


@output.command("generate")
@option("generate", "--max-new-tokens", type=int)
@option("generate", "--max-length", type=int)
@option("generate", "--min-new-tokens", type=int)
@option("generate", "--greedy", is_flag=True)
@option("generate", "--temperature", type=float)
@option("generate", "--top-k", type=int)
@option("generate", "--top-p", type=float)
@option("generate", "--min-p", type=float)
@option("generate", "--repetition-penalty", type=float)
@option("generate", "--presence-penalty", type=float)
@option("generate", "--frequency-penalty", type=float)
@option("generate", "--num-sequences", type=int)
@option("generate", "--stop", multiple=True, metavar="TEXT")
@option("generate", "--seed", type=int)
@option("generate", "--overlong", type=click.Choice(["error", "cut"]))
def command(
    prompt: str,
    *,
    model: ModelName = None,
    device: Device = "auto",
    values: dict[str, object],
    no_echo: bool = False,
    chat: bool = False,
    system: Annotated[str | None, "TEXT"] = None,
) -> None:
    """Load, continue (or, with ``--chat``, answer), print."""
    from wenlu.bundle import load_bundle
    from wenlu.generation.text import prepare, prepare_chat
    from wenlu.tokenization.chat import asked

    if system is not None and not chat:
        raise SettingsError("generation.system_without_chat")
    content = text_argument(prompt)
    bundle = load_bundle(model, device=device)
    settings = bundle.generation.replace(do_sample=False if values.pop("greedy", None) else None, **values)
    max_positions = bundle.language_model.max_positions
    if chat:
        conversation = asked(content, system=system)
        request = prepare_chat(bundle.tokenizer, conversation, settings, max_positions=max_positions)
    else:
        request = prepare(bundle.tokenizer, content, settings, max_positions=max_positions)
    started = time.perf_counter()
    completions = _continue(bundle, request, settings, echo=not (no_echo or chat))
    seconds = time.perf_counter() - started
    if output.wants_json():
        sequences = [
            {name: getattr(one, name) for name in ("text", "finish_reason", "stop")}
            | {"tokens": one.ids, "log_probs": one.log_probs}
            for one in completions
        ]
        read = {"prompt": request.text, "prompt_tokens": len(request.ids)}
        lost = {"dropped_prompt_tokens": request.dropped_tokens, "unknown_characters": request.unknown_characters}
        made = {"settings": asdict(settings), "seconds": seconds, "sequences": sequences}
        output.result({"model": str(bundle.path), **read, **lost, **made})
        return
    tokens = sum(len(completion.ids) for completion in completions)
    reasons = dict.fromkeys(text(f"generation.reason_{completion.finish_reason}") for completion in completions)
    rate = tokens / max(seconds, 1e-9)
    notice("generation.finished", tokens=tokens, seconds=seconds, rate=rate, reason=", ".join(reasons))


def _continue(bundle: Bundle, request: Prompt, settings: GenerationSettings, *, echo: bool) -> list[Completion]:
    """Generate; one sequence is printed as it comes, several when all are there, and with ``--json`` none."""
    from wenlu.generation.text import complete, stream_text

    prompt = request.text if echo else ""
    if settings.num_sequences > 1 or output.wants_json():
        completions = complete(bundle.language_model, bundle.tokenizer, request, settings)
        for number, completion in enumerate([] if output.wants_json() else completions, start=1):
            reason = text(f"generation.reason_{completion.finish_reason}")
            heading = text("generation.sequence", number=number, total=len(completions), reason=reason)
            output.stream(f"── {heading} ──\n{prompt}{completion.text}\n")
        return completions
    output.stream(prompt)
    finished = []
    for piece in stream_text(bundle.language_model, bundle.tokenizer, request, settings):
        output.stream(piece.text)
        finished += [piece.completion] if piece.completion is not None else []
    output.stream("\n")
    return finished
