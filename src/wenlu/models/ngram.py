"""The n-gram language model: modified interpolated Kneser-Ney smoothing, fitted by counting.

S. F. Chen and J. Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", TR-10-98, Harvard 1998,
section 3. With c the count of an n-gram in the highest order, and the number of different tokens that it follows in the
lower ones::

    p(w | h) = max(c(h w) - D(c(h w)), 0) / sum_v c(h v)  +  backoff(h) p(w | h without its first token)
    backoff(h) = (D1 N1(h) + D2 N2(h) + D3 N3+(h)) / sum_v c(h v)

The empty context backs off to the uniform distribution over the vocabulary, so that every token has a probability.
A document begins with one token as its context (``Tokenizer.context_id``), and no n-gram crosses from one document into
the next. N-grams that begin at the start of a document follow nothing, so they keep their plain counts in every order
(as in KenLM).

B batch, S length, C contexts of a slot (one for each order above 1), V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from wenlu.core import machine
from wenlu.core.errors import RunError, SettingsError
from wenlu.core.log import notice, progress, warn
from wenlu.models import kneser_ney
from wenlu.models.config import Reading
from wenlu.models.heads import IGNORE_INDEX, LanguageModelCalls, in_chunks
from wenlu.models.kneser_ney import FALLBACK_DISCOUNTS, TokenSource
from wenlu.models.positions import document_starts
from wenlu.models.statistics import Statistics

MAX_ORDER = 5
_FIT_BYTES_PER_TOKEN = 130  # measured: peak memory of fit() over the number of tokens, order 5, different texts
_CHUNK_SLOTS = 1 << 15
_CHUNK_LOGITS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class NGramConfig:
    """What config.json says: sizes, and the three discounts of each order, lowest order first."""

    vocab_size: int
    end_token_id: int
    order: int
    num_ngrams: tuple[int, ...]
    discounts: tuple[tuple[float, float, float], ...]


class NGramCache:
    """The tokens read so far, and where documents began in them."""

    def __init__(self, batch_size: int) -> None:
        self.input_ids_BS = torch.zeros((batch_size, 0), dtype=torch.int64)
        self.starts_BS = torch.zeros((batch_size, 0), dtype=torch.bool)

    @property
    def length(self) -> int:
        """Number of slots read."""
        return self.input_ids_BS.shape[1]

    def reorder(self, index_N: Tensor) -> None:
        """Let row i continue what was row ``index_N[i]``; the number of rows may change."""
        self.input_ids_BS, self.starts_BS = self.input_ids_BS[index_N], self.starts_BS[index_N]

    def truncate(self, length: int) -> None:
        """Forget everything after the first ``length`` slots."""
        self.input_ids_BS, self.starts_BS = self.input_ids_BS[:, :length], self.starts_BS[:, :length]

    def append(self, input_ids_BS: Tensor, starts_BS: Tensor) -> None:
        """Take in the slots of one more call."""
        self.input_ids_BS = torch.cat([self.input_ids_BS.to(input_ids_BS.device), input_ids_BS], dim=1)
        self.starts_BS = torch.cat([self.starts_BS.to(starts_BS.device), starts_BS], dim=1)


@dataclass(frozen=True)
class _Level:
    """One order's n-grams (see ``kneser_ney.Level``), and what follows from their counts for each context."""

    offsets: Tensor
    tokens: Tensor
    counts: Tensor
    totals: Tensor  # int32, 1 where a context has no continuation
    backoff: Tensor  # float32, 1 where a context has no continuation
    discounts: Tensor  # float64 (4,): by count 0, 1, 2, 3 and more
    longest: int  # the largest number of continuations of a context

    def find(self, contexts: Tensor, tokens: Tensor) -> Tensor:
        """Numbers of the n-grams (context, token), -1 where there is none; by bisection in all rows at once."""
        known = contexts >= 0
        row = contexts.clamp(min=0)
        low, high = self.offsets[row].long(), self.offsets[row + 1].long()
        high = torch.where(known, high, low)
        end, last = high, len(self.tokens) - 1
        if last < 0:
            return torch.full_like(contexts, -1)
        for _ in range(self.longest.bit_length()):
            middle = (low + high) // 2
            before = (self.tokens[middle.clamp(max=last)] < tokens) & (low < high)
            low, high = torch.where(before, middle + 1, low), torch.where(before, high, middle)
        found = (low < end) & (self.tokens[low.clamp(max=last)] == tokens)
        return torch.where(found, low, -1)

    def mass(self, ngrams: Tensor, contexts: Tensor) -> Tensor:
        """What the n-grams keep of their context's probability after the discount (float64)."""
        counts = self.counts[ngrams]
        kept = counts.double() - self.discounts[counts.clamp(max=3).long()]
        return kept.clamp_(min=0) / self.totals[contexts]


class NGramModel(LanguageModelCalls):
    """A fitted n-gram model with the calls of every language model; it has counts instead of parameters.

    Its hidden states are the numbers of a slot's contexts, shortest first (int64 B S C, -1 for one never seen). All
    arithmetic is float64, whatever type the module is moved to.
    """

    max_positions: int | None = None

    def __init__(self, config: NGramConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        contexts = 1
        for order, ngrams in enumerate(config.num_ngrams, start=1):
            self.register_buffer(f"offsets_{order}", torch.zeros(contexts + 1, dtype=torch.int32))
            self.register_buffer(f"tokens_{order}", torch.zeros(ngrams, dtype=torch.int32))
            self.register_buffer(f"counts_{order}", torch.zeros(ngrams, dtype=torch.int32))
            contexts = ngrams
        self._derived: list[_Level] = []  # of other counts once a state is loaded
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def hidden(self, input_ids_BS: Tensor, **reading: Unpack[Reading]) -> Tensor:
        """The contexts that end in every slot: numbers of n-grams of orders 1 to ``order - 1`` (int64 B S C)."""
        cache, starts_BS = reading.get("cache"), document_starts(input_ids_BS, **reading)
        assert cache is None or isinstance(cache, NGramCache), "an n-gram model needs the cache that it made"
        new = input_ids_BS.shape[1]
        if cache is not None:
            cache.append(input_ids_BS, starts_BS)
            seen = new + self.config.order - 2
            input_ids_BS, starts_BS = cache.input_ids_BS[:, -seen:], cache.starts_BS[:, -seen:]
        slots_S = torch.arange(input_ids_BS.shape[1], device=input_ids_BS.device)
        begin_BS = torch.where(starts_BS, slots_S, 0).cummax(dim=1).values
        depth_BS = slots_S - begin_BS
        contexts = [input_ids_BS]
        for order in range(2, self.config.order):
            before = nn.functional.pad(contexts[-1][:, :-1], (1, 0), value=-1)
            reachable = torch.where(depth_BS >= order - 1, before, -1)
            contexts.append(self._find(order, reachable, input_ids_BS))
        hidden_BSC = torch.stack(contexts, dim=-1)[:, -new:]
        return hidden_BSC[..., : self.config.order - 1]

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Log-probabilities of every token (float32 ... V) in the contexts of ``hidden``."""
        contexts_NC = hidden.flatten(0, -2)
        step = max(1, _CHUNK_LOGITS // self.vocab_size)
        parts = [self._distribution(part).log_().float() for part in torch.split(contexts_NC, step)]
        return torch.cat(parts).view(*hidden.shape[:-1], self.vocab_size)

    @torch.no_grad()
    def target_log_probs(self, input_ids_BS: Tensor, labels_BS: Tensor, **reading: Unpack[Reading]) -> Tensor:
        """Log-probability of each label (float32 B S), 0 where the label is -100."""
        contexts_NC, labels_N = self.hidden(input_ids_BS, **reading).flatten(0, 1), labels_BS.flatten()
        parts = [
            self._target_probabilities(contexts, tokens.clamp(min=0)).log_().float()
            for contexts, tokens in in_chunks(_CHUNK_SLOTS, contexts_NC, labels_N)
        ]
        return torch.where(labels_N == IGNORE_INDEX, 0.0, torch.cat(parts)).view(labels_BS.shape)

    def new_cache(self, batch_size: int, max_length: int) -> NGramCache:
        """A cache for ``batch_size`` sequences; it grows as it reads."""
        return NGramCache(batch_size)

    def statistics(self, *, sequence_length: int) -> Statistics:
        """The numbers of n-grams stand for parameters; those of order 1, one a token, for the embedding."""
        ngrams = sum(self.config.num_ngrams)
        return Statistics(
            parameters=ngrams,
            embedding_parameters=self.vocab_size,
            non_embedding_parameters=ngrams - self.vocab_size,
            forward_flops_per_token=2.0 * self.config.order,  # of one target: a product and a sum for each order
            backward_flops_per_token=0.0,
            activation_bytes_per_token=0,
            cache_bytes_per_token=9,
        )

    def _find(self, order: int, contexts: Tensor, tokens: Tensor) -> Tensor:
        level, pairs = self._levels()[order - 1], in_chunks(_CHUNK_SLOTS, contexts.flatten(), tokens.flatten())
        return torch.cat([level.find(rows, columns) for rows, columns in pairs]).view(contexts.shape)

    def _seen(self, contexts_NC: Tensor) -> Iterator[tuple[_Level, Tensor, Tensor]]:
        """Each order above 1, lowest first: the rows whose context it has seen, and the numbers of these contexts."""
        for level, contexts in zip(self._levels()[1:], contexts_NC.unbind(1), strict=True):
            rows = (contexts >= 0).nonzero().squeeze(1)
            yield level, rows, contexts[rows]

    def _distribution(self, contexts_NC: Tensor) -> Tensor:
        """Probabilities of all tokens (float64 N V): each order adds its mass to what it leaves of the order below."""
        probabilities_NV = self._unigrams().expand(len(contexts_NC), -1).clone()
        for level, rows, contexts in self._seen(contexts_NC):
            begin = level.offsets[contexts].long()
            probabilities_NV[rows] *= level.backoff[contexts, None]
            sizes = level.offsets[contexts + 1] - begin
            owner = torch.repeat_interleave(sizes)
            entry = torch.arange(len(owner), device=rows.device)
            ngrams = entry - (sizes.cumsum(0) - sizes)[owner] + begin[owner]
            tokens = level.tokens[ngrams].long()
            probabilities_NV[rows[owner], tokens] += level.mass(ngrams, contexts[owner])
        return probabilities_NV

    def _target_probabilities(self, contexts_NC: Tensor, tokens: Tensor) -> Tensor:
        """Probability of one token in each context (float64 N)."""
        probabilities = self._unigrams()[tokens]
        for level, rows, contexts in self._seen(contexts_NC):
            ngrams = level.find(contexts, tokens[rows])
            mass = torch.where(ngrams >= 0, level.mass(ngrams.clamp(min=0), contexts), 0.0)
            probabilities[rows] = probabilities[rows] * level.backoff[contexts] + mass
        return probabilities

    def _unigrams(self) -> Tensor:
        """The distribution without context: the discounted counts, interpolated with the uniform distribution."""
        level = self._levels()[0]
        every = torch.arange(self.vocab_size, device=level.tokens.device)
        return level.mass(every, torch.zeros_like(every)) + level.backoff / self.vocab_size

    def _levels(self) -> list[_Level]:
        """The levels with their derived tables, made at first use and after a move to another device."""
        if not self._derived or self._derived[0].tokens.device != self.get_buffer("tokens_1").device:
            self._derived = [self._derive(order) for order in range(1, self.config.order + 1)]
        return self._derived

    def _derive(self, order: int) -> _Level:
        offsets, tokens, counts = (self.get_buffer(f"{name}_{order}") for name in ("offsets", "tokens", "counts"))
        discounts = torch.tensor([0.0, *self.config.discounts[order - 1]], dtype=torch.float64, device=counts.device)
        bounds = offsets.long()
        held_back = torch.minimum(discounts[counts.clamp(max=3).long()], counts.double())
        totals = _sums(counts, bounds)
        backoff = _sums(held_back, bounds)
        empty = totals == 0
        backoff = torch.where(empty, 1.0, backoff / totals).float()
        totals = torch.where(empty, 1, totals).int()
        longest = int((bounds[1:] - bounds[:-1]).max()) if len(bounds) > 1 else 0
        return _Level(offsets, tokens, counts, totals, backoff, discounts, longest)


def check_order(order: int) -> None:
    """Refuse an order outside 1 to 5.

    Raises:
        SettingsError: ``ngram.order``.
    """
    if not 1 <= order <= MAX_ORDER:
        raise SettingsError("ngram.order", order=order, largest=MAX_ORDER)


def fit(
    source: TokenSource, *, order: int = MAX_ORDER, vocab_size: int, end_id: int, context_id: int | None = None
) -> NGramModel:
    """Count a corpus and return its model; what it took and where discounts had to be fallen back on is announced.

    Its documents end with ``end_id``, and are read after ``context_id``, or else after the end token too.

    Raises:
        SettingsError: see ``check_order``.
        RunError: ``ngram.memory`` when counting would need more memory than the machine has left.
    """
    check_order(order)
    started = time.monotonic()
    num_tokens = int(source.bounds[-1])
    needed, available = num_tokens * _FIT_BYTES_PER_TOKEN, machine.memory().free
    if available is not None and needed > available:
        raise RunError("ngram.memory", tokens=num_tokens, needed=needed / 1e9, available=available / 1e9)
    levels, discounts, context_id = [], [], end_id if context_id is None else context_id
    counted = kneser_ney.count_levels(source, order=order, vocab_size=vocab_size, end_id=end_id, context_id=context_id)
    with progress("ngram.counting", total=order, unit="orders") as bar:
        for level in counted:
            found = kneser_ney.discounts(level.counts)
            levels.append(level)
            if found is None:
                warn("ngram.fallback_discounts", order=len(levels), discounts=FALLBACK_DISCOUNTS)
            discounts.append(found or FALLBACK_DISCOUNTS)
            bar.advance()
    sizes = tuple(len(level.tokens) for level in levels)
    config = NGramConfig(
        vocab_size=vocab_size, end_token_id=end_id, order=order, num_ngrams=sizes, discounts=tuple(discounts)
    )
    model = NGramModel(config)
    for number, level in enumerate(levels, start=1):
        for name in ("offsets", "tokens", "counts"):
            setattr(model, f"{name}_{number}", torch.from_numpy(getattr(level, name)))
    seconds, megabytes = time.monotonic() - started, sum(buffer.nbytes for buffer in model.buffers()) / 1e6
    notice("ngram.fitted", order=order, tokens=num_tokens, ngrams=sum(sizes), seconds=seconds, megabytes=megabytes)
    return model


def _sums(values: Tensor, bounds: Tensor) -> Tensor:
    """Sums of the stretches ``bounds[i]:bounds[i + 1]`` (float64); an empty stretch sums to 0."""
    total = torch.zeros(len(values) + 1, dtype=torch.float64, device=values.device)
    torch.cumsum(values.double(), 0, out=total[1:])
    return total[bounds[1:]] - total[bounds[:-1]]


def _forget(model: nn.Module, _: object) -> None:
    """Tables are derived anew from counts that were loaded; a function with a name, so that a model can be pickled."""
    assert isinstance(model, NGramModel)
    model._derived.clear()
