"""The catalogue: every id that the code uses exists in both languages, none is unused, and the values fit."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import cast

import click
import pytest

from wenlu.cli.main import main
from wenlu.cli.parsing import Argument, Command, LazyGroup, Option
from wenlu.core import errors
from wenlu.core.messages import ERROR_PARTS, LANGUAGES, catalogue

ROOT = Path(__file__).parents[2] / "src" / "wenlu"
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
SPEAKERS = {"text", "notice", "warn", "progress", "Notice", "Progress"}
OWN_KEYWORDS = {"total", "unit"}


def errors_of(language: str) -> Mapping[str, Mapping[str, str]]:
    return cast(Mapping[str, Mapping[str, str]], catalogue(language)["error"])  # type: ignore[arg-type]


def texts_of(language: str) -> Mapping[str, str]:
    return cast(Mapping[str, str], catalogue(language)["text"])  # type: ignore[arg-type]


def placeholders(text: str) -> set[str]:
    return {re.split(r"[.\[]", name)[0] for _, name, _, _ in Formatter().parse(text) if name is not None}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(place, name of what is called, call) of every call in the sources."""
    for path, tree in TREES.items():
        speakers = text_names(tree) | ({"text"} if path.parent.name == "messages" else set())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                owner, _, name = ast.unparse(node.func).rpartition(".")
                if owner == "click" or (name == "text" and owner != "messages" and "text" not in speakers):
                    continue
                name = "text" if name in speakers and not owner else name
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name, node


def text_names(tree: ast.AST) -> set[str]:
    """What a file calls the function ``text`` of the catalogue."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name
        for node in imports
        if node.module == "wenlu.core.messages"
        for alias in node.names
        if alias.name == "text"
    }


def literal(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def commands(command: click.Command | None = main) -> Iterator[Command]:
    """All verbs and groups."""
    assert isinstance(command, Command)
    yield command
    if isinstance(command, LazyGroup):
        for name in command.table:
            yield from commands(command.get_command(click.Context(command), name))


def help_ids() -> Iterator[tuple[str, Sequence[str]]]:
    """Place and ids of every help text; the first one that the catalogue has is shown."""
    for command in commands():
        yield command.verb, [f"help.{command.verb}.summary"]
        for param in command.params:
            assert isinstance(param, Option | Argument)
            yield f"{command.verb} {param.name}", param.help_ids


def column_ids() -> set[str]:
    """Headings of tables: the literals of a file that calls ``output.table`` with a package."""
    found = set()
    for tree in TREES.values():
        nodes = list(ast.walk(tree))
        names = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        tables = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "output.table"]
        found |= {f"{literal(table.args[0])}.column_{name}" for table in tables for name in names}
    return found


def patterns() -> list[re.Pattern[str]]:
    """Ids that the code puts together, as patterns: the f-strings that a speaker or an error is called with."""
    found = []
    for _, name, call in calls():
        for argument in call.args[:2]:
            if name in SPEAKERS | ERRORS | {"write_section"} and isinstance(argument, ast.JoinedStr):
                parts = [
                    re.escape(part.value) if isinstance(part, ast.Constant) else r"[\w.-]+" for part in argument.values
                ]
                found.append(re.compile("".join(map(str, parts)) + r"\Z"))
    return found


def literals() -> set[str]:
    """All strings in the code."""
    return {
        node.value
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_both_languages_have_the_same_ids_and_parts() -> None:
    assert set(texts_of("en")) == set(texts_of("zh"))
    assert set(errors_of("en")) == set(errors_of("zh"))
    for id, parts in errors_of("en").items():
        assert set(parts) == set(errors_of("zh")[id]), id
        assert set(parts) <= set(ERROR_PARTS), id
        assert {"what", "fix"} <= set(parts), f"{id} must at least say what is wrong and what to do"


def test_texts_are_there_and_their_values_equal_in_both_languages() -> None:
    for id, text in texts_of("en").items():
        assert text.strip() and texts_of("zh")[id].strip(), id
        assert placeholders(text) == placeholders(texts_of("zh")[id]), id
    for id, parts in errors_of("en").items():
        for part, text in parts.items():
            other = errors_of("zh")[id][part]
            assert text.strip() and other.strip(), id
            assert placeholders(text) == placeholders(other), f"{id}.{part}"


def test_chinese_is_chinese() -> None:
    han = re.compile(r"[\u4e00-\u9fff]")
    whats = {id: parts["what"] for id, parts in errors_of("zh").items()} | dict(texts_of("zh"))
    words = {id: re.sub(r"\{[^}]*\}", "", text) for id, text in whats.items()}
    foreign = [
        id
        for id, text in words.items()
        if re.search(r"\w", text) and not han.search(text) and texts_of("en").get(id) != whats[id]
    ]
    assert not foreign, "neither Chinese, nor equal to the English text, nor without words"


def test_every_id_in_the_code_exists() -> None:
    missing = []
    for place, name, call in calls():
        id = literal(call.args[0]) if call.args else None
        known: Mapping[str, object] = errors_of("en") if name in ERRORS else texts_of("en")
        if name in ERRORS | SPEAKERS and id is not None and id not in known:
            missing.append(f"{place} {id}")
    missing += [f"{place} {ids}" for place, ids in help_ids() if not set(ids) & set(texts_of("en"))]
    assert not missing


def test_every_id_of_the_catalogue_is_used() -> None:
    shown = (next((id for id in ids if id in texts_of("en")), "") for _, ids in help_ids())
    used = literals() | column_ids() | set(shown)
    made = patterns()
    unused = [
        id
        for id in [*texts_of("en"), *errors_of("en")]
        if id not in used and not any(pattern.match(id) for pattern in made)
    ]
    assert not unused


def test_every_value_that_a_text_shows_is_given() -> None:
    """A call with a literal id and without ``**values`` gives all values of the text, and no other."""
    wrong = []
    for place, name, call in calls():
        id = literal(call.args[0]) if call.args else None
        if id is None or name not in ERRORS | SPEAKERS - {"Notice", "Progress"}:
            continue
        given = {keyword.arg for keyword in call.keywords} - (OWN_KEYWORDS if name == "progress" else set())
        if None in given:
            continue
        shown = (
            set().union(*map(placeholders, errors_of("en").get(id, {}).values()))
            if name in ERRORS
            else placeholders(texts_of("en").get(id, ""))
        )
        if shown - given:
            wrong.append(f"{place} {id} is not given {sorted(shown - given)}")
    assert not wrong


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_valid_formats(language: str) -> None:
    for text in texts_of(language).values():
        list(Formatter().parse(text))
    for parts in errors_of(language).values():
        for text in parts.values():
            list(Formatter().parse(text))
