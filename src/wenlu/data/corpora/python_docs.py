"""The English text that every CPython carries: the help topics of ``pydoc`` and the standard library's docstrings.

Read with ``ast`` from the files of the running interpreter; no module is imported. Files are taken in sorted order, so
that one Python version gives one text.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from wenlu.core.errors import DataError
from wenlu.data.corpora._rows import Counts, Files, Options, Rows, page_rows, paragraphs

_TOPICS = "pydoc_data/topics.py"
_LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "idlelib", "turtledemo", "ensurepip"}
    | {"pydoc_data", "__pycache__", "lib-dynload", "_pyrepl"}
)
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def convert(files: Files, options: Options, counts: Counts) -> Rows:
    """``files`` is empty: this text is in no package. ``options.parts``: ``topics``, ``docstrings``."""
    library = Path(sysconfig.get_path("stdlib"))
    if not (library / _TOPICS).is_file():
        raise DataError("fetch.no_standard_library", path=library / _TOPICS)
    if "topics" in options.parts:
        yield from _topics(library / _TOPICS, options)
    if "docstrings" in options.parts:
        yield from _docstrings(library, options, counts)


def _topics(path: Path, options: Options) -> Rows:
    for node in _parse(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "topics":
            for topic, text in sorted(ast.literal_eval(node.value).items()):
                yield from page_rows(f"Python: {topic}", paragraphs(text), source=_TOPICS, options=options)


def _docstrings(library: Path, options: Options, counts: Counts) -> Rows:
    seen: set[str] = set()
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        if _LEFT_OUT.intersection(name.parts):
            continue
        try:
            tree = _parse(path)
        except (SyntaxError, ValueError):
            counts.drop("not_python", name.as_posix())
            continue
        module = ".".join(name.with_suffix("").parts).removesuffix(".__init__")
        blocks = _documented(tree, module, seen, counts)
        yield from page_rows(f"Python: {module}", blocks, source=name.as_posix(), options=options)


def _documented(node: _Documented, name: str, seen: set[str], counts: Counts) -> Iterator[str]:
    """The docstrings of a module, class or function and of what it holds, each below its signature."""
    text = ast.get_docstring(node)
    if text and text in seen:
        counts.drop("repeated", text)
    elif text:
        seen.add(text)
        yield f"{_signature(node, name)}\n\n{text}"
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = child.name if isinstance(node, ast.Module) else f"{name}.{child.name}"
            yield from _documented(child, inner, seen, counts)


def _signature(node: _Documented, name: str) -> str:
    if isinstance(node, ast.Module):
        return f"module {name}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {name}({bases})" if bases else f"class {name}"
    return f"def {name}({ast.unparse(node.args)})"


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter's own files, not ours to judge
        return ast.parse(path.read_bytes())
