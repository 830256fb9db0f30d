"""``wenlu generate PROMPT``: continue a text, on the terminal as it comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.cli.standard_input import text_argument
from wenlu.core.errors import SettingsError
from wenlu.core.log import notice
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.bundle import Bundle
    from wenlu.generation.settings import GenerationSettings
    from wenlu.generation.text import Completion, Prompt
    from wenlu.models.device import DeviceName


@output.command("generate")
@argument("generate", "prompt")
@option("generate", "--model", metavar="MODEL")
@option("generate", "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
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
@option("generate", "--no-echo", is_flag=True)
@option("generate", "--chat", is_flag=True)
@option("generate", "--system", metavar="TEXT")
@output.run
def command(
    prompt: str,
    model: str | None,
    device: DeviceName,
    greedy: bool,
    stop: tuple[str, ...],
    no_echo: bool,
    chat: bool,
    system: str | None,
    json_output: bool,
    **given: object,
) -> None:
    """Load, continue (or, with ``--chat``, answer), print."""
    from wenlu.bundle import load_bundle
    from wenlu.generation.text import prepare, prepare_chat
    from wenlu.tokenization.chat import asked

    if system is not None and not chat:
        raise SettingsError("generation.system_without_chat")
    content = text_argument(prompt)
    bundle = load_bundle(model, device=device)
    settings = bundle.generation.replace(do_sample=False if greedy else None, stop=stop or None, **given)
    max_positions = bundle.language_model.max_positions
    if chat:
        conversation = asked(content, system=system)
        request = prepare_chat(bundle.tokenizer, conversation, settings, max_positions=max_positions)
    else:
        request = prepare(bundle.tokenizer, content, settings, max_positions=max_positions)
    started = time.perf_counter()
    completions = _continue(bundle, request, settings, echo=not (no_echo or chat), quiet=json_output)
    seconds = time.perf_counter() - started
    if json_output:
        output.result(_record(bundle, request, settings, completions, seconds))
        return
    tokens = sum(len(completion.ids) for completion in completions)
    reasons = dict.fromkeys(text(f"generation.reason_{completion.finish_reason}") for completion in completions)
    rate = tokens / max(seconds, 1e-9)
    notice("generation.finished", tokens=tokens, seconds=seconds, rate=rate, reason=", ".join(reasons))


def _continue(
    bundle: Bundle, request: Prompt, settings: GenerationSettings, *, echo: bool, quiet: bool
) -> list[Completion]:
    """Generate; one sequence is printed as it comes, several when all are there."""
    from wenlu.generation.text import complete, stream_text

    prompt = request.text if echo else ""
    if quiet:
        return complete(bundle.language_model, bundle.tokenizer, request, settings)
    if settings.num_sequences == 1:
        output.stream(prompt)
        finished: list[Completion] = []
        for piece in stream_text(bundle.language_model, bundle.tokenizer, request, settings):
            output.stream(piece.text)
            if piece.completion is not None:
                finished.append(piece.completion)
        output.stream("\n")
        return finished
    completions = complete(bundle.language_model, bundle.tokenizer, request, settings)
    for number, completion in enumerate(completions, start=1):
        reason = text(f"generation.reason_{completion.finish_reason}")
        heading = text("generation.sequence", number=number, total=len(completions), reason=reason)
        output.stream(f"── {heading} ──\n{prompt}{completion.text}\n")
    return completions


def _record(
    bundle: Bundle, request: Prompt, settings: GenerationSettings, completions: list[Completion], seconds: float
) -> dict[str, object]:
    return {
        "model": str(bundle.path),
        "prompt": request.text,
        "prompt_tokens": len(request.ids),
        "dropped_prompt_tokens": request.dropped_tokens,
        "unknown_characters": request.unknown_characters,
        "settings": settings.as_record(),
        "seconds": seconds,
        "sequences": [
            {
                "text": completion.text,
                "finish_reason": completion.finish_reason,
                "stop": completion.stop,
                "tokens": completion.ids,
                "log_probs": completion.log_probs,
            }
            for completion in completions
        ],
    }
