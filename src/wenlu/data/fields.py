"""The fields of a labelled row: what a schema names, and the check of each value against its kind."""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeGuard

from wenlu.core.errors import DataError
from wenlu.core.log import Notice, notice
from wenlu.data.cleaning import find_surrogate

FieldKind = Literal["text", "label", "labels", "tokens", "tags", "frames", "span", "predicates"]
# as published files call them
_OTHER_NAMES = {"text": "text_a", "text_pair": "text_b", "label": "gold"}
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel, _SHORT.maxlist = 60, 60, 2, 12
_shown = _SHORT.repr


@dataclass(frozen=True)
class Schema:
    """The fields that a task's rows have, each with its kind, and which of them a row may lack.

    The values of an ``Example`` by kind: ``text`` and ``label`` a string; ``labels``, ``tokens`` and ``tags`` lists of
    strings; ``span`` ``{"text", "start", "end"}``, half-open in characters of the first text field; ``frames`` a list
    of ``{"predicate": index of a token, "tags": [...]}``; ``predicates`` are frames without their tags. What else
    stands in an object is kept.
    """

    name: str
    fields: Mapping[str, FieldKind]
    optional: frozenset[str] = frozenset()

    def field_of(self, kind: FieldKind) -> str | None:
        """The first field of a kind."""
        return next((name for name, other in self.fields.items() if other == kind), None)


def check_row(
    row: Mapping[str, object], schema: Schema, where: str, names: Mapping[str, str], said: set[str]
) -> dict[str, Any]:
    """The schema's fields of a row, each value in the form that ``Schema`` tells; others are left out.

    ``names`` are the row's names of fields, where they differ. ``said`` are the notices that were given already: that a
    label is a number is announced once a field.

    Raises:
        DataError: ``examples.*``, with file, line and field.
    """
    place = _Place(where, "", schema, {}, said)
    for name, kind in sorted(schema.fields.items(), key=lambda item: item[1] in _DEPENDENT):
        given = next((given for given in (names.get(name), name, _OTHER_NAMES.get(name)) if given in row), None) or name
        here = place._replace(field=given)
        if row.get(given) is not None:
            place.values[name] = _CHECKS[kind](row[given], here)
        elif name not in schema.optional:
            if given in row:
                raise here.error("examples.null")
            needed = ", ".join(name for name in schema.fields if name not in schema.optional)
            raise here.error("examples.missing_field", schema=schema.name, fields=_shown(list(row)), needed=needed)
    return place.values


def unnamed(row: Mapping[str, object], schema: Schema, names: Mapping[str, str]) -> dict[str, object]:
    """What a row has besides the schema's fields."""
    taken = {other for name in schema.fields if name not in row for other in (names.get(name), _OTHER_NAMES.get(name))}
    return {name: value for name, value in row.items() if name not in taken | schema.fields.keys()}


class _Place(NamedTuple):
    """Where a value stands, and what of its row was checked before."""

    where: str
    field: str
    schema: Schema
    values: dict[str, Any]
    said: set[str]

    def error(self, id: str, **values: object) -> DataError:
        return DataError(id, where=self.where, field=self.field, **values)

    def wrong(self, kind: str, value: object) -> DataError:
        return self.error("examples.wrong_kind", expected=Notice(f"examples.kind_{kind}"), found=_shown(value))

    def inside(self, part: str | int) -> _Place:
        return self._replace(field=f"{self.field}[{part}]" if isinstance(part, int) else f"{self.field}.{part}")

    def of_kind(self, kind: FieldKind) -> Any:
        """The checked value of the first field of a kind; None where the row has none."""
        return self.values.get(self.schema.field_of(kind) or "")

    def context(self) -> str:
        """The text that spans stand in."""
        return str(self.of_kind("text") or "")


_Check = Callable[[object, _Place], Any]


def _text(value: object, place: _Place) -> str:
    if not isinstance(value, str):
        raise place.wrong("text", value)
    if not value or value.isspace():
        raise place.error("examples.empty")
    if (position := find_surrogate(value)) is not None:
        raise place.error("examples.surrogate", position=position, code=f"{ord(value[position]):04X}")
    return value


def _label(value: object, place: _Place) -> str:
    if isinstance(value, str):
        return _text(value, place)
    if not _is_finite(value):
        raise place.wrong("label", value)
    if (name := place.field.partition("[")[0]) not in place.said:
        place.said.add(name)
        notice("examples.number_as_label", where=place.where, field=name, value=json.dumps(value))
    return json.dumps(value)


def _labels(value: object, place: _Place) -> list[str]:
    labels = [_label(item, place.inside(number)) for number, item in enumerate(_list(value, place))]
    if twice := [label for number, label in enumerate(labels) if label in labels[:number]]:
        raise place.error("examples.label_twice", label=twice[0])
    return labels


def _texts(value: object, place: _Place) -> list[str]:
    items = _list(value, place, least=1)
    # all at once first: sentences have many tokens
    if not all(isinstance(item, str) and item.strip() for item in items) or find_surrogate("".join(items)) is not None:
        return [_text(item, place.inside(number)) for number, item in enumerate(items)]
    return items


def _tags(value: object, place: _Place) -> list[str]:
    tags, tokens = _texts(value, place), place.of_kind("tokens")
    if tokens is not None and len(tags) != len(tokens):
        raise place.error("examples.lengths", tags=len(tags), tokens=len(tokens))
    return tags


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max


def _span(value: object, place: _Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise place.wrong("span", value)
    context = place.context()
    start = _member(value, "start", place, lambda value, place: _index(value, place, len(context)))
    end = _member(value, "end", place, lambda value, place: _index(value, place, len(context) + 1, start + 1))
    text = _text(value.get("text", context[start:end]), place)
    _check_place(text, start, context[:end], place)
    if len(text) != end - start:
        raise place.error("examples.span_end", text=_shown(text), start=start, end=end, right=start + len(text))
    return {"text": context[start:end], **value}


def _check_place(text: str, start: object, context: str, place: _Place) -> None:
    """Refuse a text that does not begin at this character of the context; the message names the nearest place."""
    index = _index(start, place, len(context))
    if not context.startswith(text, index):
        near, there = nearest(text, index, context), _shown(context[index : index + len(text)])
        values = {"text": _shown(text), "there": there, "nearest": "-" if near is None else near}
        raise place.error("examples.not_there", start=start, **values)


def nearest(text: str, index: int, context: str) -> int | None:
    """Where a text stands in the context nearest to a character; None where it does not."""
    places = (context.rfind(text, 0, max(index, 0) + len(text)), context.find(text, max(index, 0)))
    return min((found for found in places if found >= 0), key=lambda found: abs(found - index), default=None)


def _token(value: object, place: _Place) -> int:
    return _index(value, place, len(place.of_kind("tokens") or ()))


def _index(value: object, place: _Place, size: int, first: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise place.wrong("index", value)
    if not first <= value < size:
        raise place.error("examples.out_of_range", value=_shown(value), first=first, last=size - 1)
    return value


def _list(value: object, place: _Place, least: int = 0) -> list[Any]:
    if not isinstance(value, list):
        raise place.wrong("list", value)
    if len(value) < least:
        raise place.error("examples.too_few", count=len(value), least=least)
    return value


def _member(holder: Mapping[str, object], name: str, place: _Place, check: _Check) -> Any:
    """A value inside an object, checked."""
    if holder.get(name) is None:
        raise place.inside(name).error("examples.null")
    return check(holder[name], place.inside(name))


def _each(**checks: _Check) -> _Check:
    """The check of a list of objects that have these members."""

    def check(value: object, place: _Place) -> list[dict[str, Any]]:
        for number, item in enumerate(found := _list(value, place)):
            if not isinstance(item, dict):
                raise place.inside(number).wrong("object", item)
            for name, of_member in checks.items():
                _member(item, name, place.inside(number), of_member)
        return found

    return check


def _without(name: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.items() if key != name} for one in objects]


# checked against another field of the row; a label behind what it is about
_DEPENDENT = ("label", "tags", "frames", "span", "predicates")
_CHECKS: Mapping[FieldKind, _Check] = {
    "text": _text,
    "label": _label,
    "labels": _labels,
    "tokens": _texts,
    "tags": _tags,
    "frames": _each(predicate=_token, tags=_tags),
    "span": _span,
    "predicates": lambda value, place: _without("tags", _each(predicate=_token)(value, place)),
}
