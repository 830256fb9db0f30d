"""Vectors of texts: the states of an encoder's last layer, one vector a text.

``mean`` averages the states of all tokens that are no padding, special ones included, as sentence-transformers does
(Reimers and Gurevych 2019, section 3); ``first`` takes that of the first token, BERT's ``[CLS]``.

B texts, S tokens of the longest of them, D hidden size.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.core.errors import CheckpointError, NotFiniteError, RequestError
from wenlu.core.log import warn
from wenlu.generation.batches import in_batches
from wenlu.models.roles import text_encoder
from wenlu.tokenization.tokenizer import Tokenizer

Pooling = Literal["mean", "first"]

# What sentence-transformers calls the ways of pooling: a switch for each, or one name. Several at once are not ours.
_POOLINGS: dict[str, Pooling] = {"mean_tokens": "mean", "mean": "mean", "cls_token": "first", "cls": "first"}
FILES = MODULES, LENGTH, POOLING = ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json")
"""What sentence-transformers writes beside a model to say how its vectors are made."""

_COMPUTED = frozenset({"Transformer", "Pooling", "Normalize"})

Vectors = npt.NDArray[np.float32]
Content = TypeVar("Content", dict[str, Any], list[Any])


@dataclass(frozen=True)
class EmbeddingSettings:
    """How a text becomes a vector. ``max_tokens``, special ones included, may be less than what the model can read.

    ``lowercase`` texts are read in small letters, whatever their tokenizer does.
    """

    pooling: Pooling = "mean"
    normalize: bool = True
    max_tokens: int | None = None
    lowercase: bool = False


@dataclass(frozen=True)
class Embeddings:
    """The vectors (texts, D) in the order of the texts, and the number of tokens of each and of those that were cut."""

    vectors: Vectors
    num_tokens: tuple[int, ...]
    num_cut: int


def read_settings(directory: Path, *, pooling: Pooling | None = None, normalize: bool = True) -> EmbeddingSettings:
    """The settings of a model directory, as sentence-transformers wrote them there; ``pooling`` goes before theirs.

    What else such a folder does to a vector is not computed here, and named in a warning.

    Raises:
        CheckpointError: ``generation.pooling_unknown``, ``generation.bad_json``.
    """
    reading = _json(directory / LENGTH, dict)
    length, lowercase = reading.get("max_seq_length"), reading.get("do_lower_case") is True
    pooling = pooling or _pooling(directory / POOLING)
    modules = [module for module in _json(directory / MODULES, list) if isinstance(module, dict)]
    names = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if left := [name for name in names if name not in _COMPUTED]:
        warn("generation.modules_left", path=directory, names=", ".join(left))
    return EmbeddingSettings(pooling, normalize, length if isinstance(length, int) else None, lowercase)


def copy_settings(source: Path, target: Path) -> None:
    """Take along what a model directory says of its vectors."""
    for name in FILES:
        if (source / name).is_file():
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, target / name)


def _pooling(path: Path) -> Pooling:
    """What a file of sentence-transformers asks for; without one, the mean."""
    record = _json(path, dict)
    switches = {name: on for name, on in record.items() if name.startswith("pooling_mode_")}
    asked = [name.removeprefix("pooling_mode_") for name, on in switches.items() if on]
    if not switches and record:
        asked = [str(record.get("pooling_mode"))]
    if len(asked) > 1 or any(name not in _POOLINGS for name in asked):
        raise CheckpointError("generation.pooling_unknown", path=path, found=", ".join(asked))
    return _POOLINGS[asked[0]] if asked else "mean"


@torch.inference_mode()
def embed(
    model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], settings: EmbeddingSettings, *, truncate: bool = False
) -> Embeddings:
    """The vectors of texts. Texts of like length are read together, which changes results by rounding only.

    With ``truncate`` the end of a text that is too long is left out, and it is said. The model is left in its mode.

    Raises:
        RequestError: ``models.no_text_encoder``; ``generation.no_texts``; ``generation.texts_too_long``;
            ``generation.nothing_to_embed`` for an empty text where no special token stands around one.
        NotFiniteError: ``generation.embedding_not_finite``.
    """
    encoder = text_encoder(model)
    stack = encoder.config.encoder
    assert stack is not None, "text_encoder gave it"
    if not texts:
        raise RequestError("generation.no_texts")
    rows, num_cut = _rows(stack.max_positions, tokenizer, texts, settings, truncate=truncate)
    vectors = np.empty((len(rows), stack.hidden_size), dtype=np.float32)
    for batch in in_batches(encoder, rows, tokenizer.pad_id, encoder.encode, shown="generation.embedding"):
        vectors_BD = pool(batch.states.float(), batch.mask, settings.pooling)
        if settings.normalize:
            vectors_BD = F.normalize(vectors_BD, dim=-1)
        vectors[batch.numbers] = vectors_BD.cpu().numpy()
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise NotFiniteError("generation.embedding_not_finite", number=int(finite.argmin()) + 1)
    return Embeddings(vectors, tuple(map(len, rows)), num_cut)


def _rows(
    longest: int, tokenizer: Tokenizer, texts: Sequence[str], settings: EmbeddingSettings, *, truncate: bool
) -> tuple[list[list[int]], int]:
    """The ids of each text with its special tokens, and how many texts were cut."""
    limit = min(settings.max_tokens or longest, longest)
    room = max(0, limit - tokenizer.template.num_special[0])
    ids = tokenizer.encode_batch([text.lower() for text in texts] if settings.lowercase else texts)
    long = [number for number, row in enumerate(ids, start=1) if len(row) > room]
    if long and not truncate:
        tokens = len(ids[long[0] - 1]) + limit - room
        raise RequestError("generation.texts_too_long", count=len(long), first=long[0], tokens=tokens, limit=limit)
    if long:
        warn("generation.texts_cut", count=len(long), total=len(ids), limit=limit)
    rows = [tokenizer.with_special_tokens(row[:room]).ids for row in ids]
    if [] in rows:
        raise RequestError("generation.nothing_to_embed", number=rows.index([]) + 1)
    return rows, len(long)


def pool(states_BSD: Tensor, mask_BS: Tensor, pooling: Pooling) -> Tensor:
    """One vector (B, D) a row of its states (B, S, D) where the mask is True: their mean, or the first of them."""
    if pooling == "first":
        rows = torch.arange(len(states_BSD), device=states_BSD.device)
        return states_BSD[rows, mask_BS.int().argmax(dim=1)]
    weights_BS1 = mask_BS[:, :, None].to(states_BSD.dtype)
    return (states_BSD * weights_BS1).sum(dim=1) / weights_BS1.sum(dim=1)


def _json(path: Path, kind: type[Content]) -> Content:
    """The content of a JSON file; empty where there is no file."""
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError("generation.bad_json", path=path, found=error) from error
    if not isinstance(value, kind):
        raise CheckpointError("generation.bad_json", path=path, found=type(value).__name__)
    return value
