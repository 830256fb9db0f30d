"""Checkpoints in and out: a Hugging Face directory becomes a model directory of ours, and the other way round.

Both ways what was written is read again and must be, bit for bit, what was to be written. Everything that a directory
holds is used or listed: its files, the keys of its config, its tensors, the settings of its generation.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from wenlu.bundle import Bundle, load_bundle, refuse_strangers, save_bundle, save_model_files
from wenlu.core.downloads import partial_downloads
from wenlu.core.errors import CheckpointError
from wenlu.core.log import LOGGER, Notice, notice, warn
from wenlu.core.publication import MANIFEST, check_target, publish, verify
from wenlu.core.runs import resolve_model
from wenlu.generation import embedding
from wenlu.generation import settings as generation_settings
from wenlu.models import adapters, pickled
from wenlu.models.build import family
from wenlu.models.checkpoint import OWN_PREFIX, load_model
from wenlu.models.families._files import INDEX, WEIGHTS, HFConfig, read_config
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.lora import merged_state
from wenlu.tokenization import hf, sentencepiece_files
from wenlu.tokenization.tokenizer import Tokenizer

_READ = {"config.json", WEIGHTS, INDEX, "generation_config.json", "wenlu.toml", MANIFEST, hf.CHAT_TEMPLATE}
_TOKENIZER_FILES = ("tokenizer.json", *sentencepiece_files.MODEL_FILES, "vocab.txt", "vocab.json")
_SILENT_KEYS = {"model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}


@dataclass
class Imported:
    """What an import used, and what it left aside."""

    source: Path
    path: Path
    family: str = ""
    parameters: int = 0
    config_used: list[str] = field(default_factory=list)
    config_not_read: dict[str, object] = field(default_factory=dict)
    tokenizer_file: str = ""
    tokenizer_kind: str = ""
    vocab_size: int = 0
    chat_template: bool = False
    tokenizer_not_read: list[str] = field(default_factory=list)
    generation: dict[str, object] = field(default_factory=dict)
    converted: list[str] = field(default_factory=list)
    converted_left: list[str] = field(default_factory=list)  # entries of the pickles that are no tensors
    files_left: list[str] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


def import_checkpoint(
    source: Path, target: Path, *, tokenizer: Path | None = None, convert_pickle: bool = False, replace: bool = False
) -> Imported:
    """Read a Hugging Face directory and write it as a model directory with a manifest, its weights in float32.

    ``tokenizer`` is where the tokenizer lies if not beside the model. With ``convert_pickle`` a limited child reads
    weights that are only there as a pickle (``models.pickled``).

    Raises:
        CheckpointError: there is no model, something is missing, damaged, a pickle, or wants to run a program; the
            tokenizer has ids that the model has no embedding for (``bundle.vocabulary``).
        TokenizerError: there is no tokenizer that can be read.
        DataError: the target exists.
    """
    check_target(target, replace=replace)
    check_source(source)
    report = Imported(source, target)

    def write(directory: Path) -> None:
        with _collected(report.notices):
            model, words = _read(source, tokenizer or source, directory, report, convert_pickle=convert_pickle)
            generation = generation_settings.load(source)
            provenance = {"imported_from": source.resolve().name}
            save_bundle(directory, model=model, tokenizer=words, generation=generation, provenance=provenance)
            embedding.copy_settings(source, directory)
            _check_equal(model, directory)
        plain = generation_settings.GenerationSettings()
        report.generation = {k: v for k, v in asdict(generation).items() if v != getattr(plain, k)}
        report.generation["end_token_ids"] = list(generation.end_token_ids or (words.end_id,))

    publish(target, write, replace=replace)
    return report


def export_hf(where: str | Path | None, target: Path, *, replace: bool = False) -> Bundle:
    """Write a model as the Hugging Face libraries read it, with its tokenizer, chat template and generation settings.

    Raises:
        CheckpointError: ``exchange.only_ours`` for a model that only Wenlu computes.
        DataError: the target exists.
    """
    check_target(target, replace=replace)
    bundle = load_bundle(where)

    def write(directory: Path) -> None:
        save_model_files(directory, model=bundle.model, tokenizer=bundle.tokenizer, generation=bundle.generation)
        embedding.copy_settings(bundle.path, directory)
        model_type = str(read_config(directory)["model_type"])
        if model_type.startswith(OWN_PREFIX):
            raise CheckpointError("exchange.only_ours", path=bundle.path, found=model_type.removeprefix(OWN_PREFIX))
        _check_equal(bundle.model, directory)

    publish(target, write, replace=replace)
    return bundle


def export_adapter(where: str | Path | None, target: Path, *, replace: bool = False) -> Path:
    """Write PEFT's two files of a model that was trained with LoRA into a directory; where they came from.

    Raises:
        CheckpointError: ``exchange.no_adapter``.
        DataError: the target exists.
    """
    check_target(target, replace=replace)
    source = find_adapter(where)

    def write(directory: Path) -> None:
        for name in (adapters.CONFIG, adapters.WEIGHTS):
            shutil.copyfile(source / name, directory / name)

    publish(target, write, replace=replace)
    return source


def merge_adapter(adapter: str | Path, base: str | Path, target: Path, *, replace: bool = False) -> Path:
    """Write a base with an adapter's paths merged into its matrices, in float32, as a model directory; the base's path.

    Raises:
        CheckpointError: ``exchange.no_adapter``, ``models.adapter_*`` for one that does not fit the base.
        DataError: the target exists.
    """
    check_target(target, replace=replace)
    folder = find_adapter(adapter)
    bundle = load_bundle(base, adapter=folder)
    if left := sorted({path.name for path in folder.iterdir()} - {adapters.CONFIG, adapters.WEIGHTS, MANIFEST}):
        notice("exchange.adapter_left", path=folder, names=", ".join(left))
    provenance = {"base": bundle.path.resolve().name, "adapter": folder.resolve().name}

    def write(directory: Path) -> None:
        save_bundle(
            directory, model=bundle.model, tokenizer=bundle.tokenizer, task=bundle.task, generation=bundle.generation,
            provenance=provenance,
        )  # fmt: skip
        embedding.copy_settings(bundle.path, directory)
        _check_equal(bundle.model, directory)

    publish(target, write, replace=replace)
    return bundle.path


def find_adapter(where: str | Path | None) -> Path:
    """The directory of an adapter's files: itself, or the one in a model directory that was trained with LoRA.

    Raises:
        CheckpointError: ``exchange.no_adapter``, or there is nothing of that name.
    """
    path = Path(where or ".")
    if where is None or not (path / adapters.CONFIG).is_file():
        path = resolve_model(where) / adapters.FOLDER
    if not (path / adapters.CONFIG).is_file():
        raise CheckpointError("exchange.no_adapter", path=path.parent)
    verify(path.parent if path.name == adapters.FOLDER and (path.parent / MANIFEST).is_file() else path, strict=False)
    return path


def check_source(source: Path) -> None:
    """Refuse what cannot be a model directory, and say where one may be.

    Raises:
        CheckpointError: ``exchange.no_directory``, ``exchange.a_file``, ``exchange.not_here``, ``exchange.unfinished``.
    """
    if source.is_file():
        raise CheckpointError("exchange.a_file", path=source, folder=source.parent)
    if not source.is_dir():
        raise CheckpointError("exchange.no_directory", path=source)
    if not (source / "config.json").exists():
        below = [*sorted(source.glob("*/config.json")), *sorted(source.glob("snapshots/*/config.json"))]
        near = next((path.parent for path in (*below, source.parent / "config.json") if path.is_file()), "-")
        names = sorted(path.name for path in source.iterdir())[:8]
        raise CheckpointError("exchange.not_here", path=source, files=", ".join(names) or "-", near=near)
    if parts := partial_downloads(source):
        raise CheckpointError("exchange.unfinished", path=source, files=", ".join(parts))


def _read(
    source: Path, words: Path, directory: Path, report: Imported, *, convert_pickle: bool
) -> tuple[nn.Module, Tokenizer]:
    """Model and tokenizer, with what was used and left; converted weights are kept in ``directory`` meanwhile."""
    values = read_config(source)
    tokenizer = Tokenizer.load(words)
    place = source
    if convert_pickle and not (source / WEIGHTS).is_file() and not (source / INDEX).is_file():
        place = directory / "converted"
        place.mkdir()
        shutil.copyfile(source / "config.json", place / "config.json")
        report.converted, report.converted_left = pickled.convert(source, place, weights=WEIGHTS, index=INDEX)
    model = load_model(place)
    refuse_strangers(model, tokenizer, words)
    report.family = str(values["model_type"]).removeprefix(OWN_PREFIX)
    report.parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = family(report.family)
    if isinstance(kind, TransformerFamily):
        read = HFConfig(values, source / "config.json")
        kind.config(read)
        report.config_used = sorted(read.used & values.keys())
        report.config_not_read = {k: v for k, v in values.items() if k not in read.used | _SILENT_KEYS}
    config = hf.read_config(words)
    report.tokenizer_file = next((name for name in _TOKENIZER_FILES if (words / name).is_file()), "")
    report.tokenizer_kind, report.vocab_size = tokenizer.kind, tokenizer.vocab_size
    report.chat_template = tokenizer.chat_template is not None
    report.tokenizer_not_read = sorted(config.keys() - hf.KEPT - hf.EXPRESSED)
    files = _READ | {*report.converted, *hf.FILES, *_TOKENIZER_FILES, *(Path(f).parts[0] for f in embedding.FILES)}
    if report.converted:
        files.add(pickled.PICKLE_INDEX)
    elif (source / INDEX).is_file() and not (source / WEIGHTS).is_file():
        files |= set(json.loads((source / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    left = (path for path in source.iterdir() if path.name not in files)
    report.files_left = sorted(path.name + ("/" if path.is_dir() else "") for path in left)
    return model, tokenizer


def _check_equal(model: nn.Module, directory: Path) -> None:
    """Read what was written, and compare every bit of every tensor; warn of those that are not finite.

    Raises:
        CheckpointError: ``exchange.not_equal``.
    """
    shutil.rmtree(directory / "converted", ignore_errors=True)
    again = load_model(directory).state_dict()
    state = merged_state(model)
    both = state.keys() & again.keys()
    differ = sorted((state.keys() ^ again.keys()) | {name for name in both if not _same_bits(state[name], again[name])})
    if differ:
        raise CheckpointError("exchange.not_equal", path=directory, count=len(differ), names=", ".join(differ[:5]))
    if wild := sorted(name for name in state if not state[name].isfinite().all()):
        warn("exchange.not_finite", count=len(wild), names=", ".join(wild[:5]))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same, NaN and the sign of zero included."""
    first, second = (tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other))
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(first, second)


@contextmanager
def _collected(notices: list[Notice]) -> Iterator[None]:
    """Keep what is told meanwhile."""

    def keep(record: logging.LogRecord) -> bool:
        if isinstance(record.msg, Notice):
            notices.append(record.msg)
        return True

    level = LOGGER.level
    LOGGER.addFilter(keep)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeFilter(keep)
        LOGGER.setLevel(level)
