"""Every task on labelled examples: it learns eight of them, cares neither for padding nor for the order of a batch,
travels, goes on exactly after a kill, and says clearly what is wrong with examples.

A task's examples are eight rows in ``examples/<task>.jsonl``: of different lengths, with every label it needs.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from promises import Figure
from tiny_training import Lives, losses
from wenlu.bundle import load_bundle, save_bundle
from wenlu.cli.main import main
from wenlu.core import plugins
from wenlu.core.errors import DataError, RequestError
from wenlu.core.runs import Run, checkpoint_step
from wenlu.data.examples import Example, read_examples
from wenlu.data.fields import check_row
from wenlu.data.loader import ExampleLoader
from wenlu.evaluation.predictions import answers
from wenlu.models.build import build_model, family
from wenlu.models.config import ModelSettings
from wenlu.models.families._transformer import TransformerFamily
from wenlu.tasks._base import Skip
from wenlu.tasks._labelled import AnyLabelled, Features, LabelledTask
from wenlu.tasks._predictions import encode_examples, predict_examples
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training.optimizers import Optimizer, OptimizerSettings

HERE = Path(__file__).parent / "examples"
DOCS = Path(__file__).parents[2] / "docs"
KINDS = {"encoder": "bert", "decoder": "gpt2"}
MARKS = ("[MASK]", "[CLS]", "[SEP]", "[UNK]")
LENGTH = 96
STEP, STEPS = 5, 12


def made(name: str) -> AnyLabelled | None:
    module = plugins.load("wenlu.tasks", name)
    task = module.create(module.SETTINGS())
    return task if isinstance(task, LabelledTask) else None


def kinds(task: AnyLabelled) -> list[str]:
    """Of each architecture that the task trains, the kind here, if it has a place for the task's head."""
    found = [KINDS[architecture] for architecture in sorted(task.architectures)]
    return [kind for kind in found if _has_place(kind, task)]


def _has_place(kind: str, task: AnyLabelled) -> bool:
    of = family(kind)
    return isinstance(of, TransformerFamily) and any(task.head in heads for heads in of.architectures.values())


TASKS = {name: task for name in plugins.names("wenlu.tasks") if (task := made(name)) is not None}
CASES = [(name, kind) for name, task in TASKS.items() for kind in kinds(task)]


@cache
def examples_of(name: str) -> list[Example]:
    return list(read_examples([str(HERE / f"{name}.jsonl")], TASKS[name].schema))


@cache
def tokenizer() -> Tokenizer:
    """Characters of all tasks' examples, so that rows are long enough to be cut."""
    texts = [line for name in TASKS for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    texts += ['@ # "'] * 9  # signs that mark parts of texts
    return Tokenizer.train(texts, TokenizerSettings(kind="characters", vocab_size=600, special_tokens=MARKS))


def start_of(kind: str) -> nn.Module:
    settings = ModelSettings(kind=kind, num_layers=2, hidden_size=64, num_heads=2, initialization="gpt2", dropout=0.0)
    words = tokenizer()
    sizes = {"vocab_size": words.vocab_size, "end_id": words.end_id, "sequence_length": LENGTH}
    return build_model(settings, **sizes, seed=1)


def equipped(name: str, kind: str, *, noise: float = 0.0) -> tuple[AnyLabelled, nn.Module]:
    """The task with its labels, and a model of the kind with the task's head; noise on every parameter."""
    start = start_of(kind)
    task = TASKS[name].resolved(examples_of(name), max_length=LENGTH)
    model = task.build(task.equip(start, tokenizer(), seed=1))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return task, model


def drawn() -> torch.Generator:
    """The same draws every time."""
    return torch.Generator().manual_seed(5)


def same(one: object, other: object) -> bool:
    """Whether two answers are equal: numbers to float32's rounding through a small model."""
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-4, abs=1e-5)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_every_task_has_examples_and_a_model() -> None:
    assert {path.stem for path in HERE.glob("*.jsonl")} == set(TASKS)
    assert {name for name, _ in CASES} == set(TASKS)
    assert all(len(examples_of(name)) == 8 for name in TASKS)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_overfits_eight_examples(name: str, kind: str) -> None:
    task, model = equipped(name, kind)
    examples = examples_of(name)
    rows, _, left = encode_examples(task, examples, tokenizer())
    assert not left.skipped and not left.cut
    batch = task.collate(rows, drawn())
    optimizer = Optimizer(model, OptimizerSettings(learning_rate=3e-3))
    model.train()
    for _ in range(500):
        terms = task.loss(model, batch)
        loss = torch.stack([term.weight * term.total / max(term.count, 1) for term in terms.values()]).sum()
        if loss < 0.02:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    found = predict_examples(task, model, examples, tokenizer()).scores(task, examples)
    assert found["loss"].value < 0.1
    assert found[task.best].value > 0.99
    assert all(score.count > 0 and score.definition for score in found.values())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_padding_and_order_do_not_matter(name: str, kind: str) -> None:
    """Sums of eight rows of float32: 1e-5 is a hundred roundings."""
    task, model = equipped(name, kind, noise=0.1)
    examples, words = examples_of(name), tokenizer()
    model.eval()
    rows, _, _ = encode_examples(task, examples, words)
    assert len({len(row.columns["input_ids"]) for row in rows}) > 1, "rows of one length would need no padding"
    batch = task.collate(rows, drawn())
    whole, turned = task.loss(model, batch), task.loss(model, task.collate(rows[::-1], drawn()))
    alone = [task.loss(model, task.collate([row], drawn())) for row in rows]
    assert dict(task.counts(batch)) == {term: part.count for term, part in whole.items()}
    for term, part in whole.items():
        assert turned[term].count == part.count == sum(one[term].count for one in alone)
        assert turned[term].total.item() == pytest.approx(part.total.item(), rel=1e-5)
        assert sum(one[term].total.item() for one in alone) == pytest.approx(part.total.item(), rel=1e-5)
    together = predict_examples(task, model, examples, words).answers
    apart = [predict_examples(task, model, [example], words).answers[0] for example in examples]
    assert all(map(same, together, apart))


@pytest.mark.parametrize("name", TASKS)
def test_answers_need_no_labels(name: str) -> None:
    task, model = equipped(name, kinds(TASKS[name])[0], noise=0.1)
    examples, words = examples_of(name), tokenizer()
    asked = []
    for row in examples:
        fields = {key: row.fields[key] for key in row.fields if key not in task.questions.optional}
        asked.append(Example(check_row(fields, task.questions, row.where, {}, set()), row.where))
    whole, found = (predict_examples(task, model, rows, words) for rows in (examples, asked))
    assert all(map(same, whole.answers, found.answers)) and not any(found.labels)
    json.dumps(list(found.answers))
    assert all(isinstance(task.shown(answer), str) for answer in found.answers if answer)


@pytest.mark.parametrize("name", TASKS)
def test_a_plain_text_is_a_row_or_is_refused(name: str) -> None:
    task = TASKS[name].resolved(examples_of(name), max_length=LENGTH)
    try:
        example = task.of_text("a joy 很好", "row 7")
    except RequestError as error:
        needed = task.questions.fields.keys() - task.questions.optional
        assert error.id == "tasks.needs_fields" and all(field in str(error) for field in needed)
    else:
        assert example.where == "row 7" and not isinstance(task.encode(example, tokenizer()), Skip)


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")


def start_at(folder: Path, name: str) -> list[str]:
    """A model to go on from; the settings of a short run on the task's examples."""
    words = tokenizer()
    (folder / "start").mkdir(parents=True)
    save_bundle(folder / "start", model=start_of(kinds(TASKS[name])[0]), tokenizer=words)
    words.save(folder / "corpus" / "tokenizer")  # which the server of lives asks for
    return [
        f"task.name={name}", f"model.start={folder / 'start'}", f'data.paths=["{HERE / f"{name}.jsonl"}"]',
        f'data.validation_paths=["{HERE / f"{name}.jsonl"}"]', f"train.steps={STEPS}", f"train.save_every={STEP}",
        "evaluate.every=4", "train.batch_size=3", f"train.sequence_length={LENGTH}",
        "train.threads=1", "train.precision=fp32",
    ]  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_survives_save_load_and_export(name: str, tmp_path: Path) -> None:
    """A run's model answers as the one in memory and as its export; ``wenlu evaluate`` says what the run logged."""
    data, run = HERE / f"{name}.jsonl", tmp_path / "run"
    settings = [one for one in start_at(tmp_path, name) if not one.startswith(("task.name", "model.start", "data."))]
    words = ["--task", name, "--data", data, "--validation", data, "--model", tmp_path / "start", "-o", run]
    found = wenlu("finetune", *words, "--json", *settings)
    assert found.exit_code == 0, found.output
    assert f"wenlu predict {run}".replace(" ", "") in "".join(found.stderr.split())
    logged = json.loads(found.stdout)["evaluation"]
    scores = json.loads(wenlu("evaluate", run, "--data", data, "--json").stdout)
    assert logged and {key: scores[key]["value"] for key in logged} == pytest.approx(logged, rel=1e-5, abs=1e-6)
    assert all(scores[key]["definition"] and scores[key]["count"] for key in logged)

    bundle, examples = load_bundle(run), examples_of(name)
    told = json.loads(wenlu("predict", run, data, "--json").stdout)["answers"]
    rows = [dict(row.fields) for row in examples]
    assert same(told, json.loads(json.dumps(answers(bundle, rows))))
    assert wenlu("export", run, "--format", "hf", "-o", tmp_path / "hf").exit_code == 0
    exported = load_bundle(tmp_path / "hf")
    task = TASKS[name].resolved(examples, max_length=LENGTH)
    assert getattr(exported.model.config, "labels") == getattr(bundle.model.config, "labels")  # noqa: B009
    again = predict_examples(task, exported.model, examples, exported.tokenizer).answers
    assert same(told, json.loads(json.dumps(list(again))))


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    server = Lives(imports=["seqeval.scheme", "sklearn.metrics"])
    yield server
    server.close()


@pytest.mark.promise("T5")
@pytest.mark.parametrize("name", TASKS)
def test_a_killed_run_goes_on_exactly(name: str, lives: Lives, tmp_path: Path, figure: Figure) -> None:
    settings = start_at(tmp_path, name)
    assert lives.live(tmp_path / "unbroken", [*settings, "train.num_workers=2"]) == 0
    assert lives.live(tmp_path / "broken", settings, lines=STEP + 4) == -signal.SIGKILL
    newest = Run(tmp_path / "broken").newest_checkpoint()
    assert newest is not None and checkpoint_step(newest) < STEPS
    assert lives.live(tmp_path / "broken") == 0
    ours, theirs = losses(tmp_path / "broken"), losses(tmp_path / "unbroken")
    assert len(ours) == STEPS and ours == theirs
    whole = (tmp_path / "unbroken" / "final" / "model.safetensors").read_bytes()
    assert (tmp_path / "broken" / "final" / "model.safetensors").read_bytes() == whole
    figure(f"{name}: after step {checkpoint_step(newest)} the next losses are equal to the last bit")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", TASKS)
def test_settings_are_documented_and_what_is_documented_exists(name: str, language: str) -> None:
    """Those that all have stand in the guide of fine-tuning, the task's own there or in its own guide."""
    known = {field.name for field in fields(TASKS[name].settings)} - {"name", "chunk_rows"}
    pages = [DOCS / language / "fine-tuning.md", DOCS / language / "tasks" / f"{name}.md"]
    texts = [page.read_text(encoding="utf-8") if page.is_file() else "" for page in pages]
    general, own = ({*re.findall(r"\btask\.(\w+)", text)} for text in texts)
    assert known <= general | own
    assert own <= known | {"name", "chunk_rows"}
    assert general <= {field.name for task in TASKS.values() for field in fields(task.settings)}


@pytest.mark.promise("T21")
@pytest.mark.parametrize("name", TASKS)
def test_what_is_wrong_with_examples_is_said_clearly(name: str, tmp_path: Path, figure: Figure) -> None:
    """A field that is missing, labels that training does not have, a text that is too long, nothing at all."""
    task, words, examples = TASKS[name], tokenizer(), examples_of(name)
    rows = [dict(row.fields) for row in examples]
    refused = 0

    def write(content: list[dict[str, Any]], file: str) -> Path:
        path = tmp_path / file
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return path

    for field in task.schema.fields.keys() - task.schema.optional:
        without = [*rows[:2], {key: value for key, value in rows[2].items() if key != field}, *rows[3:]]
        path = write(without, "missing.jsonl")
        with pytest.raises(DataError) as error:
            list(read_examples([str(path)], task.schema))
        assert error.value.values["where"] == f"{path}:3" and field in str(error.value)
        refused += 1
    if task.inventory(examples):
        known = task.resolved(examples[:1], max_length=LENGTH)
        label = next(label for row in examples for label in task.inventory([row]) if label not in known.settings.labels)
        with pytest.raises(DataError, match=re.escape(f"{label} (")) as error:
            known.refuse_unknown(examples)
        assert error.value.id == "tasks.unknown_labels"
        refused += 1
    short = type(task)(replace(task.settings, truncation="error")).resolved(examples, max_length=8)  # type: ignore[call-arg]
    with pytest.raises(DataError) as error:
        encode_examples(short, examples, words)
    assert error.value.id == "tasks.too_long" and ".jsonl:" in str(error.value)
    with pytest.raises(DataError) as error:
        ExampleLoader([], [], [], task.collate, batch_size=2, seed=1)
    assert error.value.id == "data.no_examples"
    found = wenlu("finetune", "--task", name, "--data", write([], "none.jsonl"), "--model", tmp_path / "nowhere")
    assert found.exit_code == 2
    figure(f"{name}: {refused + 3} kinds of wrong examples, each refused by name")


def lengths(rows: Sequence[Features]) -> list[int]:
    return [len(row.columns["input_ids"]) for row in rows]


@pytest.mark.parametrize("name", TASKS)
def test_what_is_cut_is_counted(name: str) -> None:
    whole, _, _ = encode_examples(
        TASKS[name].resolved(examples_of(name), max_length=LENGTH), examples_of(name), tokenizer()
    )
    limit = max(lengths(whole)) // 2
    task = TASKS[name].resolved(examples_of(name), max_length=limit)
    rows, _, left = encode_examples(task, examples_of(name), tokenizer())
    assert max(lengths(rows)) <= limit
    assert len(rows) > 8 or (left.cut and left.tokens >= left.cut)
    assert not isinstance(task.encode(examples_of(name)[0], tokenizer()), Skip)
