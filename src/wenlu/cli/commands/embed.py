"""``wenlu embed TEXT ...``: texts as vectors, by the encoder of a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wenlu.cli import output
from wenlu.cli.output import argument, option
from wenlu.cli.standard_input import text_arguments
from wenlu.core.errors import SettingsError
from wenlu.core.messages import text

if TYPE_CHECKING:
    from wenlu.generation.embedding import Pooling, Vectors
    from wenlu.models.device import DeviceName

SUFFIXES = (".npy", ".jsonl")


@output.command("embed")
@argument("embed", "texts", nargs=-1)
@option("embed", "--model", metavar="MODEL")
@option("embed", "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@option("embed", "--file", metavar="FILE")
@option("reading", "--text-field")
@option("reading", "--encoding")
@option("embed", "--pooling", type=click.Choice(["mean", "first"]), default=None)
@option("embed", "--normalize/--no-normalize", default=True)
@option("embed", "--truncate", is_flag=True)
@option("embed", "-o", "--output", "target", metavar="FILE")
@output.run
def command(
    texts: tuple[str, ...],
    model: str | None,
    device: DeviceName,
    file: str | None,
    text_field: str | None,
    encoding: str | None,
    pooling: Pooling | None,
    normalize: bool,
    truncate: bool,
    target: str | None,
    json_output: bool,
) -> None:
    """Load, embed, write or print."""
    from wenlu.bundle import load_bundle
    from wenlu.generation.embedding import embed, read_settings

    if target is not None and Path(target).suffix not in SUFFIXES:
        raise SettingsError("generation.embedding_suffix", path=target, known=", ".join(SUFFIXES))
    contents = text_arguments(texts, file, text_field=text_field, encoding=encoding)
    bundle = load_bundle(model, device=device)
    settings = read_settings(bundle.path, pooling=pooling, normalize=normalize)
    found = embed(bundle.model, bundle.tokenizer, contents, settings, truncate=truncate)
    record: dict[str, object] = {
        "model": str(bundle.path),
        "pooling": settings.pooling,
        "normalized": settings.normalize,
        "dimensions": found.vectors.shape[1],
        "texts": len(contents),
        "tokens": sum(found.num_tokens),
        "cut": found.num_cut,
        "output": target,
    }
    if target is not None:
        _write(Path(target), contents, found.vectors)
        values = {key: record[key] for key in ("texts", "dimensions", "pooling")}
        output.result(record, text=text("generation.embedded", path=target, **values))
    elif json_output:
        output.result({**record, "embeddings": [_numbers(vector) for vector in found.vectors]})
    else:
        for line in _lines(contents, found.vectors):
            output.stream(line)


def _write(path: Path, contents: list[str], vectors: Vectors) -> None:
    """A NumPy file of one row a text, or JSON Lines."""
    import numpy as np

    from wenlu.core.publication import publish_file

    def write(temporary: Path) -> None:
        if path.suffix == ".npy":
            with temporary.open("wb") as stream:
                np.save(stream, vectors)
        else:
            with temporary.open("w", encoding="utf-8") as stream:
                stream.writelines(_lines(contents, vectors))

    publish_file(path, write)


def _lines(contents: list[str], vectors: Vectors) -> Iterator[str]:
    for content, vector in zip(contents, vectors, strict=True):
        yield output.as_json({"text": content, "embedding": _numbers(vector)}) + "\n"


def _numbers(vector: Vectors) -> list[float]:
    """The numbers of a float32 vector, as short as gives them back exactly."""
    return [float(f"{value:.9g}") for value in vector.tolist()]
