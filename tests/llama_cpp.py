"""llama.cpp, built once from the sources that its Python package carries, as a program that answers in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from skips import cannot_get_llama_cpp, needs_tool

PACKAGE = "llama-cpp-python==0.3.36"
SOURCES = "WENLU_LLAMA_CPP"  # names a folder of llama.cpp's sources, instead of the package's
PROGRAM = Path(__file__).parent / "peers" / "llama_cpp"


@dataclass(frozen=True)
class Answer:
    """The ids of a text, the logits behind it, and the ids of its greedy continuation."""

    prompt: list[int]
    logits: list[float]
    tokens: list[int]


def needs_llama_cpp() -> Path:
    """The program; building it takes some minutes, once for each version. Without compiler or sources: a skip."""
    cmake = needs_tool("cmake")
    folder = Path(tempfile.gettempdir()) / f"wenlu-{PACKAGE.replace('==', '-')}"
    program = folder / "build" / "greedy"
    if not program.is_file():
        folder.mkdir(exist_ok=True)
        made = [cmake, "-S", PROGRAM, "-B", folder / "build", f"-DLLAMA_CPP={_sources(folder)}"]
        made.append("-DCMAKE_BUILD_TYPE=Release")
        for command in (made, [cmake, "--build", folder / "build", "--target", "greedy"]):
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, (ended.stdout + ended.stderr)[-2000:]
    return program


def ask(program: Path, model: Path, text: str, *, num_tokens: int) -> Answer:
    """What llama.cpp makes of a text with a model."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "text")
        file.write_bytes(text.encode())
        command = [program, model, file, str(num_tokens)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return Answer(**json.loads(ended.stdout))


def _sources(folder: Path) -> Path:
    named = os.environ.get(SOURCES)
    if named:
        return Path(named)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d", folder, PACKAGE]
    if subprocess.run(pip, capture_output=True, check=False).returncode != 0:
        cannot_get_llama_cpp()
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/vendor/llama.cpp"))
