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
        annotation = self.annotation
        if annotation is None or annotation is NoneType:
            return "none"
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return str(Expected(arguments[0]))
        if origin is Literal:
            return text("core.type_choice", choices=", ".join(map(str, arguments)))
        if origin in (Union, UnionType):
            return text("core.type_or").join(str(Expected(part)) for part in arguments)
        if origin in (tuple, list, frozenset, set):
            return text("core.type_list", of=Expected(arguments[0] if arguments else str))
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
    parts = [part for part in _parts(annotation) if part is not NoneType]
    return _parts(parts[0])[0] if len(parts) == 1 else annotation


def takes_none(annotation: object) -> bool:
    return NoneType in _parts(annotation)


def _parts(annotation: object) -> tuple[object, ...]:
    """The types that a union is of, or the one type; without ``Annotated``."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def type_at(cls: object, key: str) -> object:
    """The type of the setting with this dotted key, or None."""
    for part in key.split("."):
        cls = fields(cls).get(part)
    return cls


def all_keys(cls: object, prefix: str = "") -> list[str]:
    keys = []
    for name, annotation in fields(cls).items():
        keys += all_keys(annotation, f"{prefix}{name}.") or [f"{prefix}{name}"]
    return keys


def leaves(settings: object, prefix: str = "") -> list[str]:
    keys = []
    for name in fields(type(settings)):
        keys += leaves(getattr(settings, name), f"{prefix}{name}.") or [f"{prefix}{name}"]
    return keys
