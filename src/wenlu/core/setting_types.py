"""The shape of settings classes: their fields, types and dotted keys, and how a type is told to a user."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from wenlu.core.messages import text


class Expected:
    """What a setting takes, in the reader's language."""

    def __init__(self, annotation: object) -> None:
        self.annotation = annotation

    def __str__(self) -> str:
        return _describe(self.annotation)


def _describe(annotation: object) -> str:
    if annotation is None or annotation is NoneType:
        return "none"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe(arguments[0])
    if origin is Literal:
        return text("core.type_choice", choices=", ".join(map(str, arguments)))
    if origin in (Union, UnionType):
        return text("core.type_or").join(_describe(part) for part in arguments)
    if origin in (tuple, list, frozenset, set):
        return text("core.type_list", of=_describe(arguments[0] if arguments else str))
    if fields(annotation):
        return text("core.type_table", keys=", ".join(fields(annotation)))
    for known, name in ((int, "integer"), (float, "number"), (bool, "boolean"), (str, "string")):
        if annotation is known:
            return text(f"core.type_{name}")
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return text("core.type_path")
    return getattr(annotation, "__name__", str(annotation))


def fields(cls: object) -> dict[str, object]:
    """Names and types of a settings class's fields; empty for anything else. Optional tables count as tables."""
    cls = plain(cls)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        return {}
    hints = _hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


@functools.cache
def _hints(cls: type) -> dict[str, object]:
    return get_type_hints(cls, include_extras=True)


def plain(annotation: object) -> object:
    """The type without ``Annotated`` and without ``| None``."""
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not NoneType]
        return plain(parts[0]) if len(parts) == 1 else annotation
    return annotation


def takes_none(annotation: object) -> bool:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation)


def type_at(cls: object, key: str) -> object:
    """The type of the setting with this dotted key, or None."""
    for part in key.split("."):
        cls = fields(cls).get(part)
    return cls


def all_keys(cls: object, prefix: str = "") -> list[str]:
    keys = []
    for name, annotation in fields(cls).items():
        below = all_keys(annotation, f"{prefix}{name}.")
        keys += below or [f"{prefix}{name}"]
    return keys


def leaves(settings: object, prefix: str = "") -> list[str]:
    keys = []
    for name in fields(type(settings)):
        value = getattr(settings, name)
        keys += leaves(value, f"{prefix}{name}.") if fields(type(value)) else [f"{prefix}{name}"]
    return keys
