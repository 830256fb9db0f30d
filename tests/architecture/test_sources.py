"""House rules that can be read off the sources: sizes, names, folders."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "wenlu").rglob("*.py"))
LIMIT_LINES = 450
LIMIT_CODE_LINES = 20_000  # of the whole library; docstrings, comments and blank lines are not counted
CORE = ("config", "positions", "attention", "transformer", "heads", "checkpoint")
LIMIT_CORE, LIMIT_FAMILY = 1_500, 90
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


def test_files_are_short() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    long = {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > LIMIT_LINES}
    assert not long


def test_the_library_is_small() -> None:
    assert sum(code_lines(path.read_text(encoding="utf-8")) for path in SOURCES) < LIMIT_CODE_LINES


def test_the_model_core_and_each_family_are_small() -> None:
    """One core expresses every family; a family is a table and few choices. Files with ``_`` are what several share."""
    models = ROOT / "src" / "wenlu" / "models"
    sizes = {path: code_lines(path.read_text(encoding="utf-8")) for path in models.rglob("*.py")}
    assert sum(sizes[models / f"{name}.py"] for name in CORE) < LIMIT_CORE
    families = {path.name: size for path, size in sizes.items() if path.parent.name == "families"}
    assert not {name: size for name, size in families.items() if size >= LIMIT_FAMILY and not name.startswith("_")}


def test_code_lines_are_counted() -> None:
    source = '"""Doc.\n\nMore.\n"""\n\n# why\nx = [\n    1,  # one\n]\n\n\ndef f():\n    """Doc."""\n    return x\n'
    assert code_lines(source) == 5


def code_lines(source: str) -> int:
    """Lines that hold code: what is left without docstrings, comments and blank lines."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {line for token in tokens if token.type not in silent for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(code)


def test_no_vague_names() -> None:
    assert not [path for path in SOURCES if path.stem in VAGUE or path.parent.name in VAGUE]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_every_module_is_documented_and_speaks_through_log_or_output(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body, "a module begins with a docstring"
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    allowed = "cli" in path.parts or "serving" in path.parts
    assert allowed or not calls & {"print", "sys.exit", "exit"}, "only cli and serving print or exit"


def test_every_text_file_is_opened_as_utf_8() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in ("read_text", "write_text") and ast.unparse(node.func.value) != "formatter":
                keywords = {keyword.arg for keyword in node.keywords}
                positional = 1 if node.func.attr == "read_text" else 2
                named = "encoding" in keywords or len(node.args) >= positional
                assert named, f"{path.relative_to(ROOT)}:{node.lineno} does not name the encoding"


def test_committed_files_name_no_private_place() -> None:
    words = ("/work" + "/", ".." + "/shared", "/opt/" + "pypi", "/opt/" + "wheels")
    folders = ("src", "tests", "docs", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".git")]
    for path in files:
        if path.suffix in (".pyc", ".gz", ".parquet", ".safetensors", ".png"):
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        found = [word for word in words if word in text]
        assert not found, f"{path.relative_to(ROOT)} names {found}"


def test_nothing_inside_imports_the_package_root() -> None:
    """``import wenlu`` and ``from wenlu import x`` are for users; import-linter sees no layer in them."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if "wenlu" in names or (isinstance(node, ast.ImportFrom) and node.module == "wenlu"):
                found.append(f"{path.name}:{node.lineno}")
    assert not found
