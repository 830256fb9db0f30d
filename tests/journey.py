"""A journey through the command line and through damaged files, as a program: what came of it, on standard output.

    python [-O] tests/journey.py FOLDER

Run under different conditions (``python -O``, no network) it must print the same. A connection or a look-up of a name
ends it at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from click.testing import CliRunner, Result

from golden.make import GOLDEN, PLACE
from tiny_training import SMALL, TRANSFORMER, tiny_texts
from wenlu.cli.main import main

NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostby", "socket.sendto", "urllib.")
TINY = [*TRANSFORMER, *SMALL, "train.save_every=4", "evaluate.max_tokens=200"]


def listen(event: str, arguments: tuple[object, ...]) -> None:
    """End the program when it turns to the network."""
    if event.startswith(NETWORK):
        refuse(event, arguments)


def refuse(event: str, arguments: tuple[object, ...]) -> NoReturn:
    print(f"{event} {arguments}", file=sys.stderr, flush=True)
    os._exit(77)


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that depend on texts and settings only."""
    files = sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.bin"), *folder.rglob("tokenizer.json")])
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def travel(folder: Path) -> dict[str, object]:
    """Tokenizer, store, training, verification, evaluation, scores and texts."""
    (folder / "text.txt").write_text("\n".join(tiny_texts(80)), encoding="utf-8")
    words = ("--vocab-size", 300, "--output")
    steps: list[tuple[object, ...]] = [
        ("tokenizer", "train", folder / "text.txt", *words, folder / "tokenizer"),
        ("data", "pack", folder / "text.txt", "--tokenizer", folder / "tokenizer", "-o", folder / "store",
         "--document", "line", "--validation-fraction", 0.2),
        ("train", *TINY, "--preset", "gpt2-tiny", "--data", folder / "store", "-o", folder / "run"),
        ("train", "--resume", folder / "run", "--verify"),
        ("evaluate", folder / "run"),
        ("score", "the quick brown fox 你好", "--model", folder / "run"),
        ("generate", "the quick", "--model", folder / "run", "--seed", 3, "--max-new-tokens", 5),
        ("train", *TINY, "train.steps=0", "--data", folder / "store", "-o", folder / "never"),
        ("generate", "x", "--model", folder / "nowhere"),
        ("train", "--data", folder / "missing.txt", "-o", folder / "never"),
    ]  # fmt: skip
    record: dict[str, object] = {}
    for step in steps:
        found = wenlu(*step, "--json")
        record[" ".join(map(str, step)).replace(str(folder), ".")] = [found.exit_code, said(found)]
    return {**record, "files": digests(folder)}


def said(found: Result) -> object:
    """The id of an error, or the numbers and texts of a result that do not depend on the time it took."""
    if found.exit_code:
        lines = [line for line in found.stderr.splitlines() if line.startswith('{"error"')]
        return json.loads(lines[-1])["error"]["id"] if lines else repr(found.exception)
    result = json.loads(found.stdout)
    total = result.get("total", result)
    names = ("bits_per_byte", "log_prob", "text", "completions", "digest", "step", "evaluation")
    return {name: total[name] for name in names if name in total}


def stumble(folder: Path) -> dict[str, object]:
    """Every file of the golden set cut to its half, and with one flipped bit: what the command that reads it says."""
    shutil.copytree(GOLDEN / "1", folder)
    for path in folder.glob("runs/*/*.*"):
        path.write_text(path.read_text(encoding="utf-8").replace(PLACE, str(folder)), encoding="utf-8")
    commands: dict[str, tuple[object, ...]] = {
        "models/qwen3": ("score", "x", "--model", folder / "models/qwen3"),
        "models/ngram": ("generate", "x", "--max-new-tokens", 3, "--seed", 1, "--model", folder / "models/ngram"),
        "models/mixture": ("score", "x", "--model", folder / "models/mixture"),
        "store": ("evaluate", folder / "models/lstm", "--data", folder / "store"),
        "runs/lstm": ("score", "x", "--model", folder / "runs/lstm"),
    }
    draw = random.Random(5)
    record: dict[str, object] = {}
    for place, command in commands.items():
        for path in sorted(path for path in (folder / place).rglob("*") if path.is_file() and path.stat().st_size):
            whole = path.read_bytes()
            flipped = bytearray(whole)
            flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            for name, content in (("half", whole[: len(whole) // 2]), ("flipped", bytes(flipped))):
                path.write_bytes(content)
                found = wenlu(*command, "--json")
                record[f"{path.relative_to(folder)} {name}"] = [found.exit_code, said(found)]
            path.write_bytes(whole)
    return record


if __name__ == "__main__":
    sys.addaudithook(listen)
    os.fsync = lambda descriptor: None  # nothing here loses its power
    place = Path(sys.argv[1])
    (place / "journey").mkdir(parents=True)
    print(json.dumps({"journey": travel(place / "journey"), "faults": stumble(place / "faults")}))
