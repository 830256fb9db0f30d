"""``wenlu score TEXT``: the probability of a text, in all and token by token."""

from __future__ import annotations

import math

from wenlu.cli import output
from wenlu.cli.parsing import Device, ModelName, text_argument
from wenlu.core.messages import text as message


@output.command("score")
def command(
    text: str,
    *,
    model: ModelName = None,
    device: Device = "auto",
    no_end: bool = False,
    context: int | None = None,
    stride: int | None = None,
) -> None:
    """Load, score, print."""
    from wenlu.evaluation.contestants import open_contestant
    from wenlu.evaluation.scoring import score_text

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
    rows = []
    for token in score.tokens:
        shown = f"{token.log_prob:.4f}", f"{100 * math.exp(token.log_prob):.4g}%"
        rows.append((f"{token.start}-{token.end}", repr(token.token)[1:-1], *shown))
    table = output.table("evaluation", ("position", "token", "log_prob", "probability"), rows)
    output.result(record, text="\n".join(lines), table=table)
