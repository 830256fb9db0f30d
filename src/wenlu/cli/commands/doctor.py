"""``wenlu doctor``: what this machine offers, and what will be slow on it, and why."""

from __future__ import annotations

from wenlu.cli import output
from wenlu.core.errors import EXIT_DONE, EXIT_GATE
from wenlu.core.messages import text


@output.command("doctor")
def command() -> int:
    """Look at the machine, measure, and list findings."""
    from wenlu.training.checkup import findings, gather_facts

    facts = gather_facts()
    lines, found = [], []
    for finding in findings(facts):
        said = text(f"doctor.{finding.id}", **finding.values)
        lines.append(f"{text(f'doctor.{finding.severity}')}: {said}")
        found.append({"id": finding.id, "severity": finding.severity, "text": said})
    rows = [
        (f"{text(f'doctor.table_{table}')}: {name}", _shown(table, name, value))
        for table, values in facts.items()
        for name, value in values.items()
    ]
    output.result({**facts, "findings": found}, table=output.table("doctor", ("what", "found"), rows))
    if not output.wants_json():
        print("\n".join(lines) or text("doctor.nothing"))
    return EXIT_GATE if any(finding["severity"] == "broken" for finding in found) else EXIT_DONE


def _shown(table: str, name: str, value: object) -> str:
    """A value for people; what is missing says so."""
    if value is None:
        if name.startswith("wenlu["):
            return text("doctor.not_installed", command=f'pip install "{name}"')
        return text("doctor.unknown" if table in ("memory", "runs", "home") else "doctor.none")
    if isinstance(value, list):
        return ", ".join(value) or text("doctor.none")
    if isinstance(value, bool):
        return text("doctor.yes" if value else "doctor.no")
    if name == "sync_seconds" and isinstance(value, float):
        return f"{value * 1e3:.1f} ms"
    if name in ("total", "limit", "free") and isinstance(value, int):
        return f"{value / 1e6:,.0f} MB"
    if table == "speed" and isinstance(value, float):
        return f"{value:,.1f} {'GB/s' if name.startswith('copy') else 'GFLOP/s'}"
    return str(value)
