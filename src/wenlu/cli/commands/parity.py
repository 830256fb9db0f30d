"""``wenlu parity A B``: how far two models are from computing the same; exit code 3 above a threshold."""

from __future__ import annotations

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.core.messages import text

DEFAULT_THRESHOLD = 1e-5


@output.command("parity")
@argument("parity", "first", metavar="MODEL_A")
@argument("parity", "second", metavar="MODEL_B")
@option("parity", "--threshold", type=float, default=DEFAULT_THRESHOLD)
@output.run
def command(first: str, second: str, threshold: float) -> None:
    """Compare, print, and end with the gate's exit code where they differ."""
    from wenlu.core.errors import GateError, RequestError
    from wenlu.evaluation.parity import compare

    if not threshold >= 0:
        raise RequestError("evaluation.parity_threshold", found=threshold)
    parity = compare(first, second)
    columns = [text(f"evaluation.column_{name}") for name in ("prompt", "tokens", "parity", "same_best")]
    rows = [
        (
            prompt.text[:32].replace("\n", " "),
            prompt.tokens,
            f"{prompt.difference:.2e}",
            f"{100 * prompt.same_best:.0f}%",
        )
        for prompt in parity.prompts
    ]
    summary = text("evaluation.parity", first=first, second=second, found=parity.difference, threshold=threshold)
    record = {**parity.as_record(), "threshold": threshold, "within": parity.difference <= threshold}
    output.result(record, text=summary, table=output.table(columns, rows))
    if not parity.difference <= threshold:
        raise GateError(
            "evaluation.parity_above", first=first, second=second, found=parity.difference, threshold=threshold
        )
