"""``wenlu``: the table of verbs. A verb's module is imported when it is asked for."""

from __future__ import annotations

import click

from wenlu.cli.parsing import LazyGroup, Option

TOKENIZER = {
    "train": "wenlu.cli.commands.tokenizer_train",
    "inspect": "wenlu.cli.commands.tokenizer_inspect",
    "compare": "wenlu.cli.commands.tokenizer_compare",
}
DATA = {
    "inspect": "wenlu.cli.commands.data_inspect",
    "pack": "wenlu.cli.commands.data_pack",
    "fetch": "wenlu.cli.commands.data_fetch",
}
VERBS = {
    "demo": "wenlu.cli.commands.demo",
    "tokenizer": "wenlu.cli.main:tokenizer_group",
    "data": "wenlu.cli.main:data_group",
    "plan": "wenlu.cli.commands.plan",
    "train": "wenlu.cli.commands.train",
    "evaluate": "wenlu.cli.commands.evaluate",
    "compare": "wenlu.cli.commands.compare",
    "score": "wenlu.cli.commands.score",
    "generate": "wenlu.cli.commands.generate",
    "fill": "wenlu.cli.commands.fill",
    "embed": "wenlu.cli.commands.embed",
    "mix": "wenlu.cli.commands.mix",
    "import": "wenlu.cli.commands.import_",
    "export": "wenlu.cli.commands.export",
    "parity": "wenlu.cli.commands.parity",
    "describe": "wenlu.cli.commands.describe",
    "doctor": "wenlu.cli.commands.doctor",
}


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from wenlu.core.version import __version__

        click.echo(f"wenlu {__version__}")
        ctx.exit(0)


tokenizer_group = LazyGroup("tokenizer", TOKENIZER, verb="tokenizer")
data_group = LazyGroup("data", DATA, verb="data")
main = LazyGroup("wenlu", VERBS, verb="wenlu")
main.params.append(
    Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_show_version,
        help_id="cli.option_version",
    )
)
