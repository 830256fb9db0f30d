"""Files that ask for a program, a module or a hub: none is imported, started or connected to, whatever the file says.

A child knocks at every door under an audit hook, and shows at the end that the hook sees.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from forking import fork, wait
from golden.make import GOLDEN
from promises import Figure
from skips import needs_posix
from wenlu.cli.main import main

MODELS = GOLDEN / "1/models"
PROGRAM = "from pathlib import Path\nPath(__file__).with_name('executed').write_text('x')\n\n\nclass Model:\n    pass\n"
CLASSES = {"AutoModelForCausalLM": "modeling_evil.Model", "AutoConfig": "evil/repo--modeling_evil.Model"}

# What is put into which file, and what must be said; "" where it is read past, as it changes nothing that is computed.
DOORS: list[tuple[str, dict[str, object], str]] = [
    ("config.json", {"auto_map": CLASSES}, "auto_map"),
    ("config.json", {"auto_map": CLASSES, "model_type": "evil"}, "auto_map"),
    ("config.json", {"custom_pipelines": {"evil": {"impl": "modeling_evil.Model"}}}, "custom_pipelines"),
    ("config.json", {"model_type": "modeling_evil"}, "not known"),
    ("config.json", {"model_type": "../../modeling_evil"}, "not known"),
    ("config.json", {"model_type": "_files"}, "not known"),
    ("config.json", {"model_type": "wenlu_modeling_evil"}, "not known"),
    ("config.json", {"architectures": ["modeling_evil.Model"]}, ""),
    ("config.json", {"_name_or_path": "evil/repo", "_commit_hash": "0" * 40}, ""),
    ("config.json", {"_attn_implementation_internal": "evil/kernels", "attn_implementation": "evil/kernels"}, ""),
    ("config.json", {"kernel_config": {"kernel_mapping": {"RMSNorm": "evil/kernels:Model"}}}, ""),
    ("config.json", {"trust_remote_code": True, "use_kernels": True}, ""),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["modeling_evil.Model", None]}}, "auto_map"),
    ("tokenizer_config.json", {"tokenizer_class": "modeling_evil.Model", "name_or_path": "evil/repo"}, ""),
    ("generation_config.json", {"custom_generate": "evil/repo"}, ""),
    ("generation_config.json", {"_from_model_config": "modeling_evil.Model"}, ""),
]  # fmt: skip
COMMANDS = (
    "score x --model {0}",
    "generate x --max-new-tokens 2 --model {0}",
    "import {0} -o {1}",
    "export {0} -o {1}",
    "parity {0} {0}",
)
WATCHED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "urllib.")


def knock_at_all(folder: Path) -> int:
    os.fsync = lambda descriptor: None  # nothing here loses its power
    events: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(WATCHED) or (event == "import" and "evil" in str(arguments[0])):
            events.append(f"{event} {arguments}")

    answers = []
    for command in COMMANDS:  # once before: what is imported late may start programs of its own
        knock(folder / "before", command, "config.json", {})
    sys.addaudithook(hook)
    for number, (name, values, _) in enumerate(DOORS):
        for command in COMMANDS:
            answers.append(knock(folder / str(number), command, name, values))
    seen = {"events": list(events), "executed": [str(path) for path in folder.rglob("executed")], "answers": answers}
    events.clear()
    (folder / "modeling_evil.py").write_text(PROGRAM, encoding="utf-8")
    sys.path.insert(0, str(folder))
    import modeling_evil  # noqa: F401

    seen["alarm"] = bool(events) and (folder / "executed").exists()
    (folder / "seen.json").write_text(json.dumps(seen), encoding="utf-8")
    return 0


def knock(place: Path, command: str, name: str, values: dict[str, object]) -> dict[str, object]:
    """What one command answers about a model with these values in one of its files."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(MODELS / "gpt2", place, ignore=shutil.ignore_patterns("MANIFEST.json"))
    (place / "modeling_evil.py").write_text(PROGRAM, encoding="utf-8")
    content = json.loads((place / name).read_text(encoding="utf-8"))
    (place / name).write_text(json.dumps(content | values), encoding="utf-8")
    words = command.format(place, place.with_name("new")).split()
    before = Path.cwd()
    os.chdir(place)  # where Python would find the module
    found = CliRunner().invoke(main, words, prog_name="wenlu")
    os.chdir(before)
    shutil.rmtree(place.with_name("new"), ignore_errors=True)
    unexpected = None if found.exception is None or isinstance(found.exception, SystemExit) else repr(found.exception)
    return {"code": found.exit_code, "said": found.output, "unexpected": unexpected}


@pytest.mark.promise("T23")
def test_no_file_makes_anything_run(tmp_path: Path, figure: Figure) -> None:
    needs_posix()
    assert wait(fork(lambda: knock_at_all(tmp_path))) == 0
    seen = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
    assert seen["alarm"], "the module runs where it is imported, and is seen"
    assert seen["events"] == []
    assert seen["executed"] == []
    tries = [(door, command) for door in DOORS for command in COMMANDS]
    for ((name, values, said), command), answer in zip(tries, seen["answers"], strict=True):
        where = f"{name} {values}: {command}: {answer}"
        assert answer["unexpected"] is None, where
        assert answer["code"] == (2 if said else 0), where
        assert re.search(said, answer["said"]), where
    figure(f"{len(tries)} requests at {len(DOORS)} doors: 0 modules imported, 0 processes, 0 connections")
