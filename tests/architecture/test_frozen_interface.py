"""What users rely on does not change unnoticed: public names and the options of every command.

After an intended change: ``WENLU_UPDATE_FROZEN=1 python -m pytest tests/architecture``, and commit the text files.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import click
import pytest

import wenlu
from wenlu.cli.main import main
from wenlu.cli.parsing import LazyGroup

HERE = Path(__file__).parent


def compare(name: str, lines: list[str]) -> None:
    """Compare with the committed list, or rewrite it."""
    path = HERE / name
    if os.environ.get("WENLU_UPDATE_FROZEN"):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    frozen = path.read_text(encoding="utf-8").splitlines()
    gone, new = sorted(set(frozen) - set(lines)), sorted(set(lines) - set(frozen))
    assert not gone and not new, f"{name}: gone {gone}, new {new}; see the head of this file"


def options(command: click.Command, path: str) -> list[str]:
    """One line a parameter: command, kind, names, type, and whether it is required, a flag or repeated."""
    lines = []
    for param in command.params:
        marks = [mark for mark in ("required", "multiple", "is_flag") if getattr(param, mark, False)]
        choices = list(param.type.choices) if isinstance(param.type, click.Choice) else ""
        names = "/".join([*param.opts, *param.secondary_opts])
        lines.append(f"{path} | {param.param_type_name} {names} {param.type.name} {choices} {' '.join(marks)}".rstrip())
    if isinstance(command, LazyGroup):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            lines += options(below, f"{path} {name}")
    return lines


def test_command_line_options() -> None:
    compare("cli_options.txt", options(main, "wenlu"))


def test_public_names() -> None:
    compare("public_names.txt", sorted(wenlu.__all__))


def test_public_names_load_and_are_documented() -> None:
    for name in wenlu.__all__:
        value = getattr(wenlu, name)
        assert name == "__version__" or value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        importlib.import_module("wenlu").nonsense  # noqa: B018
    assert set(dir(wenlu)) == set(wenlu.__all__)


def test_no_public_name_hides_a_package() -> None:
    folders = {path.stem for path in Path(wenlu.__file__).parent.iterdir()}
    assert not folders & set(wenlu.__all__)
