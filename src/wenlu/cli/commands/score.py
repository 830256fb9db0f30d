"""``wenlu score TEXT``: the probability of a text, in all and token by token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.cli.standard_input import text_argument
from wenlu.core.messages import text as message

if TYPE_CHECKING:
    from wenlu.models.device import DeviceName


@output.command("score")
@argument("score", "text")
@option("score", "--model", metavar="MODEL")
@option("score", "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@option("score", "--no-end", is_flag=True)
@option("score", "--context", type=int, default=None)
@option("score", "--stride", type=int, default=None)
@output.run
def command(
    text: str, model: str | None, device: DeviceName, no_end: bool, context: int | None, stride: int | None
) -> None:
    """Load, score, print."""
    from wenlu.evaluation.contestants import open_contestant
    from wenlu.evaluation.text_score import score_text

    content = text_argument(text)
    contestant = open_contestant(model, device=device)
    windows = contestant.windows(context=context, stride=stride)
    score = score_text(contestant.model, contestant.bundle.tokenizer, content, windows=windows, count_end=not no_end)
    record = {"model": str(contestant.bundle.path), "text": content, **score.as_record()}
    record["windows"] = {"context": windows.context, "stride": windows.stride}
    lines = [message("evaluation.score_total", log_prob=score.log_prob, bits=score.bits, perplexity=score.perplexity)]
    if score.bits_per_byte is not None and score.bits_per_character is not None:
        rates = {"bits_per_byte": score.bits_per_byte, "bits_per_character": score.bits_per_character}
        lines.append(message("evaluation.score_rates", **rates))
    if not score.lossless:
        lines.append(message("evaluation.score_lossy"))
    columns = [message(f"evaluation.column_{name}") for name in ("position", "token", "log_prob", "probability")]
    rows = [
        (f"{token.start}-{token.end}", repr(token.token)[1:-1], f"{token.log_prob:.4f}", _percent(token.log_prob))
        for token in score.tokens
    ]
    output.result(record, text="\n".join(lines), table=output.table(columns, rows))


def _percent(log_prob: float) -> str:
    return f"{100 * math.exp(log_prob):.4g}%"
