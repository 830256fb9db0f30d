"""Whether two models compute the same: the logits of all their heads on fixed texts in English, Chinese and code."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from wenlu.bundle import Bundle, load_bundle
from wenlu.core.errors import RequestError
from wenlu.models.transformer import Transformer

PROMPTS = (
    "The",
    "The capital of France is",
    "Once upon a time there was a miller who had three sons, a mill, a donkey and a cat.",
    "In 1859, 1,250 copies of the book were printed; all of them were sold on the first day (22 November).",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
    "it was the epoch of belief, it was the epoch of incredulity, it was the season of light, it was the season of "
    "darkness, it was the spring of hope, it was the winter of despair.",
    "的",
    "床前明月光，疑是地上霜。",
    "中国的首都是",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？",
    "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦；及秦灭之后，楚、汉分争，又并入于汉。"
    "汉朝自高祖斩白蛇而起义，一统天下，后来光武中兴，传至献帝，遂分为三国。",
    "2026年，我们用 PyTorch 训练了一个 7B 模型，loss 降到了 1.83。",
    "def add(a: int, b: int) -> int:\n    return a + b\n\nprint(add(2, 3))  # 5",
    "Translate: 早上好 means good morning; 谢谢 means",
    "\n\n  - one\n  - two\n\t- three\n",
    "naïve café — “quotes” … 100 % ½ 😀",
    "今天天气很好。The weather is fine today. 我们去公园吧。Let us go to the park.",
)
"""Published texts out of copyright and sentences of our own; never changed, so that figures stay comparable."""


@dataclass(frozen=True)
class PromptParity:
    """One text: the greatest difference of a logit, relative to the greatest of its head; how often the best agree.

    A difference is infinite where one model's logit is not a number.
    """

    text: str
    tokens: int
    difference: float
    absolute: float
    same_best: float


@dataclass(frozen=True)
class Parity:
    """Two models on all texts; ``difference`` is relative to the greatest logit of the second model on that text."""

    first: str
    second: str
    difference: float
    absolute: float
    prompts: tuple[PromptParity, ...]


def compare(first: str, second: str) -> Parity:
    """Compare two models, each a directory, run or name.

    Raises:
        CheckpointError: a model cannot be loaded.
        RequestError: ``evaluation.parity_tokens`` when they do not read the texts as the same ids,
            ``evaluation.parity_heads`` when they do not have the same heads.
    """
    bundles = load_bundle(first), load_bundle(second)
    models = [bundle.model for bundle in bundles]
    found, other = (sorted(one.config.heads) if isinstance(one, Transformer) else [] for one in models)
    if found != other:
        heads = {"found": ", ".join(found) or "-", "other": ", ".join(other) or "-"}
        raise RequestError("evaluation.parity_heads", first=first, second=second, **heads)
    prompts = tuple(_compare(*bundles, text) for text in PROMPTS)
    relative, absolute = _greatest(one.difference for one in prompts), _greatest(one.absolute for one in prompts)
    return Parity(str(bundles[0].path), str(bundles[1].path), relative, absolute, prompts)


def _compare(first: Bundle, second: Bundle, text: str) -> PromptParity:
    ids, others = (one.tokenizer.with_special_tokens(one.tokenizer.encode(text)).ids for one in (first, second))
    if ids != others:
        raise RequestError("evaluation.parity_tokens", first=first.path, second=second.path, text=text[:40])
    limits = [bundle.measured.max_positions for bundle in (first, second)]
    ids = ids[: min(limit for limit in (*limits, len(ids)) if limit is not None)] or [first.tokenizer.context_id]
    pairs = zip(_outputs(first, ids), _outputs(second, ids), strict=True)
    absolute, relative, same = zip(*(_differences(*pair) for pair in pairs), strict=True)
    return PromptParity(text, len(ids), _greatest(relative), _greatest(absolute), min(same))


def _differences(one: Tensor, other: Tensor) -> tuple[float, float, float]:
    """Of a head: the greatest difference of a logit, that relative to the greatest, and how often the best agree."""
    size = min(one.shape[-1], other.shape[-1])  # rows beyond the tokenizer's ids may have been added for speed
    one, other = one[..., :size].double(), other[..., :size].double()
    absolute = (one - other).abs().max().item()
    same = (one.argmax(-1) == other.argmax(-1)).double().mean().item()
    return absolute, absolute / max(other.abs().max().item(), 1e-30), same


def _greatest(differences: Iterable[float]) -> float:
    """The greatest; infinite when one is not a number, which ``max`` would pass over."""
    return max(difference if math.isfinite(difference) else math.inf for difference in differences)


@torch.inference_mode()
def _outputs(bundle: Bundle, ids: list[int]) -> list[Tensor]:
    """What each head makes of a text, (S, V) or (labels); of a model without heads its hidden states (S, D).

    An encoder-decoder reads the text on both sides, or hears the same noise for every text.
    """
    model, ids_1S = bundle.model, torch.tensor([ids])
    if not isinstance(model, Transformer):
        logits_1SV: Tensor = model(ids_1S)
        return [logits_1SV[0]]
    memory = None
    if model.config.encoder is not None and model.config.decoder is not None:
        source = ids_1S
        if model.config.encoder.mel_bins is not None:
            shape = (1, model.config.encoder.mel_bins, 2 * model.config.encoder.max_positions)
            source = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        memory = model.encode(source)
    hidden_1SD = model.hidden(ids_1S, memory=memory)
    heads = model.config.heads
    outputs = [model.head.judge(head, hidden_1SD) for head in sorted(heads - {"language_model", "pooler"})]
    if "language_model" in heads:
        outputs.append(model.logits(hidden_1SD))
    if "pooler" in heads:
        outputs.append(model.head.pooled(hidden_1SD))
    return [output[0] for output in outputs or [hidden_1SD]]
