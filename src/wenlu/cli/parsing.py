"""Commands, options and groups whose texts come from the catalogue and whose usage errors are ours.

The signature of a verb's function declares what the verb takes, see ``parameters``. Help texts have the ids
``help.<verb>.summary`` and ``help.<verb>.<option>``; they are looked up when the help is shown, so that the reader's
language decides. A group knows its verbs from a table and imports only the one that was asked for.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click

from wenlu.core.errors import RequestError, SettingsError, WenluError
from wenlu.core.messages import text
from wenlu.core.plugins import closest

F = TypeVar("F", bound=Callable[..., object])
JSON_KEY = "wenlu.json"
TOKENIZER_KINDS = click.Choice(["bpe", "wordpiece", "unigram", "words", "characters"])

# What several verbs take: the type, and how the help shows it.
Device = Literal["auto", "cpu", "cuda"]
Split = Literal["train", "validation", "test"]
Words = tuple[str, ...]
Paths = Annotated[Words, "PATH"]
File = Annotated[str | None, "FILE"]
ModelName = Annotated[str | None, "MODEL"]
Target = Annotated[str, "-o", "--output", "TARGET"]
Overrides = Annotated[Words, "--set", "KEY=VALUE"]


class _Described(click.Parameter):
    """A parameter whose help is the first of ``help_ids`` that the catalogue has."""

    def __init__(self, *args: Any, help_ids: Sequence[str], **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.help_ids = help_ids

    @property
    def described(self) -> str:
        """Its help, in the reader's language."""
        for id in self.help_ids[:-1]:
            with suppress(KeyError):
                return text(id)
        return text(self.help_ids[-1])

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
        words = [self.described]
        if self.required:
            words.append(text("cli.option_required"))
        elif isinstance(self.default, str | int | float) and not isinstance(self.default, bool):
            words.append(text("cli.option_default", value=self.default))
        return record[0], " ".join(words)


class Argument(_Described, click.Argument):
    """A positional argument."""


class Command(click.Command):
    """A verb, or a group of them: help pages, usage errors and exit codes in Wenlu's own words."""

    def __init__(self, name: str, *, verb: str, **attrs: Any) -> None:
        super().__init__(name, context_settings={"help_option_names": []}, add_help_option=False, **attrs)
        self.verb = verb
        self.params.append(telling("-h", "--help", say=click.Context.get_help))

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
        arguments = [(param.make_metavar(ctx), param.described) for param in self.params if isinstance(param, Argument)]
        self.write_section(formatter, "cli.arguments", arguments)
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

        call = functools.partial(super().main, *args, **{**extra, "standalone_mode": False})
        leave(args[0] if args else extra.get("args"), call)


class LazyGroup(Command, click.Group):
    """A group that imports a verb's module when it is asked for; the table has module names, or groups, by verb."""

    def __init__(self, name: str, table: Mapping[str, str | LazyGroup]) -> None:
        super().__init__(name, verb=name, no_args_is_help=False)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb's module and take its ``command``."""
        if name not in self.table:
            return None
        entry = self.table[name]
        command = importlib.import_module(entry).command if isinstance(entry, str) else entry
        assert isinstance(command, Command), f"{entry} must define a command"
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
        return super().parse_args(ctx, args or ["--help"])

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help page with one line a verb; no verb is imported for it."""
        super().format_help(ctx, formatter)
        modules = {name: entry if isinstance(entry, str) else name for name, entry in self.table.items()}
        rows = [(name, text(f"help.{module.rpartition('.')[2]}.summary")) for name, module in modules.items()]
        self.write_section(formatter, "cli.commands", rows)


def parameters(function: Callable[..., object], verbs: Sequence[str]) -> list[click.Parameter]:
    """What a verb takes, by the signature of its function: arguments, then options, which are keyword-only.

    What has no default is required; a tuple is taken several times, a ``Literal`` is a choice, a bool a flag. Words in
    ``Annotated`` that begin with ``-`` are an option's names, where it is not called as its parameter is; another word
    is what the help calls its value; a type of click goes before Python's. ``values`` are the options of ``option``.
    The help is that of the first of ``verbs`` that has one of this name.
    """
    settings = reversed(getattr(function, "__click_params__", []))
    found: list[click.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        found += settings if parameter.name == "values" else [_declared(parameter, verbs)]
    return found


def _declared(parameter: inspect.Parameter, verbs: Sequence[str]) -> click.Parameter:
    kind, *details = get_args(parameter.annotation) if _is(parameter.annotation, Annotated) else [parameter.annotation]
    if _is(kind, Union, UnionType):
        [kind] = set(get_args(kind)) - {NoneType}
    words = [word for word in details if isinstance(word, str)]
    attrs: dict[str, Any] = {"metavar": next((word for word in words if not word.startswith("-")), None)}
    types = [detail for detail in details if isinstance(detail, click.ParamType)]
    if _is(kind, Literal):
        types = [click.Choice(get_args(kind))]
    attrs["type"] = types[0] if types else get_args(kind)[0] if _is(kind, tuple) else kind
    if parameter.default not in (None, (), parameter.empty):
        attrs["default"] = parameter.default
    attrs["required"] = parameter.default is parameter.empty
    if parameter.kind is not parameter.KEYWORD_ONLY:
        ids = [f"help.{verb}.{parameter.name}" for verb in verbs]
        return Argument([parameter.name], nargs=-1 if _is(kind, tuple) else 1, help_ids=ids, **attrs)
    names = [word for word in words if word.startswith("-")] or [f"--{parameter.name.replace('_', '-')}"]
    ids = [_help_id(verb, names) for verb in verbs]
    return Option([parameter.name, *names], multiple=_is(kind, tuple), is_flag=kind is bool, help_ids=ids, **attrs)


def _is(kind: object, *origins: object) -> bool:
    return get_origin(kind) in origins


def _help_id(verb: str, names: Sequence[str]) -> str:
    """Named after the first ``--long-name``."""
    long = next(name for name in names if name.startswith("--"))
    return f"help.{verb}.{long.split('/')[0].lstrip('-').replace('-', '_')}"


def option(verb: str, *names: str, **attrs: Any) -> Callable[[F], F]:
    """Decorator: an option that is not in the signature; the verb gets it in its ``values``, if it is given.

    There it is called as its parameter, or by the dotted key of a ``setting`` (``"data.encoding"``).
    """
    return click.option(*names, cls=Option, help_ids=[_help_id(verb, names)], **attrs)


def telling(*names: str, say: Callable[[click.Context], str]) -> Option:
    """An option that says something instead of running the command."""

    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(say(ctx))
            ctx.exit(0)

    ids = [f"cli.option_{names[-1].lstrip('-')}"]
    return Option(names, is_flag=True, expose_value=False, is_eager=True, callback=show, help_ids=ids)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""
    return lambda function: functools.reduce(lambda done, option: option(done), reversed(options), function)


reading_options = together(
    option("reading", "--document", setting="data.document", type=click.Choice(["auto", "file", "blank_line", "line"])),
    option("reading", "--text-field", setting="data.text_field"),
    option("reading", "--encoding", setting="data.encoding"),
)
"""How texts are read, as settings of ``[data]``."""


def take_values(arguments: dict[str, object], wanted: Mapping[str, object]) -> dict[str, object]:
    """Take out of a command's arguments what its function has no parameter for: those that were given, by setting."""
    params = {param.name or "": param for param in click.get_current_context().command.params}
    found = {}
    for name in [name for name in arguments if name not in wanted]:
        value = arguments.pop(name)
        if value is not None and value is not False and value != ():
            found[getattr(params[name], "setting", None) or name] = value
    return found


def text_argument(given: str) -> str:
    """The argument itself, or for ``-`` everything on standard input but the last line end, read as UTF-8.

    Raises:
        RequestError: ``generation.input_not_utf8``.
    """
    if given != "-":
        return given
    raw = sys.stdin.buffer.read()
    try:
        read = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"0x{raw[error.start]:02X}"
        raise RequestError("generation.input_not_utf8", position=error.start, found=found) from error
    return read.removesuffix("\n").removesuffix("\r")


def text_arguments(given: Sequence[str], file: str | None, **reading: str | None) -> list[str]:
    """The arguments; or for a single ``-`` the lines of standard input, or those of a file, empty ones too.

    ``reading`` says how a file is read (see ``data.documents.read_rows``).

    Raises:
        RequestError: ``generation.no_texts``, ``generation.texts_twice``; ``generation.input_not_utf8``.
        SettingsError: ``generation.no_file`` for a way of reading without a file.
        DataError: the file cannot be read.
    """
    if given and file is not None:
        raise RequestError("generation.texts_twice", file=file)
    chosen = {name: value for name, value in reading.items() if value is not None}
    texts = list(given)
    if file is not None:
        from wenlu.data.documents import read_rows

        texts = list(read_rows(file, **chosen))
    elif chosen:
        raise SettingsError("generation.no_file", names=", ".join(f"--{name.replace('_', '-')}" for name in chosen))
    elif texts == ["-"]:
        read = text_argument("-")
        texts = [line.removesuffix("\r") for line in read.split("\n")] if read else []
    if not texts:
        raise RequestError("generation.no_texts")
    return texts


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


def _name_of(param: click.Parameter) -> str:
    return param.opts[-1] if isinstance(param, click.Option) else param.human_readable_name


def _expected(kind: click.types.ParamType[Any]) -> str:
    """What a parameter takes, in the reader's language: a range, a number, a word."""
    if isinstance(kind, click.IntRange | click.FloatRange):
        low = "" if kind.min is None else f"{kind.min} {'<' if kind.min_open else '<='} "
        high = "" if kind.max is None else f" {'<' if kind.max_open else '<='} {kind.max}"
        return f"{low}x{high}"
    return text(f"cli.type_{kind.name}") if kind.name in ("integer", "float", "boolean") else kind.name
