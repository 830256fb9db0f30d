"""``wenlu``: the table of verbs. A verb's module is imported when it is asked for."""

from __future__ import annotations

import click

from wenlu.cli.parsing import LazyGroup, Option


def _modules(group: str, *verbs: str) -> dict[str, str]:
    """The module of each verb of a group: its name; Python keeps ``import`` for itself."""
    return {verb: f"wenlu.cli.commands.{group}{'import_' if verb == 'import' else verb}" for verb in verbs}


TOKENIZER = _modules("tokenizer_", "train", "inspect", "compare")
DATA = _modules("data_", "inspect", "pack", "fetch")
VERBS = {
    **_modules("", "demo"),
    "tokenizer": "wenlu.cli.main:tokenizer_group",
    "data": "wenlu.cli.main:data_group",
    **_modules("", "plan", "train", "evaluate", "compare", "score", "generate", "fill", "embed", "mix"),
    **_modules("", "import", "export", "merge", "parity", "describe", "doctor"),
}


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from wenlu.core.version import __version__

        click.echo(f"wenlu {__version__}")
        ctx.exit(0)


tokenizer_group = LazyGroup("tokenizer", TOKENIZER, verb="tokenizer")
data_group = LazyGroup("data", DATA, verb="data")
main = LazyGroup("wenlu", VERBS, verb="wenlu")
version = Option(
    ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help_id="cli.option_version"
)
main.params.append(version)
