"""A pickle is offered at every door that takes a user's file: nothing of it is run, and the error names the remedy.

Reading a pickle raises the audit event ``pickle.find_class`` before it gets hold of anything that it could run. A child
knocks at every door and counts these events; the parent reads what it saw.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from forking import fork, wait
from golden.make import GOLDEN, PLACE
from promises import Figure
from skips import needs_posix
from wenlu.cli.main import main
from wenlu.core.errors import WenluError
from wenlu.core.publication import MANIFEST, publish
from wenlu.data.archives import extract

SET = GOLDEN / "1"
CHECKPOINT = "runs/qwen3/checkpoints/step-00000004"
REMEDY = r"save_pretrained"


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.target), "w")


def payloads(target: Path) -> dict[str, bytes]:
    """The same program in every wrapping."""

    def written(write: Callable[[io.BytesIO], object]) -> bytes:
        buffer = io.BytesIO()
        write(buffer)
        return buffer.getvalue()

    bomb = Payload(target)
    array = np.array([bomb], dtype=object)
    streams = {f"pickle {protocol}": pickle.dumps(bomb, protocol=protocol) for protocol in (0, 2, 5)}
    return streams | {
        "torch": written(lambda file: torch.save({"weight": bomb}, file)),
        "old torch": written(lambda file: torch.save({"weight": bomb}, file, _use_new_zipfile_serialization=False)),
        "npy": written(lambda file: np.save(file, array, allow_pickle=True)),
        "npz": written(lambda file: np.savez(file, a=array)),
        "joblib": zlib.compress(pickle.dumps(bomb)),
        "gzip": gzip.compress(pickle.dumps(bomb)),
        "yaml": f'weight: !!python/object/apply:builtins.open ["{target}", "w"]\n'.encode(),
    }


# What is put where, what a user then types, and what the error must say; "" when the file is left aside.
# ``-FILE`` is first taken away. Words with / are paths in a copy of the golden set.
DOORS: list[tuple[str, str, str, str]] = [
    ("torch", "-models/gpt2/model.safetensors models/gpt2/pytorch_model.bin", "score x --model models/gpt2", REMEDY),
    ("old torch", "-models/gpt2/model.safetensors models/gpt2/model.pt", "score x --model models/gpt2", REMEDY),
    ("pickle 2", "-models/llama/model.safetensors models/llama/weights.pth", "generate x --model models/llama", REMEDY),
    ("torch", "-models/qwen3/model.safetensors models/qwen3/last.ckpt", "generate x --model models/qwen3", REMEDY),
    ("pickle 5", "-models/lstm/model.safetensors models/lstm/model.pkl", "score x --model models/lstm", REMEDY),
    ("joblib", "-models/ngram/model.safetensors models/ngram/model.joblib", "score x --model models/ngram", REMEDY),
    ("torch", "models/gpt2/model.safetensors", "score x --model models/gpt2", REMEDY),
    ("old torch", "models/qwen2/model.safetensors", "score x --model models/qwen2", REMEDY),
    ("pickle 0", "models/lstm/model.safetensors", "score x --model models/lstm", "damaged|cannot be read"),
    ("npz", "models/ngram/model.safetensors", "score x --model models/ngram", REMEDY),
    ("torch", "models/mixture/component_0/model.safetensors", "score x --model models/mixture", REMEDY),
    ("pickle 5", "models/mixture/component_1/config.json", "score x --model models/mixture", "config.json"),
    ("pickle 2", "-models/gpt2/model.safetensors models/gpt2/model.safetensors.index.json",
     "score x --model models/gpt2", "index.json"),
    ("pickle 5", "models/gpt2/config.json", "score x --model models/gpt2", "config.json"),
    ("yaml", "models/gpt2/config.json", "score x --model models/gpt2", "config.json"),
    ("pickle 2", "models/gpt2/tokenizer.json", "score x --model models/gpt2", "tokenizer.json"),
    ("pickle 5", "-models/gpt2/tokenizer.json models/gpt2/tokenizer.pkl",
     "score x --model models/gpt2", "tokenizer.json"),
    ("pickle 0", "models/gpt2/tokenizer_config.json", "score x --model models/gpt2", "tokenizer_config.json"),
    ("pickle 2", "models/gpt2/generation_config.json", "generate x --model models/gpt2", "generation_config.json"),
    ("pickle 5", "models/gpt2/wenlu.toml", "score x --model models/gpt2", "wenlu.toml"),
    ("torch", "lone/model.pt", "score x --model lone/model.pt", REMEDY),
    ("pickle 5", "lone/model.bin", "evaluate lone/model.bin --data store", REMEDY),
    ("pickle 2", "lone/tokenizer.pickle", "tokenizer inspect lone x", "tokenizer.json"),
    ("pickle 5", "texts/a.pkl", "data inspect texts/a.pkl", "convert"),
    ("npy", "texts/a.npy", "data pack texts/a.npy -o new", "convert"),
    ("npz", "texts/a.npz", "data pack texts -o new", "a.npz|no file|formats that can be read"),
    ("joblib", "texts/a.joblib", "tokenizer train texts/a.joblib -o new", "convert"),
    ("torch", "texts/a.pt", "evaluate models/gpt2 --data texts/a.pt", "convert"),
    ("pickle 5", "texts/a.txt", "data pack texts/a.txt -o new", "text"),
    ("pickle 2", "texts/a.jsonl", "data pack texts/a.jsonl -o new", "text"),
    ("torch", "texts/a.csv", "data pack texts/a.csv -o new", "ZIP"),
    ("pickle 5", "texts/a.parquet", "data pack texts/a.parquet -o new", "arquet"),
    ("gzip", "texts/a.txt.gz", "data pack texts/a.txt.gz -o new", "text"),
    ("yaml", "texts/run.yaml", "train texts/run.yaml", "toml"),
    ("yaml", "texts/run.toml", "train texts/run.toml --data store", "run.toml"),
    ("pickle 2", "texts/run.toml", "train texts/run.toml --data store", "run.toml"),
    ("npz", "store/train.index.safetensors", "evaluate models/gpt2 --data store", "store"),
    ("pickle 5", "store/store.json", "evaluate models/gpt2 --data store", "store"),
    ("pickle 2", "store/data.json", "data inspect store", "store"),
    ("pickle 2", "store/train.bin", "train --data store -o new", "store"),
    ("pickle 5", "store/tokenizer/tokenizer.json", "evaluate models/gpt2 --data store", "tokenizer.json"),
    ("torch", f"{CHECKPOINT}/optimizer.safetensors",
     "train --resume runs/qwen3 --allow-inexact", "optimizer.safetensors"),
    ("pickle 5", f"{CHECKPOINT}/state.json", "train --resume runs/qwen3 --allow-inexact", "state"),
    ("torch", f"{CHECKPOINT}/model.safetensors", "train --resume runs/qwen3 --allow-inexact", REMEDY),
    ("pickle 2", "runs/qwen3/run.toml", "train --resume runs/qwen3 --allow-inexact", "run.toml"),
    ("pickle 0", "runs/qwen3/log.jsonl", "train --resume runs/qwen3 --allow-inexact", "log.jsonl"),
    ("pickle 5", "runs/qwen3/status.json", "train --resume runs/qwen3 --allow-inexact", ""),
    ("pickle 0", "runs/qwen3/best.json", "train --resume runs/qwen3 --allow-inexact", ""),
    ("pickle 2", "runs/qwen3/lock", "train --resume runs/qwen3 --allow-inexact", ""),
    ("pickle 5", "runs/qwen3/data.json", "train --resume runs/qwen3 --allow-inexact", ""),
    ("pickle 5", MANIFEST, "score x --model models/gpt2", ""),
    ("torch", "-models/gpt2/model.safetensors models/gpt2/pytorch_model.bin",
     "import models/gpt2 -o new", "--convert-pickle"),
    ("pickle 2", "models/gpt2/model.safetensors", "import models/gpt2 -o new", REMEDY),
    ("torch", "-models/llama/model.safetensors models/llama/pytorch_model.bin",
     "import models/llama --convert-pickle -o new", "could not be converted"),
    ("pickle 5", "-models/gpt2/tokenizer.json models/gpt2/tokenizer.model", "import models/gpt2 -o new", "r.model"),
    ("old torch", "models/qwen2/model.safetensors", "export models/qwen2 -o new", REMEDY),
    ("torch", "models/qwen2/model.safetensors", "parity models/qwen3 models/qwen2", REMEDY),
]  # fmt: skip


def prepare(folder: Path, payload: bytes, places: str) -> None:
    """A copy of the golden set with the payload in it, and manifests that are right about it."""
    shutil.copytree(SET, folder)
    for name in ("run.toml", "data.json"):
        path = folder / "runs/qwen3" / name
        path.write_text(path.read_text(encoding="utf-8").replace(PLACE, str(folder)), encoding="utf-8")
    for place in places.split():
        path = folder / place.removeprefix("-")
        if place.startswith("-"):
            path.unlink()
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(payload)
    published = next((parent for parent in path.parents if (parent / MANIFEST).is_file() and parent != folder), None)
    if published is not None:
        whole = folder / "whole"
        shutil.copytree(published, whole, ignore=shutil.ignore_patterns(MANIFEST))
        publish(published, lambda target: shutil.copytree(whole, target, dirs_exist_ok=True) and None, replace=True)


def knock(number: int, folder: Path, bombs: dict[str, bytes]) -> dict[str, object]:
    """What one door answers."""
    kind, places, typed, _ = DOORS[number]
    prepare(folder, bombs[kind], places)
    words = [str(folder / word) if (folder / word).exists() or word == "new" else word for word in typed.split()]
    found = CliRunner().invoke(main, words, prog_name="wenlu")
    unexpected = None if found.exception is None or isinstance(found.exception, SystemExit) else repr(found.exception)
    return {"code": found.exit_code, "said": found.output, "unexpected": unexpected}


def knock_at_all(folder: Path) -> int:
    """In a child: knock at every door, then show that the alarm works; write down what was seen."""
    os.fsync = lambda descriptor: None  # nothing here loses its power
    events: list[str] = []
    sys.addaudithook(lambda event, arguments: events.append(str(arguments)) if event == "pickle.find_class" else None)
    bombs = payloads(folder / "executed")
    answers = []
    for number in range(len(DOORS)):
        answers.append(knock(number, folder / str(number), bombs))
        shutil.rmtree(folder / str(number))
    with zipfile.ZipFile(folder / "wheel.whl", "w") as archive:
        archive.writestr("corpus/__init__.pkl", bombs["pickle 5"])
    extract(folder / "wheel.whl", folder / "taken", ["corpus/*"])
    (folder / "not.whl").write_bytes(bombs["pickle 2"])
    try:
        extract(folder / "not.whl", folder / "taken", ["*"])
    except WenluError as error:
        answers.append({"code": error.exit_code, "said": str(error), "unexpected": None})
    seen = {"events": list(events), "executed": (folder / "executed").exists(), "answers": answers}
    events.clear()
    pickle.loads(bombs["pickle 5"])
    seen["alarm"] = bool(events) and (folder / "executed").exists()
    (folder / "seen.json").write_text(json.dumps(seen), encoding="utf-8")
    return 0


@pytest.mark.promise("T22")
def test_no_door_reads_a_pickle(tmp_path: Path, figure: Figure) -> None:
    needs_posix()
    assert wait(fork(lambda: knock_at_all(tmp_path))) == 0
    seen = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
    assert seen["alarm"], "the payload works where pickles are read, and is seen"
    assert seen["events"] == []
    assert not seen["executed"]
    *answers, archive = seen["answers"]
    assert archive["code"] == 2
    for (kind, places, typed, said), answer in zip(DOORS, answers, strict=True):
        where = f"{kind} as {places}: {typed}: {answer}"
        assert answer["unexpected"] is None, where
        assert answer["code"] == (2 if said else 0), where
        assert re.search(said, answer["said"]), where
    figure(f"{len(answers) + 2} payloads at as many doors: 0 executed, 0 pickle.find_class events")
