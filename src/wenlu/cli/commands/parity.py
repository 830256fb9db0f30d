"""``wenlu parity A B``: how far two models are from computing the same; exit code 3 above a threshold."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from wenlu.cli import output
from wenlu.core.messages import text

DEFAULT_THRESHOLD = 1e-5


@output.command("parity")
def command(
    first: Annotated[str, "MODEL_A"], second: Annotated[str, "MODEL_B"], *, threshold: float = DEFAULT_THRESHOLD
) -> None:
    """Compare, print, and end with the gate's exit code where they differ."""
    from wenlu.core.errors import GateError, RequestError
    from wenlu.evaluation.parity import compare

    if not threshold >= 0:
        raise RequestError("evaluation.parity_threshold", found=threshold)
    parity = compare(first, second)
    rows = []
    for prompt in parity.prompts:
        numbers = prompt.tokens, f"{prompt.difference:.2e}", f"{100 * prompt.same_best:.0f}%"
        rows.append((prompt.text[:32].replace("\n", " "), *numbers))
    judged = {"first": first, "second": second, "found": parity.difference, "threshold": threshold}
    record = {**asdict(parity), "threshold": threshold, "within": parity.difference <= threshold}
    table = output.table("evaluation", ("prompt", "tokens", "parity", "same_best"), rows)
    output.result(record, text=text("evaluation.parity", **judged), table=table)
    if not parity.difference <= threshold:
        raise GateError("evaluation.parity_above", **judged)
