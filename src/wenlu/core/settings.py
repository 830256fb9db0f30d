"""Settings: frozen dataclasses filled from defaults, a preset, a TOML file and the command line, in this order.

Each package keeps its settings as dataclasses beside the code that reads them; here they are decoded. All mistakes are
reported at once. Every value remembers where it came from, and ``to_toml`` writes that beside it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import operator
import tomllib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from wenlu.core.errors import SettingsError
from wenlu.core.log import Notice
from wenlu.core.plugins import closest
from wenlu.core.plugins import load as load_plugin
from wenlu.core.setting_types import Expected, all_keys, fields, leaves, plain, takes_none, type_at

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails
    from tomlkit import TOMLDocument
    from tomlkit.items import Table

T = TypeVar("T")
DEFAULT = "default"
COMMAND_LINE = "command line"
_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Resolved(Generic[T]):
    """Settings, and where each value came from: ``default``, ``preset NAME``, ``FILE:LINE`` or ``command line``."""

    value: T
    origins: Mapping[str, str]

    def rank(self, key: str) -> int:
        """Where a value's origin stands in the order of precedence: default, preset, file, command line."""
        origin = self.origins.get(key, DEFAULT)
        return next((rank for name, rank in _RANKS.items() if origin.startswith(name)), _FILE)

    def given(self, key: str) -> bool:
        """Whether the user said it, and not a preset."""
        return self.rank(key) >= _FILE


_FILE = 2  # which is known by its name only
_RANKS = {"default": 0, "preset": 1, "command line": 3}


class Mistakes(tuple[Notice, ...]):
    """Several mistakes as one value of an error message, a line each, in the reader's language."""

    def __str__(self) -> str:
        return str(self[0]) if len(self) == 1 else "".join(f"\n    - {notice}" for notice in self)


def load(
    cls: type[T],
    *,
    preset: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, object] | None = None,
) -> Resolved[T]:
    """Settings from all sources: defaults < preset < file < ``overrides`` (``train.steps=100``) and ``values``.

    ``values`` are options of the command line by dotted key; None means not given.

    Raises:
        SettingsError: ``core.settings_invalid`` with every mistake, or the source cannot be read.
    """
    merged: dict[str, object] = {}
    origins: dict[str, str] = {}
    if preset is not None:
        _merge(cls, merged, origins, _read_preset(preset), f"preset {preset}", {})
    if file is not None:
        content = _read_file(Path(file))
        _merge(cls, merged, origins, _parse(content, where=str(file)), Path(file).name, _line_numbers(content))
    said = [_parse_override(cls, override) for override in overrides]
    said += [_nest(key, value) for key, value in (values or {}).items() if value is not None]
    for data in said:
        _merge(cls, merged, origins, data, COMMAND_LINE, {})
    if (chosen := _narrowed(cls, merged)) is not cls:
        return load(chosen, preset=preset, file=file, overrides=overrides, values=values)
    decoded = decode(cls, merged, where=COMMAND_LINE, origins=origins)
    return Resolved(decoded, {key: origins.get(key, DEFAULT) for key in leaves(decoded)})


def _narrowed(cls: type[T], data: Mapping[str, object]) -> type[T]:
    """The class with the tables that a plugin's name chooses: a subclass whose field has the plugin's ``SETTINGS``.

    A settings class says ``PLUGIN_TABLES: ClassVar = {"task": "wenlu.tasks"}``: what the key ``name`` of its table
    ``task`` names is a module of that folder.

    Raises:
        SettingsError: ``core.unknown_plugin``.
    """
    tables: Mapping[str, str] = getattr(cls, "PLUGIN_TABLES", {})
    for table, package in tables.items():
        given = data.get(table)
        if isinstance(given, Mapping) and isinstance(name := given.get("name"), str):
            cls = cast(type[T], _with_table(cast(Hashable, cls), table, load_plugin(package, name).SETTINGS))
    return cls


@functools.cache
def _with_table(cls: type, table: str, chosen: type) -> type:
    """A subclass of a settings class, one of whose tables is of another class; the class itself if it is that one."""
    if fields(cls)[table] is chosen:
        return cls
    field = (table, chosen, dataclasses.field(default_factory=chosen))
    made = dataclasses.make_dataclass(cls.__name__, [field], bases=(cls,), frozen=True)
    made.__module__ = cls.__module__
    return made


def decode(cls: type[T], data: Mapping[str, object], *, where: str, origins: Mapping[str, str] | None = None) -> T:
    """Settings from a parsed table; messages name its source: ``where``, unless ``origins`` know better of a key.

    Raises:
        SettingsError: ``core.settings_invalid`` with every mistake.
    """
    from pydantic import ValidationError

    found: dict[str, Notice] = {}  # pydantic's findings in our own words, one a key
    try:
        return cast(T, _adapter(cast(Hashable, cls)).validate_json(json.dumps(data, default=_no_json), strict=True))
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            path = _known_path(cls, data, error["loc"])
            tables = [".".join(path[:n]) for n in range(len(path), -1, -1)]
            source = next((origins[name] for name in tables if origins and name in origins), where)
            found.setdefault(tables[0], _mistake(cls, tables[0], error, source))
    raise SettingsError("core.settings_invalid", count=len(found), mistakes=Mistakes(found.values()))


def presets() -> list[str]:
    """Names of the presets that come with Wenlu, sorted."""
    folder = resources.files("wenlu") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def to_toml(resolved: Resolved[T]) -> str:
    """All settings as TOML, each value with its origin as a comment; what is unset is a commented line.

    ``load`` of the result gives equal settings.
    """
    import tomlkit

    document = tomlkit.document()
    _write_table(document, resolved.value, resolved.origins, prefix="")
    return tomlkit.dumps(document)


def unused_setting(key: str, value: object, *, because: Notice) -> SettingsError:
    """The error for a setting that was changed and that nothing reads in this combination; raise what it returns.

    ``because`` says which other setting makes it idle: ``Notice("models.no_order", kind="gpt2")``.
    """
    return SettingsError("core.setting_unused", key=key, value=value, because=because)


def refuse_changed(settings: object, table: str, keys: Sequence[str], *, because: Notice) -> None:
    """Refuse those of ``keys`` that were changed, as ``unused_setting`` says."""
    for key, value in changed(settings, table, keys).items():
        raise unused_setting(key, value, because=because)


def refuse_outside(id: str, table: str, settings: object, bounds: Mapping[str, Sequence[str]]) -> None:
    """Refuse the first setting that is outside its bounds; one that is None is not asked.

    ``bounds`` are formulas with the settings they are for: ``{">= 1": ["keep"], "0 <= x < 1": ["beta1", "beta2"]}``.
    NaN is outside all of them.

    Raises:
        SettingsError: ``id``, with the setting, its value and the formula.
    """
    for formula, names in bounds.items():
        words = (formula if "x" in formula else f"x {formula}").split()
        for name in names:
            value = getattr(settings, name)
            sides = [value if word == "x" else float(word) for word in words[::2]]
            compared = zip(words[1::2], sides, sides[1:], strict=False)
            if value is not None and not all(_COMPARE[sign](left, right) for sign, left, right in compared):
                raise SettingsError(id, setting=f"{table}.{name}", value=value, bounds=formula)


def changed(settings: Any, prefix: str, keys: Sequence[str]) -> dict[str, object]:
    """Those of ``keys`` whose value is not the default of their dataclass, under dotted names."""
    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(settings)
    }
    return {f"{prefix}.{key}": value for key in keys if (value := getattr(settings, key)) != defaults[key]}


# ---- reading ----


def _read_preset(name: str) -> Mapping[str, object]:
    known = presets()
    if name not in known:
        raise SettingsError("core.unknown_preset", name=name, suggestion=closest(name, known), known=", ".join(known))
    content = (resources.files("wenlu") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return _parse(content, where=f"preset {name}")


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SettingsError("core.settings_file_not_found", path=path) from error
    except UnicodeDecodeError as error:
        raise SettingsError("core.settings_file_not_utf8", path=path, position=error.start) from error
    except OSError as error:
        raise SettingsError("core.settings_file_unreadable", path=path, detail=error.strerror) from error


def _parse(content: str, *, where: str) -> Mapping[str, object]:
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError("core.settings_not_toml", where=where, detail=error) from error


def _parse_override(cls: type, override: str) -> Mapping[str, object]:
    """``train.steps=100`` as a nested table; the value is TOML, a bare word is a text, ``none`` unsets an optional."""
    key, equals, value = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise SettingsError("core.override_malformed", override=override)
    if value.strip() == "none" and takes_none(type_at(cls, key)):
        return _nest(key, None)
    try:
        parsed: object = tomllib.loads(f"value = {value}")["value"] if "\n" not in value else value
    except tomllib.TOMLDecodeError:
        parsed = value
    if not isinstance(parsed, str) and plain(type_at(cls, key)) is str:
        parsed = value.strip()
    return _nest(key, parsed)


def _nest(key: str, value: object) -> dict[str, object]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast(dict[str, object], value)


def _merge(
    cls: object, into: dict[str, object], origins: dict[str, str], data: Mapping[str, object],
    source: str, lines: Mapping[str, int], prefix: str = "",
) -> None:  # fmt: skip
    """Lay ``data`` over ``into``; a table of settings is merged, any other value replaced."""
    types = fields(cls)
    for key, value in data.items():
        name = f"{prefix}{key}"
        origin = f"{source}:{lines[name]}" if name in lines else source
        if isinstance(value, Mapping) and (key not in types or fields(types[key])):
            below = into.setdefault(key, {})
            if isinstance(below, dict):
                _merge(types.get(key), below, origins, value, source, lines, f"{name}.")
                origins.setdefault(name, origin)
                continue
        into[key], origins[name] = value, origin


def _line_numbers(content: str) -> dict[str, int]:
    """The line of each dotted key; what stands inside multi-line texts may add keys that nobody asks for."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(content.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("["):
            table = bare.strip("[]").split("]")[0].replace('"', "").replace(" ", "") + "."
            lines.setdefault(table.rstrip("."), number)
        elif "=" in bare and not bare.startswith("#"):
            key = bare.partition("=")[0].replace('"', "").replace(" ", "")
            lines.setdefault(f"{table}{key}", number)
    return lines


# ---- decoding ----


@functools.cache
def _adapter(cls: Hashable) -> TypeAdapter[object]:
    from pydantic import TypeAdapter

    return TypeAdapter(cast(type[object], cls))


def _no_json(value: object) -> object:
    """Values that TOML or Python has and JSON has not; of others the text, for the type check to refuse or take."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _mistake(cls: type, key: str, error: ErrorDetails, source: str) -> Notice:
    kind = error["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return Notice("core.mistake_unknown", {"key": key, "source": source, "suggestion": _suggestion(cls, key)})
    if kind in ("missing", "missing_argument"):
        return Notice("core.mistake_missing", {"key": key, "expected": Expected(type_at(cls, key))})
    values: dict[str, object] = {
        "key": key,
        "source": source,
        "value": json.dumps(error["input"], ensure_ascii=False, default=str),
    }
    if kind in ("value_error", "assertion_error"):
        return Notice("core.mistake_value", values | {"detail": error.get("ctx", {}).get("error", error["msg"])})
    limits = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
    if kind in limits:
        bound = next(iter(error.get("ctx", {}).values()))
        return Notice("core.mistake_range", values | {"range": f"{limits[kind]} {bound}"})
    return Notice("core.mistake_type", values | {"expected": Expected(type_at(cls, key))})


def _suggestion(cls: type, key: str) -> str:
    """The known key nearest to an unknown one: in the same table, or the same name in another."""
    table, _, name = key.rpartition(".")
    siblings = list(fields(type_at(cls, table) if table else cls))
    if near := difflib.get_close_matches(name, siblings):
        return f"{table}.{near[0]}".lstrip(".")
    every = all_keys(cls)
    last = {known.rpartition(".")[2]: known for known in reversed(every)}
    if name in last:
        return last[name]
    near = difflib.get_close_matches(key, every)
    near += [last[match] for match in difflib.get_close_matches(name, list(last), cutoff=0.75)]
    return near[0] if near else ", ".join(siblings)


def _known_path(cls: object, data: object, location: Sequence[int | str]) -> list[str]:
    """The keys of a pydantic location that exist in the settings or in the data (the rest are branches of unions)."""
    path: list[str] = []
    for part in location:
        types, given = fields(cls), data if isinstance(data, Mapping) else {}
        if not isinstance(part, str) or not (part in types or part in given):
            break
        path.append(part)
        cls, data = types.get(part), given.get(part)
    return path


# ---- writing ----


def _write_table(table: Table | TOMLDocument, settings: object, origins: Mapping[str, str], *, prefix: str) -> None:
    """Plain values first, then the tables, as TOML wants it."""
    import tomlkit

    values = {name: getattr(settings, name) for name in fields(type(settings))}
    for name, value in sorted(values.items(), key=lambda item: bool(fields(type(item[1])))):
        origin = origins.get(f"{prefix}{name}", DEFAULT)
        if fields(type(value)):
            below = tomlkit.table()
            _write_table(below, value, origins, prefix=f"{prefix}{name}.")
            table.add(name, below)
        elif value is None:
            table.add(tomlkit.comment(f"{name} =   # {origin}"))
        else:
            item = tomlkit.item(json.loads(json.dumps(value, default=_no_json)))
            table.add(name, item.comment(origin))
