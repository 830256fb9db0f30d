"""Keep files of today's formats for the tests of tomorrow: ``PYTHONPATH=tests python tests/golden/make.py NAME``.

Writes ``tests/golden/NAME``: a small store, a model directory of every kind, two stopped runs with a checkpoint, and
``expected.json`` with the scores and losses that they give. A set that is there is never written again: it stands for
files that users have. Make a new one before a release that changes a format.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import wenlu
from small_world import MODELS, RUNS, STOPPED_AT, make_world
from tiny_training import losses
from wenlu.training.run import resume_run

GOLDEN = Path(__file__).parent
PLACE = "GOLDEN_FOLDER"  # stands for the folder of the set in the files of its runs
TOKENS = 24


def observe(golden: Path, scratch: Path) -> dict[str, object]:
    """What the files of a set give: bits per byte and log-probabilities of each model, losses after each resume."""
    store = wenlu.open_store(golden / "store")
    scores = {}
    for kind in sorted(path.name for path in (golden / "models").iterdir()):
        model = wenlu.load(golden / "models" / kind)
        text = store.tokenizer.decode(store.validation.tokens[:TOKENS].tolist())
        scores[kind] = {
            "bits_per_byte": wenlu.evaluate(model, store).total.bits_per_byte,
            "log_probs": [token.log_prob for token in model.score(text).tokens],
        }
    resumed = {}
    for kind in sorted(path.name for path in (golden / "runs").iterdir()):
        resume_run(copy_run(golden, kind, scratch), allow_inexact=True)
        resumed[kind] = [float.fromhex(loss) for step, loss in losses(scratch / kind) if step > STOPPED_AT]
    return {"fingerprint": store.fingerprint, "models": scores, "runs": resumed}


def copy_run(golden: Path, kind: str, scratch: Path) -> Path:
    """A copy of a run of the set that finds its store."""
    copy = scratch / kind
    shutil.copytree(golden / "runs" / kind, copy)
    for name in ("run.toml", "data.json"):
        text = (copy / name).read_text(encoding="utf-8")
        (copy / name).write_text(text.replace(PLACE, str(golden)), encoding="utf-8")
    return copy


def main(name: str) -> None:
    """Make a set; refused when there is one of this name."""
    golden = GOLDEN / name
    golden.mkdir()
    make_world(golden, keep=1)
    for kind in RUNS:
        for file in ("run.toml", "data.json"):
            path = golden / "runs" / kind / file
            path.write_text(path.read_text(encoding="utf-8").replace(str(golden), PLACE), encoding="utf-8")
        (golden / "runs" / kind / "lock").unlink()
    scratch = golden / "scratch"
    found = observe(golden, scratch)
    shutil.rmtree(scratch)
    (golden / "expected.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in golden.rglob("*") if path.is_file())
    print(f"{golden}: {len(MODELS)} models, {len(RUNS)} runs, {size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
