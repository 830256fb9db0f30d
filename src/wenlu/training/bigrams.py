"""First weights from counts: which token follows which, fitted into the embedding and the output matrix.

While its layers add nothing yet, a Transformer predicts from the last token alone: logits = output . norm(embedding).
The loss of such a model depends on the text only by how often each token follows each, so a step of this fit weighs all
the text that was counted, for the price of one small batch. The layers then learn from there.

What is fitted are the counts after absolute discounting (Ney et al. 1994), or rare pairs would be learned by heart.

The fit begins at a truncated singular value decomposition of the positive pointwise mutual information, weighted by the
root of the frequencies (Levy and Goldberg 2014 factorise it for word vectors), and goes on with Adam on the likelihood.

Legend: V vocabulary, D hidden size, N contexts of a step, P pairs.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wenlu.core.log import notice, progress
from wenlu.core.reproducibility import derive_seed
from wenlu.data.store import Int64Array, TokenArray
from wenlu.models.transformer import Transformer
from wenlu.training.precision import seeded

_MOST_TOKENS = 2**23  # are counted, in blocks from all over the text
_BLOCK = 4096
_MOST_CONTEXTS, _LOGITS = 1024, 2**23  # of a step
_RATE, _DECAY = 0.03, 0.6  # the share of the steps at the end in which the rate falls to 0
_LEAST_STEPS, _TIMED_STEPS = 5, 2
_DISCOUNT = 0.75  # taken off each count and given to the followers' frequencies: what was seen once says little
_SMOOTHING = 10.0  # added to counts where they weigh, so that rare tokens do not
_INFORMATION = 0.9  # of a context's squared length at most; the rest is left to the dimension of the frequencies
_EMBEDDING_RMS = 0.5  # of the wenlu scheme


@dataclass(frozen=True)
class Pairs:
    """How often each token follows each: pairs sorted by context, those of context c from ``starts[c]`` on."""

    starts: Int64Array  # V + 1
    followers: Int64Array  # P
    counts: Int64Array  # P

    @classmethod
    def of(cls, tokens: TokenArray, vocab_size: int, borders: tuple[int, int] = (0, 0)) -> Pairs:
        """Count the pairs of neighbours, of very long texts in evenly spread blocks.

        ``borders`` are the token that ends a document and the token that the next is read after.
        """
        if len(tokens) > _MOST_TOKENS:
            blocks = tokens[: len(tokens) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
            tokens = blocks[np.linspace(0, len(blocks) - 1, _MOST_TOKENS // _BLOCK).astype(np.int64)].ravel()
        contexts = tokens[:-1].astype(np.int64)
        contexts[contexts == borders[0]] = borders[1]
        coded = contexts * vocab_size + tokens[1:]
        pairs, counts = np.unique(coded, return_counts=True)
        starts = np.searchsorted(pairs, np.arange(vocab_size + 1) * vocab_size)
        return cls(starts, pairs % vocab_size, counts)

    @property
    def contexts(self) -> Int64Array:
        """The context of each pair."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @cached_property
    def before(self) -> npt.NDArray[np.float64]:
        """How often each token came as a context."""
        return np.bincount(self.contexts, self.counts, len(self.starts) - 1).astype(np.float64)

    @cached_property
    def after(self) -> npt.NDArray[np.float64]:
        """How often each token came as a follower."""
        return np.bincount(self.followers, self.counts, len(self.starts) - 1).astype(np.float64)

    def of_contexts(self, contexts: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The pairs of these contexts, and to which of them each belongs."""
        sizes = self.starts[contexts + 1] - self.starts[contexts]
        rows = np.repeat(np.arange(len(contexts)), sizes)
        ends = np.cumsum(sizes)
        return np.arange(len(rows)) + np.repeat(self.starts[contexts] - (ends - sizes), sizes), rows


def fit_bigrams(
    model: Transformer,
    tokens: TokenArray,
    *,
    steps: int,
    seed: int,
    limit: float = math.inf,
    borders: tuple[int, int] = (0, 0),
) -> int:
    """Fit the embedding and the untied output matrix of a new model, in place; the number of steps that it took.

    ``borders`` are those of ``Pairs.of``.
    With a ``limit`` in seconds they may be fewer, but not less than five; as many steps without a limit give the same
    bits.
    """
    started = time.perf_counter()
    embedding, output, norm = model.token_embedding.weight, model.head.output, model.main.final_norm
    assert output is not None and norm is not None, "a tied output matrix cannot say what follows"
    pairs = Pairs.of(tokens, len(embedding), borders)
    with seeded(derive_seed(seed, "bigrams"), embedding.device):
        _factorize(pairs, embedding, output.weight)
        fit = _Fit(pairs, embedding, output.weight, norm)
        loss = first = math.nan
        step = 0
        with progress("training.bigrams_progress", total=steps, unit="steps") as bar:
            while step < steps:
                began = time.perf_counter()
                loss = fit.step(min(1.0, (steps - step) / (_DECAY * steps)))
                first, step = (loss, 1) if step == 0 else (first, step + 1)
                bar.advance(detail=f"loss {loss:.4f}")
                if step == _TIMED_STEPS and math.isfinite(limit):
                    now = time.perf_counter()
                    steps = min(steps, max(_LEAST_STEPS, step + int((limit - (now - started)) / (now - began))))
    notice("training.bigrams", steps=step, seconds=time.perf_counter() - started, first=first, last=loss)
    return step


class _Fit:
    """Adam on the mean loss of a pair, over all followers of contexts that are drawn by their frequency.

    A context is drawn with a probability of at most 1 and weighs what its frequency is above it, so that the loss of a
    step is unbiased; the most frequent ones are in every step.
    """

    def __init__(self, pairs: Pairs, embedding: Tensor, output: Tensor, norm: nn.Module) -> None:
        self.pairs, self.norm = pairs, norm
        self.matrices = [embedding, output]
        self.frequencies = pairs.before / pairs.counts.sum()
        followers = pairs.after + 1  # what never came may come
        self.followers = torch.from_numpy(followers / followers.sum()).to(embedding)
        self.chances = _chances(self.frequencies, max(1, min(_MOST_CONTEXTS, _LOGITS // len(embedding))))
        self.optimizer = torch.optim.Adam(self.matrices, lr=_RATE, betas=(0.9, 0.95), eps=1e-10, fused=True)

    def step(self, factor: float) -> float:
        """One step at this share of the rate; its loss in nats a pair."""
        embedding, output = self.matrices
        contexts = np.flatnonzero(torch.rand(len(self.chances), dtype=torch.float64).numpy() < self.chances)
        weights = self.frequencies[contexts] / self.chances[contexts]
        weights /= weights.sum()
        chosen, rows = self.pairs.of_contexts(contexts)
        counts = self.pairs.counts[chosen]
        scale = weights / self.pairs.before[contexts]
        shares, left = scale[rows] * (counts - _DISCOUNT), scale * _DISCOUNT * np.bincount(rows)
        device = embedding.device
        logits_NV = self.norm(embedding[torch.from_numpy(contexts).to(device)]) @ output.mT
        at = tuple(torch.from_numpy(index).to(device) for index in (rows, self.pairs.followers[chosen]))
        loss = _to(weights, logits_NV) @ logits_NV.logsumexp(1) - _to(shares, logits_NV) @ logits_NV[at]
        loss = loss - _to(left, logits_NV) @ (logits_NV @ self.followers)
        for matrix, gradient in zip(self.matrices, torch.autograd.grad(loss, self.matrices), strict=True):
            matrix.grad = gradient
        self.optimizer.param_groups[0]["lr"] = _RATE * factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


def _to(values: npt.NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)


def _chances(frequencies: npt.NDArray[np.float64], wanted: int) -> npt.NDArray[np.float64]:
    """Chances in proportion to the frequencies, none above 1, that add up to about ``wanted``."""
    if wanted >= np.count_nonzero(frequencies):
        return (frequencies > 0).astype(np.float64)
    chances = np.minimum(1.0, wanted * frequencies)
    for _ in range(5):  # what was cut off at 1 goes to the others
        open_ = chances < 1
        factor = (wanted - np.count_nonzero(~open_)) / chances[open_].sum()
        chances[open_] = np.minimum(1.0, factor * chances[open_])
    return chances


@torch.no_grad()
def _factorize(pairs: Pairs, embedding: Tensor, output: Tensor) -> None:
    """Fill both matrices: log-frequencies of the followers in one dimension, mutual information in the others.

    All rows of the embedding get one length, so that the norm behind it changes nothing.
    """
    vocab_size, width = embedding.shape
    contexts, before, after, total = pairs.contexts, pairs.before, pairs.after, pairs.counts.sum()
    information = np.log(pairs.counts * total / (before[contexts] * after[pairs.followers])).clip(0)
    weight_before, weight_after = (np.sqrt((counts + _SMOOTHING) / total) for counts in (before, after))
    weighted = information * weight_before[contexts] * weight_after[pairs.followers]
    indices = torch.from_numpy(np.stack((contexts, pairs.followers)))
    matrix_VV = torch.sparse_coo_tensor(
        indices, torch.from_numpy(weighted).float(), (vocab_size, vocab_size), is_coalesced=True, check_invariants=True
    )
    u, s, v = torch.svd_lowrank(matrix_VV, q=min(width, vocab_size) - 1, niter=1)
    of_context = u * s.sqrt() / torch.from_numpy(weight_before).float()[:, None]
    of_follower = v * s.sqrt() / torch.from_numpy(weight_after).float()[:, None]
    frequent = of_context.norm(dim=1)[torch.from_numpy(before >= np.median(before))]
    longest = math.sqrt(_INFORMATION * width)
    scale = longest / float(frequent.quantile(0.9).clamp(min=1e-6))  # nine in ten frequent contexts are not cut off
    of_context *= scale
    of_context *= (longest / of_context.norm(dim=1, keepdim=True).clamp(min=1e-6)).clamp(max=1.0)
    rest = (width - of_context.square().sum(1)).sqrt()
    log_frequency = torch.from_numpy(np.log((after + 0.5) / total)).float()
    mean = float(rest @ torch.from_numpy(before / total).float())
    for matrix, first, others in (
        (embedding, _EMBEDDING_RMS * rest, _EMBEDDING_RMS * of_context),
        (output, (log_frequency - log_frequency.mean()) / mean, of_follower / scale),
    ):
        matrix.zero_()
        matrix[:, 0] = first.to(matrix)
        matrix[:, 1 : 1 + others.shape[1]] = others.to(matrix)
