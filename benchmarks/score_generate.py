"""Scoring and cached generation against transformers, on the same weights, in one process.

    python benchmarks/score_generate.py [--long] [--only WORD ...]

Our model is written to a folder that transformers reads; before any time is taken, the log-probabilities of a text and
the tokens of a greedy continuation must be the same on both sides. Weights are random, both sides compute in float32.

score       ours: ``token_log_probs``; theirs: a plain forward of the same padded batch under ``inference_mode``,
            then ``log_softmax`` and ``gather``. ``short`` texts have 8 to 256 tokens; theirs are sorted by length and
            padded in batches of 2 to 32, whichever is the fastest here.
generate    a prompt of 128 tokens and 64 new ones, no token ends a text. ours: ``generate``; theirs: ``generate``
            with its default cache and attention. ``sampled`` is temperature 0.8, top-k 50 and top-p 0.95; ``top-p`` is
            our default, without top-k. Batch 8 is eight samples of one prompt; where it is ``greedy``, it is eight
            prompts in step, for which our side is the loop of a caller over the model's own cache.

Each cell is the median of interleaved runs, in tokens per second: of processor time with one thread, of wall time with
two. A ratio above 1 says that ours is faster. Without ``--long`` a part of the cells is measured, in two minutes at
most; with it all are, and finished ones are kept.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import transformers
from torch import Tensor

from _cells import Cells
from wenlu.evaluation import scoring
from wenlu.evaluation.documents import TokenizedDocument
from wenlu.evaluation.scoring import Windows, token_log_probs
from wenlu.generation.engine import stream
from wenlu.generation.settings import GenerationSettings
from wenlu.models.build import build_model
from wenlu.models.checkpoint import save_model
from wenlu.models.config import ModelSettings
from wenlu.models.transformer import Transformer

SHAPES = {
    "tiny": ({"num_layers": 4, "hidden_size": 192, "num_heads": 3}, 8192),
    "small": ({"num_layers": 12, "hidden_size": 768, "num_heads": 12}, 50257),
}
KINDS = ("gpt2", "llama", "qwen3")
END, PROMPT_TOKENS, NEW_TOKENS, MAX_POSITIONS = 0, 128, 64, 1024
THEIR_BATCHES = (2, 4, 8, 16, 32)
STYLES = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "top-p": {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.95},
}


@dataclass(frozen=True)
class Cell:
    """One figure. ``work`` is ``window 256``, ``short``, or a style of generation."""

    shape: str
    kind: str
    work: str
    batch: int
    threads: int

    @property
    def scoring(self) -> bool:
        return self.work not in STYLES


@dataclass(frozen=True)
class Pair:
    """The same weights on both sides."""

    ours: Transformer
    theirs: transformers.PreTrainedModel


@functools.lru_cache(maxsize=1)
def pair(shape: str, kind: str) -> Pair:
    """Both models, shown to be the same one."""
    sizes, vocab_size = SHAPES[shape]
    settings = ModelSettings(
        kind=kind, max_positions=MAX_POSITIONS, **sizes, **({"head_dim": 64} if kind == "qwen3" else {})
    )
    ours = build_model(settings, vocab_size=vocab_size, end_id=END, sequence_length=MAX_POSITIONS)
    assert isinstance(ours, Transformer)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    with tempfile.TemporaryDirectory() as folder:
        save_model(ours, Path(folder))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = Pair(ours.eval(), theirs.eval())
    check(found)
    return found


def check(models: Pair) -> None:
    """The same log-probabilities of texts of different lengths, and the same greedy tokens."""
    texts = short_texts(8, models.ours.vocab_size)
    ours, theirs = score_ours(models, texts), score_theirs(models, texts, at_once=4)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)
    for batch in (1, 2):
        inputs = prompts(models, batch)
        assert torch.equal(generate_ours(models, inputs, "greedy"), generate_theirs(models, inputs, "greedy"))


def short_texts(number: int, vocab_size: int) -> list[np.ndarray]:
    """Texts of 8 to 256 tokens, most of them short."""
    random = np.random.default_rng(0)
    lengths = np.clip(np.exp(random.normal(3.7, 0.8, number)), 8, 256).astype(int)
    return [random.integers(1, vocab_size, length) for length in lengths]


def prompts(models: Pair, batch: int) -> Tensor:
    """Prompts of a batch, each begun by the end token."""
    shape = (batch, PROMPT_TOKENS)
    ids = torch.randint(1, models.ours.vocab_size, shape, generator=torch.Generator().manual_seed(2))
    ids[:, 0] = END
    return ids


def score_ours(models: Pair, texts: list[np.ndarray], *, slots: int | None = None) -> list[np.ndarray]:
    documents = [TokenizedDocument(ids, len(ids), len(ids), "", True) for ids in texts]
    windows = Windows(MAX_POSITIONS, MAX_POSITIONS)
    sizes = {name: slots or getattr(scoring, name) for name in ("SLOTS_PER_BATCH", "SLOTS_PER_BATCH_ON_CPU")}
    with mock.patch.multiple(scoring, **sizes):
        return list(token_log_probs(models.ours, documents, context_id=END, windows=windows))


@torch.inference_mode()
def score_theirs(models: Pair, texts: list[np.ndarray], *, at_once: int) -> list[np.ndarray]:
    results: list[np.ndarray] = [np.zeros(0)] * len(texts)
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    for start in range(0, len(order), at_once):
        batch = order[start : start + at_once]
        labels = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(texts[number]) for number in batch], batch_first=True
        )
        inputs = torch.cat([torch.full((len(batch), 1), END), labels[:, :-1]], dim=1)
        lengths = torch.tensor([len(texts[number]) for number in batch])
        mask = (torch.arange(labels.shape[1]) < lengths[:, None]).long()
        padded = bool((mask == 0).any())
        logits = models.theirs(inputs, attention_mask=mask if padded else None, use_cache=False).logits
        log_probs = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0].numpy()
        for row, number in enumerate(batch):
            results[number] = log_probs[row, : len(texts[number])]
    return results


def generate_ours(models: Pair, inputs: Tensor, style: str) -> Tensor:
    if style == "greedy" and len(inputs) > 1:
        return greedy_in_step(models.ours, inputs)
    settings = GenerationSettings(max_new_tokens=NEW_TOKENS, num_sequences=len(inputs), **STYLES[style])
    ids: list[list[int]] = [[] for _ in inputs]
    for step in stream(models.ours, inputs[0, 1:].tolist(), settings, start_id=END, end_ids=(-1,)):
        ids[step.sequence].append(step.token_id)
    return torch.tensor(ids)


@torch.inference_mode()
def greedy_in_step(model: Transformer, inputs: Tensor) -> Tensor:
    """What a caller writes who continues several prompts of one length."""
    cache = model.new_cache(len(inputs), PROMPT_TOKENS + NEW_TOKENS)
    found = [inputs]
    for _ in range(NEW_TOKENS):
        hidden = model.hidden(found[-1], cache=cache)
        found.append(model.logits(hidden[:, -1]).argmax(dim=-1, keepdim=True))
    return torch.cat(found[1:], dim=1)


def generate_theirs(models: Pair, inputs: Tensor, style: str) -> Tensor:
    several = {} if style == "greedy" else {"num_return_sequences": len(inputs)}
    given = inputs if style == "greedy" else inputs[:1]
    config = transformers.GenerationConfig(
        max_new_tokens=NEW_TOKENS, pad_token_id=END, eos_token_id=None, bos_token_id=END, **STYLES[style], **several
    )
    mask = torch.ones_like(given)
    return models.theirs.generate(given, attention_mask=mask, generation_config=config)[:, given.shape[1] :]


def both(cell: Cell) -> tuple[Callable[[], object], Callable[[], object], int]:
    """The two sides of a cell, and the tokens that each run gives."""
    models = pair(cell.shape, cell.kind)
    if not cell.scoring:
        inputs = prompts(models, cell.batch)
        ours = functools.partial(generate_ours, models, inputs, cell.work)
        return ours, functools.partial(generate_theirs, models, inputs, cell.work), cell.batch * NEW_TOKENS
    if cell.work == "short":
        texts, slots = short_texts(cell.batch, models.ours.vocab_size), None
        at_once = min(THEIR_BATCHES, key=lambda number: seconds_of(lambda: score_theirs(models, texts, at_once=number)))
    else:
        length = int(cell.work.split()[1])
        texts = list(np.random.default_rng(3).integers(1, models.ours.vocab_size, (cell.batch, length)))
        at_once, slots = cell.batch, cell.batch * length
    ours = functools.partial(score_ours, models, texts, slots=slots)
    theirs = functools.partial(score_theirs, models, texts, at_once=at_once)
    return ours, theirs, sum(map(len, texts))


def seconds_of(call: Callable[[], object], *, clock: Callable[[], float] = time.process_time) -> float:
    started = clock()
    call()
    return clock() - started


def measure(cell: Cell, *, seconds: float) -> dict[str, object]:
    """Medians of runs in turn, as many as fit into the time but three at least."""
    torch.set_num_threads(cell.threads)
    ours, theirs, tokens = both(cell)
    clock = time.process_time if cell.threads == 1 else time.perf_counter
    taken: dict[str, list[float]] = {"wenlu": [], "transformers": []}
    for side in (ours, theirs):
        side()
    began = time.perf_counter()
    while len(taken["wenlu"]) < 3 or time.perf_counter() - began < seconds:
        for name, side in (("wenlu", ours), ("transformers", theirs)):
            taken[name].append(seconds_of(side, clock=clock))
    speeds = {name: tokens / statistics.median(values) for name, values in taken.items()}
    return {**{name: round(speed, 1) for name, speed in speeds.items()}, "runs": len(taken["wenlu"])}


def every_cell() -> Iterator[Cell]:
    for shape in SHAPES:
        for kind in KINDS:
            for threads in (1, 2):
                for length in (256, 512):
                    for batch in (1, 8):
                        yield Cell(shape, kind, f"window {length}", batch, threads)
                yield Cell(shape, kind, "short", 128, threads)
                for style in STYLES:
                    for batch in (1, 8):
                        yield Cell(shape, kind, style, batch, threads)


def quick_cells() -> Iterator[Cell]:
    """Every kind of work, at one thread: the tiny shape whole but for the longer windows, of the small one two."""
    for cell in every_cell():
        if cell.threads == 2 or cell.work == "window 512" or cell.kind == "llama":
            continue
        if cell.shape == "tiny" or (cell.kind == "gpt2" and cell.batch == 1 and cell.work in ("window 256", "greedy")):
            yield cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="cells whose line has all these words")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cells = Cells("score_generate") if options.long else None
    for cell in every_cell() if options.long or options.only else quick_cells():
        name = f"{cell.shape:5} {cell.kind:5} {cell.work:10} x {cell.batch:<3} {cell.threads}t"
        if not set(options.only) <= set(name.split()):
            continue
        if cells is None:
            result = measure(cell, seconds=0.7)
        else:
            result = cells.cell(asdict(cell), functools.partial(measure, cell, seconds=10.0))
        ours, theirs = float(str(result["wenlu"])), float(str(result["transformers"]))
        print(f"{name}  wenlu {ours:9.1f}  transformers {theirs:9.1f} tokens/s  ratio {ours / theirs:5.2f}", flush=True)


if __name__ == "__main__":
    main()
