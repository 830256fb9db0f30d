"""``wenlu embed TEXT ...``: texts as vectors, by the encoder of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from wenlu.cli import output
from wenlu.cli.parsing import Device, File, ModelName, Words, text_arguments
from wenlu.core.errors import SettingsError
from wenlu.core.messages import text

SUFFIXES = (".npy", ".jsonl")


@output.command("embed", like=["reading"])
def command(
    texts: Words = (),
    *,
    model: ModelName = None,
    device: Device = "auto",
    file: File = None,
    text_field: str | None = None,
    encoding: str | None = None,
    pooling: Literal["mean", "first"] | None = None,
    normalize: Annotated[bool, "--normalize/--no-normalize"] = True,
    truncate: bool = False,
    target: Annotated[str | None, "-o", "--output", "FILE"] = None,
) -> None:
    """Load, embed, write or print."""
    import numpy as np

    from wenlu.bundle import load_bundle
    from wenlu.core.publication import publish_file
    from wenlu.generation.embedding import embed, read_settings

    if target is not None and Path(target).suffix not in SUFFIXES:
        raise SettingsError("generation.embedding_suffix", path=target, known=", ".join(SUFFIXES))
    contents = text_arguments(texts, file, text_field=text_field, encoding=encoding)
    bundle = load_bundle(model, device=device)
    settings = read_settings(bundle.path, pooling=pooling, normalize=normalize)
    found = embed(bundle.model, bundle.tokenizer, contents, settings, truncate=truncate)
    made = {"pooling": settings.pooling, "normalized": settings.normalize, "dimensions": found.vectors.shape[1]}
    read = {"texts": len(contents), "tokens": sum(found.num_tokens), "cut": found.num_cut}
    record = {"model": str(bundle.path), **made, **read, "output": target}
    told = (
        {"text": content, "embedding": [float(f"{value:.9g}") for value in vector.tolist()]}  # gives back each float32
        for content, vector in zip(contents, found.vectors, strict=True)
    )
    lines = (output.as_json(one) + "\n" for one in told)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            if Path(target or "").suffix == ".npy":
                np.save(stream, found.vectors)
            else:
                stream.writelines(line.encode() for line in lines)

    if target is not None:
        publish_file(Path(target), write)
        values = {key: record[key] for key in ("texts", "dimensions", "pooling")}
        output.result(record, text=text("generation.embedded", path=target, **values))
    elif output.wants_json():
        output.result({**record, "embeddings": [one["embedding"] for one in told]})
    else:
        for line in lines:
            output.stream(line)
