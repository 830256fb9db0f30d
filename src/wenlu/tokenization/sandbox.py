"""Running a chat template that nobody has vouched for: Jinja's sandbox, with bounds on work and memory.

Jinja's sandbox keeps a template away from Python's internals but lets it loop, double a string and fill a line without
end. Here every value that a template makes is paid for out of one budget, in units of a character or an item:

- A value is counted, with all that is in it, when it is made: literals, joined strings, slices, results of operators,
  filters, methods and macros, and every piece of output. So none is ever larger than the budget.
- What would make a large value in one step (``*``, ``%``, ``replace``, ``join``, ``indent``) is reckoned up before.
- Every turn of a loop and every comparison costs a unit, and at each payment the processor's time is looked at.
- Filters, functions and methods are those of the lists below and no others; other templates cannot be included.
"""

from __future__ import annotations

import functools
import json
import re
import string
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Literal, NoReturn, TypeVar, cast

from jinja2 import Template, TemplateError, nodes, pass_context, pass_environment
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent, do_round, do_sum, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

T = TypeVar("T")
MAX_CHARACTERS = 65_536
MAX_NODES = 6_000
"""How long a template may be, and how many expressions and statements it may have."""
SECONDS = 0.5
"""Of this thread's processor time, for one rendering."""
UNITS, UNITS_PER_INPUT = 400_000, 32
_INTEGER_BITS = 4096
# fmt: off
_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "format", "indent", "int", "items",
    "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse",
    "round", "safe", "select", "selectattr", "sort", "string", "sum", "title", "tojson", "trim", "unique", "upper",
)
_METHODS = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "format", "get", "index", "isalnum", "isalpha", "isascii",
    "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "items", "join", "keys", "lower",
    "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit",
    "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper", "values", "cycle", "changed",
})
# fmt: on
_MAKERS = (nodes.Concat, nodes.List, nodes.Tuple, nodes.Dict, nodes.Compare)
_FORBIDDEN = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.EvalContextModifier)
_METHOD_TYPES = (types.BuiltinMethodType, types.MethodType, types.MethodWrapperType)
# After a mapping key, which may hold anything, any wide number is refused. The atomic group keeps the search linear.
_WIDE_PERCENT = re.compile(r"%[^%a-zA-Z]*(?:\*|\d{4})|\A(?>.*?%\().*(?:\*|\d{4})", re.DOTALL)
_WIDE_BRACES = re.compile(r"\{|\d{4}")  # of what stands behind the colon of a field
_WIDEST = 100  # of an indentation, and digits of a rounding
_PAID, _COUNTED = "paid value", "counted items"  # filters that no template can name


class LimitError(TemplateError):
    """The template asks for more than it may."""


class RaisedError(TemplateError):
    """The template itself refuses the messages, with ``raise_exception``."""


class _Budget:
    """What is left of units and of processor time."""

    def __init__(self, units: int) -> None:
        self.units = units
        self.deadline = time.thread_time() + SECONDS

    def spend(self, units: int) -> None:
        self.units -= units
        if self.units < 0 or time.thread_time() > self.deadline:
            self.units = -1
            raise LimitError("memory" if time.thread_time() <= self.deadline else f"{SECONDS} s")


_budget: ContextVar[_Budget] = ContextVar("budget")


@functools.lru_cache(maxsize=16)
def compile_template(source: str) -> Template:
    """A template for ``render``.

    Raises:
        LimitError: it is too long or too deep.
        TemplateError: it is none, or needs what is not offered here.
    """
    if len(source) > MAX_CHARACTERS:
        raise LimitError(f"{len(source)} > {MAX_CHARACTERS}")
    return _protected(UNITS, lambda: _environment().from_string(source))


def render(template: Template, variables: Mapping[str, object]) -> str:
    """What a template makes of variables, which are plain data.

    Raises:
        RaisedError: it calls ``raise_exception``.
        LimitError, TemplateError: it does what it may not.
    """
    units = UNITS + UNITS_PER_INPUT * _size(variables, limit=1 << 40)
    return _protected(units, lambda: template.render(variables))


def _protected(units: int, work: Callable[[], T]) -> T:
    token = _budget.set(_Budget(units))
    try:
        return work()
    except TemplateError:
        raise
    except (RecursionError, MemoryError) as error:
        raise LimitError(type(error).__name__) from error
    except Exception as error:  # whatever Python says to a wrong operation inside the template
        raise TemplateError(f"{type(error).__name__}: {error}") from error
    finally:
        _budget.reset(token)


def _size(value: object, *, limit: int) -> int:
    """Characters and items of a value and of all that is in it; more than ``limit`` is not counted to the end."""
    total, waiting = 0, [value]
    while waiting and total <= limit:
        item = waiting.pop()
        total += 1
        if isinstance(item, str | bytes):
            total += len(item)
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset | type({}.keys()) | type({}.values()) | type({}.items())):
            waiting += item
    return total


def _pay(value: T) -> T:
    """The value, paid for; what comes one by one is paid for one by one."""
    budget = _budget.get()
    if isinstance(value, Iterator):
        return _paid_one_by_one(value)  # type: ignore[return-value]
    if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
        raise LimitError("integer")
    budget.spend(_size(value, limit=budget.units))
    return value


def _paid_one_by_one(values: Iterable[T]) -> Iterator[T]:
    for value in values:
        yield _pay(value)


def _counted(values: Iterable[T]) -> Iterator[T]:
    budget = _budget.get()
    for value in values:
        budget.spend(1)
        yield value


def _expect(units: int) -> None:
    """Refuse a value before it is made."""
    if units > _budget.get().units:
        raise LimitError("memory")


def _weight(*values: object) -> int:
    return _size(values, limit=_budget.get().units)


class _Paying(NodeTransformer):
    """Has every value paid for that neither an operator, a filter, a test nor a call makes."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if isinstance(node, _FORBIDDEN):
            raise SecurityError(type(node).__name__.lower())
        _budget.get().spend(UNITS // MAX_NODES)
        self.generic_visit(node)
        if isinstance(node, nodes.For):
            node.iter = _filter(node.iter, _COUNTED)
        elif isinstance(node, nodes.Output):
            node.nodes = [_filter(child, _PAID) for child in node.nodes]
        elif isinstance(node, _MAKERS) or (isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)):
            return _filter(node, _PAID) if getattr(node, "ctx", "load") == "load" else node
        return node


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, in which everything is paid for."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Paying().visit(tree)
        return tree

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        offered = attr in _METHODS or not isinstance(value, _METHOD_TYPES)
        return offered and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: object, attribute: str) -> NoReturn:
        raise SecurityError(f"{type(obj).__name__}.{attribute}")

    def getitem(self, obj: Any, argument: Any) -> Any:
        _budget.get().spend(1)
        return super().getitem(obj, argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        _budget.get().spend(1)
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if isinstance(method, types.BuiltinMethodType) and isinstance(owner, str):
            _check_search(owner, *args, *kwargs.values())
            if method.__name__ == "join":
                return _pay(_join(__self, args[0], owner))
            if method.__name__ == "replace":
                return _pay(_replace(owner, *args, **kwargs))
            if method.__name__ in ("format", "format_map"):
                _check_format("{", owner, args, kwargs)
        return _pay(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            _check_power(left, right)
        elif operator == "*":
            for times, repeated in ((left, right), (right, left)):
                if isinstance(times, int) and not isinstance(repeated, int | float):
                    _expect(times * _weight(repeated))
        elif operator == "%" and isinstance(left, str):
            _check_format("%", left, right)
        elif operator == "+":
            _expect(_weight(left, right))
        return _pay(super().call_binop(context, operator, left, right))


def _check_power(base: object, exponent: object) -> None:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > _INTEGER_BITS:
        raise LimitError("integer")


def _check_search(text: str, *sought: object) -> None:
    """Python looks backwards, and for characters to strip, in a time that is the product of both lengths."""
    longest = max((len(part) for part in sought if isinstance(part, str)), default=0)
    _expect(len(text) * longest // 100)


def _check_format(mark: Literal["%", "{"], text: str, *values: object) -> None:
    _expect(len(text) + text.count(mark) * (10 * _weight(values) + 1000))
    specifications = (spec or "" for _, _, spec, _ in string.Formatter().parse(text)) if mark == "{" else ()
    if any(map(_WIDE_BRACES.search, specifications)) or (mark == "%" and _WIDE_PERCENT.search(text)):
        raise LimitError("format")


def _join(
    environment: Environment, values: Iterable[object], d: object = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    pieces = [str(value) for value in _paid_one_by_one(values)]
    _expect(sum(map(len, pieces)) + len(pieces) * len(str(d)))
    return str(d).join(pieces)


def _replace(text: object, old: str, new: str, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    _expect(len(text) + text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _expect(len(text) + (len(text.splitlines()) + 1) * _indentation(width))
    return do_indent(text, width, first, blank)


def _indentation(width: int | str) -> int:
    return _bounded(len(width) if isinstance(width, str) else width, "indent")


def _bounded(size: int, what: str) -> int:
    if size > _WIDEST:
        raise LimitError(what)
    return size


def _format(text: object, *args: object, **kwargs: object) -> str:
    _check_format("%", str(text), args, kwargs)
    return str(text) % (kwargs or args)


def _trim(text: object, chars: str | None = None) -> str:
    _check_search(str(text), chars)
    return str(text).strip(chars)


def _round(value: float, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> float:
    _bounded(abs(precision), "round")
    return do_round(value, precision, method)


def _sum(
    environment: Environment, values: Iterable[Any], attribute: str | int | None = None, start: float = 0
) -> object:
    if not isinstance(start, int | float):
        raise LimitError("sum")
    return do_sum(environment, values, attribute, start)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: without HTML's escapes, and with json's own options."""
    _indentation(indent or 0)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return "".join(_paid_one_by_one(encoder.iterencode(value)))


def _strftime_now(format: str) -> str:
    _bounded(len(format), "strftime_now")
    return datetime.now().strftime(format)


def _raise_exception(message: object) -> NoReturn:
    raise RaisedError(str(message))


class _Namespace(Namespace):
    """A namespace whose printed form does not unfold, and that holds no names of Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        Namespace.__init__(args[0])
        for name, value in dict(*args[1:], **kwargs).items():
            args[0][name] = value

    def __setitem__(self, name: str, value: object) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"namespace.{name}")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


class _Generation(Extension):
    """``{% generation %}`` marks what an assistant says, for training; it changes nothing of the text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _guarded(function: Callable[..., object]) -> Callable[..., object]:
    """A filter or a test whose work and result are paid for; what Jinja hands in before its arguments stays."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> object:
        _budget.get().spend(1)
        return _pay(function(*args, **kwargs))

    return guarded


@functools.cache
def _environment() -> _Environment:
    made = _Environment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, loopcontrols], cache_size=0
    )
    filters: dict[str, Callable[..., Any]] = {**made.filters, "safe": str, "indent": _indent, "format": _format}
    filters |= {"replace": _replace, "round": _round, "tojson": _to_json, "trim": _trim}
    filters |= {"join": pass_environment(_join), "sum": pass_environment(_sum)}
    made.filters = {name: _guarded(filters[name]) for name in _FILTERS}
    made.filters |= {
        _PAID: pass_context(lambda context, value: _pay(value)),
        _COUNTED: pass_context(lambda context, values: _counted(values)),
    }
    made.tests = {name: _guarded(cast(Callable[..., object], test)) for name, test in made.tests.items()}
    made.globals = {
        "range": safe_range,
        "dict": lambda *args, **kwargs: dict(*args, **kwargs),
        "namespace": _Namespace,
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    return made
