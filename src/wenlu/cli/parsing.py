"""Commands, options and groups whose texts come from the catalogue and whose usage errors are ours.

Help texts have the ids ``help.<verb>.summary`` and ``help.<verb>.<option>``; they are looked up when the help is shown,
so that the reader's language decides. A group knows its verbs from a table and imports only the one that was asked for.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from wenlu.core.errors import SettingsError, WenluError
from wenlu.core.messages import text
from wenlu.core.plugins import closest

F = TypeVar("F", bound=Callable[..., object])
JSON_KEY = "wenlu.json"
TOKENIZER_KINDS = click.Choice(["bpe", "wordpiece", "unigram", "words", "characters"])


class _Described(click.Parameter):
    """A parameter whose help is ``help_id`` of the catalogue."""

    def __init__(self, *args: Any, help_id: str, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.help_id = help_id

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """The value converted to the parameter's type, or a four-part error."""
        try:
            return super().type_cast_value(ctx, value)
        except click.BadParameter as error:
            kind = self.type
            expected = ", ".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else _expected(kind)
            found = {"name": _name_of(self), "value": value, "expected": expected}
            raise SettingsError("cli.bad_value", command=ctx.command_path, **found) from error


class Option(_Described, click.Option):
    """An option; it may stand for a setting, named by its dotted key."""

    def __init__(self, *args: Any, setting: str | None = None, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.setting = setting

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The two columns of the help page: the option's names, and its help with the default."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        words = [text(self.help_id)]
        if self.required:
            words.append(text("cli.option_required"))
        elif isinstance(self.default, str | int | float) and not isinstance(self.default, bool):
            words.append(text("cli.option_default", value=self.default))
        return record[0], " ".join(words)


class Argument(_Described, click.Argument):
    """A positional argument."""


class _Localized(click.Command):
    """What commands and groups share: help pages, usage errors and exit codes in Wenlu's own words."""

    verb: str = ""

    def __init__(self, *args: Any, verb: str, **attrs: Any) -> None:
        attrs.setdefault("context_settings", {"help_option_names": []})
        attrs["add_help_option"] = False
        super().__init__(*args, **attrs)
        self.verb = verb
        self.params.append(_help_option())

    def get_short_help_str(self, limit: int = 45) -> str:
        """The verb's one line."""
        return text(f"help.{self.verb}.summary")

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The line that shows how the command is called."""
        pieces = " ".join(self.collect_usage_pieces(ctx))
        formatter.write_usage(ctx.command_path, pieces, prefix=f"{text('cli.usage')} ")

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help page."""
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text(f"help.{self.verb}.summary"))
        arguments = [param for param in self.params if isinstance(param, Argument)]
        self.write_section(
            formatter, "cli.arguments", [(param.make_metavar(ctx), text(param.help_id)) for param in arguments]
        )
        records = [param.get_help_record(ctx) for param in self.params if isinstance(param, click.Option)]
        self.write_section(formatter, "cli.options", [record for record in records if record])

    @staticmethod
    def write_section(formatter: click.HelpFormatter, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """A headed two-column list, unless it is empty."""
        if rows:
            with formatter.section(text(title).rstrip(":：")):
                formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and refuse left-over words in our own words."""
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if rest and not isinstance(self, click.Group):
            words = " ".join(map(repr, rest))
            raise SettingsError("cli.extra_arguments", command=ctx.command_path, words=words, count=len(rest))
        return rest

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command and exit with its code; every expected error becomes one message on standard error."""
        from wenlu.cli.output import leave

        call: Callable[..., Any] = functools.partial(super().main, *args, **{**extra, "standalone_mode": False})
        if not extra.get("standalone_mode", True):
            return call()
        return leave(args[0] if args else extra.get("args"), call)


class Command(_Localized):
    """A verb."""


class LazyGroup(_Localized, click.Group):
    """A group that imports a verb's module when it is asked for; the table gives module names by verb."""

    def __init__(self, name: str, table: Mapping[str, str], *, verb: str, **attrs: Any) -> None:
        super().__init__(name, verb=verb, no_args_is_help=False, **attrs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb's module and take its ``command``."""
        if name not in self.table:
            return None
        module, _, attribute = self.table[name].partition(":")
        command = getattr(importlib.import_module(module), attribute or "command")
        assert isinstance(command, click.Command), f"{module} must define a click command"
        command.name = name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command named by the first word, or an error that names the nearest verb."""
        command = self.get_command(ctx, args[0])
        if command is None:
            near = closest(args[0], list(self.table))
            raise SettingsError("cli.unknown_verb", verb=args[0], command=ctx.command_path, suggestion=near)
        return args[0], command, args[1:]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; a group without a verb shows its help."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit(0)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help page with one line a verb; no verb is imported for it."""
        super().format_help(ctx, formatter)
        rows = [(name, text(f"help.{_verb_of(module)}.summary")) for name, module in self.table.items()]
        self.write_section(formatter, "cli.commands", rows)


def command(verb: str, **attrs: Any) -> Callable[[Callable[..., object]], Command]:
    """Decorator: a command with the help texts ``help.<verb>.…``; ``verb`` is the module's name (``data_inspect``)."""

    def wrap(function: Callable[..., object]) -> Command:
        made = click.command(verb, cls=Command, verb=verb, **attrs)(function)
        assert isinstance(made, Command)
        return made

    return wrap


def option(verb: str, *names: str, **attrs: Any) -> Callable[[F], F]:
    """Decorator: an option whose help is ``help.<verb>.<name>`` after the first ``--long-name``.

    With a ``setting`` (``"data.encoding"``) the command gets it in its ``values``, see ``given_settings``.
    """
    long = next(name for name in names if name.startswith("--"))
    name = long.split("/")[0].lstrip("-").replace("-", "_")
    return click.option(*names, cls=Option, help_id=f"help.{verb}.{name}", **attrs)


def argument(verb: str, name: str, **attrs: Any) -> Callable[[F], F]:
    """Decorator: a positional argument described by ``help.<verb>.<name>``."""
    return click.argument(name, cls=Argument, help_id=f"help.{verb}.{name}", **attrs)


def json_option(function: F) -> F:
    """Decorator: ``--json``, which every verb has."""
    return click.option("--json", "json_output", is_flag=True, cls=Option, help_id="cli.option_json")(function)


def reading_options(function: F) -> F:
    """Decorator: how texts are read, as settings of ``[data]``."""
    modes = click.Choice(["auto", "file", "blank_line", "line"])
    function = option("reading", "--encoding", setting="data.encoding")(function)
    function = option("reading", "--text-field", setting="data.text_field")(function)
    return option("reading", "--document", setting="data.document", type=modes)(function)


def given_settings(arguments: dict[str, object]) -> dict[str, object]:
    """Take the settings out of a command's arguments: the values of those that were given, by dotted key."""
    params = [param for param in click.get_current_context().command.params if isinstance(param, Option)]
    found = {param.setting: arguments.pop(param.name or "") for param in params if param.setting is not None}
    given = {key: value for key, value in found.items() if value is not None and value is not False and value != ()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def usage_error(error: click.ClickException) -> WenluError:
    """Click's error about how a command was called, in our own words."""
    context = getattr(error, "ctx", None)
    where = context.command_path if isinstance(context, click.Context) else "wenlu"
    if isinstance(error, click.NoSuchOption):
        known = [name for param in context.command.params for name in param.opts] if context else []
        near = closest(error.option_name, known)
        return SettingsError("cli.unknown_option", command=where, option=error.option_name, suggestion=near)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return SettingsError("cli.missing_parameter", command=where, name=_name_of(error.param))
    if isinstance(error, click.BadOptionUsage):
        return SettingsError("cli.option_value_missing", command=where, option=error.option_name)
    return SettingsError("cli.bad_usage", command=where, detail=error.format_message())


def _help_option() -> Option:
    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit(0)

    return Option(
        ["-h", "--help"], is_flag=True, expose_value=False, is_eager=True, callback=show, help_id="cli.option_help"
    )


def _name_of(param: click.Parameter) -> str:
    return param.opts[-1] if isinstance(param, click.Option) else param.human_readable_name


def _expected(kind: click.types.ParamType[Any]) -> str:
    """What a parameter takes, in the reader's language: a range, a number, a word."""
    if isinstance(kind, click.IntRange | click.FloatRange):
        low = "" if kind.min is None else f"{kind.min} {'<' if kind.min_open else '<='} "
        high = "" if kind.max is None else f" {'<' if kind.max_open else '<='} {kind.max}"
        return f"{low}x{high}"
    return text(f"cli.type_{kind.name}") if kind.name in ("integer", "float", "boolean") else kind.name


def _verb_of(module: str) -> str:
    """The verb whose help texts a table's entry has: the module's last name, or the group's attribute."""
    module, _, attribute = module.partition(":")
    return attribute.removesuffix("_group") if attribute else module.rpartition(".")[2]
