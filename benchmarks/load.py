"""Loading a checkpoint: time and peak memory against ``from_pretrained``, each in a process of its own, in turns.

    python benchmarks/load.py                         three random checkpoints of 30 million parameters
    python benchmarks/load.py --long --data DIR ...   real directories (config.json and safetensors) or GGUF files

``load`` is the time from after the imports to a model in float32, ``first`` the time until it has computed the logits
of one token as well, which reads every weight that was only mapped. ``peak`` is the greatest resident memory above that
after ``import torch`` at that moment, in units of the float32 weights. Ratios above 1: ours is faster, smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from _cells import Cells

if TYPE_CHECKING:
    from torch import nn

SIDES = ("wenlu", "transformers")
RANDOM = {
    "gpt2 float32": ("gpt2", "float32"),
    "llama float32": ("llama", "float32"),
    "llama bfloat16": ("llama", "bfloat16"),
}
SIZES = {"hidden_size": 512, "num_layers": 6, "num_heads": 8}
VOCAB_SIZE, POSITIONS = 24_000, 512


@dataclass(frozen=True)
class Loading:
    """What one process saw: seconds, and resident bytes above those after ``import torch``."""

    load: float
    first: float
    peak_load: float
    peak_first: float
    weights: float


def child(side: str, directory: Path) -> Loading:
    """Load a model on one side, in this process."""
    import torch

    torch.set_num_threads(1)
    base = resident("VmRSS")
    if side == "wenlu":
        from wenlu.models.checkpoint import load_model as load
    else:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        load = theirs(directory)

    start = time.perf_counter()
    model = load(directory).eval()
    loaded, peak_load = time.perf_counter(), resident("VmHWM")
    with torch.inference_mode():
        bare = side == "wenlu" and "language_model" not in model.config.heads
        (model.hidden if bare else model)(torch.tensor([[1]]))
    first = time.perf_counter()
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    return Loading(loaded - start, first - start, peak_load - base, resident("VmHWM") - base, weights)


def theirs(place: Path) -> Callable[[Path], nn.Module]:
    """How transformers loads a directory or a GGUF file; its class is imported here, as importing is not loading."""
    import torch
    import transformers

    if place.suffix == ".gguf":
        transformers.LlamaForCausalLM  # noqa: B018
        of, file = transformers.AutoModelForCausalLM, {"gguf_file": place.name}
        return lambda path: of.from_pretrained(path.parent, dtype=torch.float32, **file)
    [name] = json.loads((place / "config.json").read_text(encoding="utf-8"))["architectures"]
    kind = getattr(transformers, name)
    return lambda path: kind.from_pretrained(path, dtype=torch.float32)


def resident(field: str) -> int:
    """Resident bytes of this process: now (VmRSS) or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(directory: str, *, rounds: int) -> dict[str, object]:
    """Medians of rounds in which each side has its turn; a first round fills the system's cache of files."""
    seen: dict[str, list[Loading]] = {side: [] for side in SIDES}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for number in range(rounds + 1):
        for side in SIDES:
            command = [sys.executable, __file__, "--child", side, directory]
            out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
            if number:
                seen[side].append(Loading(**json.loads(out.splitlines()[-1])))
    names = ("load", "first", "peak_load", "peak_first", "weights")
    return {
        side: {name: statistics.median(getattr(one, name) for one in runs) for name in names}
        for side, runs in seen.items()
    }


def report(name: str, result: dict[str, object]) -> None:
    """One line of figures and ratios."""
    ours, theirs = (Loading(**dict(result[side])) for side in SIDES)  # type: ignore[call-overload]
    parts = []
    for field in ("load", "first"):
        one, other = getattr(ours, field), getattr(theirs, field)
        parts.append(f"{field} {one:6.3f} s : {other:6.3f} s  ratio {other / one:5.2f}")
    for field in ("peak_load", "peak_first"):
        one, other = getattr(ours, field) / ours.weights, getattr(theirs, field) / ours.weights
        parts.append(f"{field} {one:4.2f} : {other:4.2f}  ratio {other / one:5.2f}")
    print(f"{name:24} {ours.weights / 4e6:6.1f} M  " + "  ".join(parts), flush=True)


def write_random(folder: Path, kind: str, dtype: str) -> Path:
    """A random checkpoint as ``save_pretrained`` writes it."""
    import torch
    import transformers

    from wenlu.models.build import build_model
    from wenlu.models.checkpoint import save_model
    from wenlu.models.config import ModelSettings

    transformers.logging.disable_progress_bar()
    model = build_model(ModelSettings(kind=kind, **SIZES), vocab_size=VOCAB_SIZE, end_id=0, sequence_length=POSITIONS)
    save_model(model, folder / "float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "float32", dtype=getattr(torch, dtype))
    theirs.save_pretrained(folder / "checkpoint")
    return folder / "checkpoint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--data", nargs="*", default=[], metavar="DIR")
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "DIR"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        side, directory = options.child
        print(json.dumps(asdict(child(side, Path(directory)))))
        return
    if options.long:
        cells = Cells("load")
        for place in options.data:
            name = Path(place).resolve().name
            report(name, cells.cell({"checkpoint": name}, lambda place=place: measure(place, rounds=7)))
        return
    for name, (kind, dtype) in RANDOM.items():
        with tempfile.TemporaryDirectory() as folder:
            report(name, measure(str(write_random(Path(folder), kind, dtype)), rounds=3))


if __name__ == "__main__":
    main()
