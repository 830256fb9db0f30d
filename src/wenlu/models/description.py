"""A model drawn line by line as it is after all choices, each line with its parameters; from its config alone.

What a line says are notices: ids of the catalogue and their values, which whoever prints puts into words.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast, get_args

from wenlu.core.log import Notice
from wenlu.models.config import Head, LanguageModel, ModelSettings, StackConfig, TransformerConfig, given
from wenlu.models.statistics import Part, Statistics, transformer_parts

if TYPE_CHECKING:
    from torch import nn

    from wenlu.models.ngram import NGramConfig
    from wenlu.models.recurrent import RecurrentModel

Section = Literal["embeddings", "layers", "heads"]

LONGEST_ROW = 1024  # whose costs are told, where a model can read as much
_PROJECTIONS = ("q", "k", "v", "o")
_SHOWN_LABELS = 6


@dataclass(frozen=True)
class Line:
    """One line: what a token passes in this order, what is particular about it, and the parts that it has."""

    section: Section
    indent: int
    steps: tuple[Notice, ...]
    details: tuple[Notice, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def parameters(self) -> int:
        """Parameters of the parts, with all their copies."""
        return sum(part.parameters for part in self.parts)


@dataclass(frozen=True)
class Description:
    """A drawing, sums over its lines, and what a token costs in rows of ``sequence_length``."""

    lines: tuple[Line, ...]
    statistics: Statistics | None = None  # None of a kind whose models come from data alone
    sequence_length: int = LONGEST_ROW
    config: TransformerConfig | None = None  # all choices, of a Transformer

    @property
    def sums(self) -> dict[str, int]:
        """Parameters of the embeddings, of the layers with what stands between them, of the heads, and of all."""
        sums = {
            section: sum(line.parameters for line in self.lines if line.section == section)
            for section in get_args(Section)
        }
        return {**sums, "total": sum(sums.values())}

    @property
    def costs(self) -> list[Notice]:
        """What a token costs, in computation and in the cache."""
        if self.statistics is None:
            return []
        flops, size = self.statistics.forward_flops_per_token, self.statistics.cache_bytes_per_token
        costs = [_say("describe.flops", forward=flops / 1e6, sequence_length=self.sequence_length)]
        if self.config is not None and self.config.main.memory_size is not None:  # half of it is the encoder's
            costs.append(_say("describe.cache_crossing", bytes=size // 2))
        elif size:
            costs.append(_say("describe.cache", bytes=size))
        return costs


def describe_kind(
    settings: ModelSettings, *, vocab_size: int, sequence_length: int, heads: frozenset[Head] = frozenset()
) -> Description:
    """The drawing of a new model of the kind and the sizes that the settings say, with these heads as well.

    Raises:
        SettingsError: what ``build_model`` refuses.
    """
    from wenlu.models import ngram
    from wenlu.models.build import build_model, family
    from wenlu.models.families.mixture import MixtureFamily
    from wenlu.models.families.ngram import NGramFamily
    from wenlu.models.meta import meta_device
    from wenlu.models.transformer import Transformer, on_meta

    kind = family(settings.kind)
    if isinstance(kind, MixtureFamily):
        return Description(tuple(_mixture_lines((), ())))
    if isinstance(kind, NGramFamily):
        order = given(settings.order, ngram.MAX_ORDER)
        config = ngram.NGramConfig(vocab_size=vocab_size, end_token_id=0, order=order, num_ngrams=(), discounts=())
        return Description(tuple(_ngram_lines(config)))
    with meta_device():
        model = build_model(settings, vocab_size=vocab_size, end_id=0, sequence_length=sequence_length)
    if isinstance(model, Transformer) and not heads <= model.config.heads:
        model = on_meta(replace(model.config, heads=model.config.heads | heads))
    return describe_model(model, sequence_length=sequence_length)


def describe_model(model: nn.Module, *, sequence_length: int | None = None) -> Description:
    """The drawing of a model of any kind; one on the device ``meta`` will do.

    Costs are those of rows of ``LONGEST_ROW``, or as long as a Transformer can read, unless a length is given.
    """
    from wenlu.models.mixture import Mixture
    from wenlu.models.ngram import NGramModel
    from wenlu.models.recurrent import RecurrentModel
    from wenlu.models.transformer import Transformer

    length, config, lines = given(sequence_length, LONGEST_ROW), None, _module_lines(model)
    if isinstance(model, Transformer):
        config, parts = model.config, {part.name: part for part in transformer_parts(model)}
        length = given(sequence_length, min(LONGEST_ROW, config.main.max_positions))
        stacks = [_stack_lines(name, stack, model.config, parts) for name, stack in config.towers.items()]
        lines = itertools.chain(*stacks, _head_lines(config, parts))
    elif isinstance(model, RecurrentModel):
        lines = _lstm_lines(model)
    elif isinstance(model, NGramModel):
        lines = _ngram_lines(model.config)
    elif isinstance(model, Mixture):
        drawn = [describe_model(component, sequence_length=length) for component in model.components]
        lines = _mixture_lines(model.weights, drawn)
    statistics = cast(LanguageModel, model).statistics(sequence_length=length)
    return Description(tuple(lines), statistics, length, config)


def describe_transformer(config: TransformerConfig, *, sequence_length: int | None = None) -> Description:
    """The drawing of a Transformer that is nothing but its config."""
    from wenlu.models.transformer import on_meta

    return describe_model(on_meta(config), sequence_length=sequence_length)


def _stack_lines(name: str, stack: StackConfig, config: TransformerConfig, parts: dict[str, Part]) -> Iterator[Line]:
    tower = "describe.encoder" if name == "encoder" else "describe.decoder"
    sizes = _say(tower, num_layers=stack.num_layers, size=stack.hidden_size, positions=stack.max_positions)
    yield Line("layers", 0, (sizes,))
    yield from _embedding_lines(name, stack, config, parts)
    layer = [part for part in parts.values() if part.name.startswith(f"{name}.layers.")]
    each, distinct = sum(part.each for part in layer), stack.distinct_layers
    shared = (_say("describe.layer_shared", distinct=distinct),) if distinct < stack.num_layers else ()
    times = _say("describe.layer", num_layers=stack.num_layers)
    yield Line("layers", 1, (times,), (_say("describe.layer_each", each=each), *shared))
    attention = _attention_details(stack)
    sublayers: list[tuple[str, str, Sequence[tuple[Notice, ...]]]] = [
        ("self_attention", f"describe.{stack.attention}", (attention, _sight(stack))),
        ("cross_attention", "describe.cross", (attention,)),
        ("ffn", "describe.ffn", (_ffn_details(stack),)),
    ]
    for module, step, details in sublayers:
        if f"{name}.layers.{{}}.{module}" in parts:
            yield _sublayer(f"{name}.layers.{{}}.{module}", Notice(step), stack, parts)
            yield from (Line("layers", 3, (), told) for told in details if told)
    if (final := parts.get(f"{name}.final_norm")) is not None:
        yield Line("layers", 1, (_norm(stack),), (Notice("describe.final"),), (final,))


def _embedding_lines(
    name: str, stack: StackConfig, config: TransformerConfig, parts: dict[str, Part]
) -> Iterator[Line]:
    """How tokens come in, a line for each table."""
    E, offset = stack.token_size, stack.position_offset
    offsets = (_say("describe.offset", offset=offset),) if offset else ()
    scale = (_say("describe.times", scale=stack.embedding_scale),) if stack.embedding_scale != 1.0 else ()
    shared = (Notice("describe.tokens_shared"), *scale) if stack.mel_bins is None else ()
    sinusoidal = (Notice("describe.sinusoidal"),) if stack.position == "sinusoidal" else ()
    relative = _say("describe.relative", buckets=stack.relative_buckets, distance=stack.relative_distance)
    learned = _say("describe.learned", rows=stack.max_positions + offset, size=E)
    tables: dict[str, Sequence[tuple[Notice, ...]]] = {  # with a table; without one; what is particular
        "embeddings.token": ((_say("describe.tokens", rows=config.vocab_size, size=E), *scale), shared, ()),
        "embeddings.spectrogram": ((_say("describe.spectrogram", bands=stack.mel_bins, size=E),), (), ()),
        "embeddings.position": ((learned,), sinusoidal, offsets),
        "embeddings.segment": ((_say("describe.segments", rows=stack.num_segments, size=E),), (), ()),
        "embeddings.norm": ((_norm(stack),), (), ()),
        "embeddings.projection": ((_matrix(E, stack.hidden_size),), (), ()),
        "relative": ((relative,), (), ()),
    }
    for module, (steps, otherwise, details) in tables.items():
        part = parts.get(f"{name}.{module}")
        if part or otherwise:
            yield Line("embeddings", 1, steps if part else otherwise, details, (part,) if part else ())


def _sublayer(prefix: str, step: Notice, stack: StackConfig, parts: dict[str, Part]) -> Line:
    """x and what is added to it, with the norms where they stand (``Layer.residual``)."""
    names = [prefix, f"{prefix}_norm", f"{prefix}_end_norm"]
    x, add, norm = Notice("describe.x"), Notice("describe.add"), _norm(stack)
    ends = (norm,) if names[2] in parts else ()
    steps = (x, step, add, norm) if stack.norm_placement == "after" else (x, norm, step, *ends, add)
    return Line("layers", 2, steps, (), tuple(parts[name] for name in names if name in parts))


def _attention_details(stack: StackConfig) -> tuple[Notice, ...]:
    biased, scale = [name for name in _PROJECTIONS if name in stack.biases], stack.attention_scale
    biases = _say("describe.biases_on", names=", ".join(biased))
    if len(biased) in (0, len(_PROJECTIONS)):
        biases = Notice("describe.biases" if biased else "describe.no_biases")
    return _said(
        (True, _say("describe.heads", heads=stack.num_heads, size=stack.head_size)),
        (stack.kv_heads != stack.num_heads, _say("describe.groups", heads=stack.kv_heads)),
        (stack.qk_norm == "head", Notice("describe.qk_norm")),
        (scale not in (None, stack.head_size**-0.5), _say("describe.scores", scale=scale)),
        (stack.attention_softcap is not None, _say("describe.softcap", cap=stack.attention_softcap)),
        (True, biases),
    )


def _sight(stack: StackConfig) -> tuple[Notice, ...]:
    """Positions that attention itself knows, and how far it sees."""
    scaling, rotary, windowed = stack.rope_scaling, stack.position == "rotary", stack.window is not None
    slow, factor = scaling and scaling.original_max_positions, scaling and scaling.factor
    base, far = stack.window_rope_theta, stack.full_every
    return _said(
        (rotary, _say("describe.rotary", theta=stack.rope_theta)),
        (rotary and slow is not None, _say("describe.stretched_slow", factor=factor, positions=slow)),
        (rotary and factor is not None and slow is None, _say("describe.stretched", factor=factor)),
        (windowed, _say("describe.window", window=stack.window)),
        (windowed and far is not None, _say("describe.full_every", every=far)),
        (windowed and base is not None, _say("describe.window_rotary", theta=base)),
    )


def _ffn_details(stack: StackConfig) -> tuple[Notice, ...]:
    widths = _say("describe.widths", size=stack.hidden_size, inner=stack.intermediate_size)
    gated = _say("describe.gated", activation=stack.activation)
    biases = Notice("describe.biases" if "ffn" in stack.biases else "describe.no_biases")
    return widths, gated if stack.ffn == "gated" else _activation(stack.activation), biases


def _head_lines(config: TransformerConfig, parts: dict[str, Part]) -> Iterator[Line]:
    """What reads the hidden states, a line for each head; that of the vocabulary has one for its transform, too."""
    stack = config.main
    D, E = stack.hidden_size, stack.token_size
    every, last = Notice("describe.every"), config.pooled_position == "last"
    position = Notice("describe.last" if last else "describe.first")
    pooled = Notice("describe.pooled") if "pooler" in config.heads else position

    def line(steps: Sequence[Notice], *names: str) -> Line:
        held = [parts[f"head.{name}"] for name in names if f"head.{name}" in parts]
        return Line("heads", 0, tuple(steps), (), tuple(held))

    if "language_model" in config.heads:
        read = every
        if config.head_transform is not None:
            read = Notice("describe.transformed")
            yield line((every, _matrix(D, E), _activation(config.head_transform), _norm(stack), read), "transform")
        yield line([read, *_to_words(config), Notice("describe.logits")], "output", "bias")
    named = len(config.labels)
    labels = ", ".join(config.labels[:_SHOWN_LABELS]) + (" …" if named > _SHOWN_LABELS else "")
    others: dict[Head, tuple[str, tuple[Notice, ...]]] = {
        "pooler": ("pooler", (position, _matrix(D, D), _activation(config.pooler_activation), pooled)),
        "pair": ("pair", (pooled, _matrix(D, 2), Notice("describe.pair"))),
        "sequence": ("classifier", (pooled, _matrix(D, named), _say("describe.sequence", labels=labels))),
        "token": ("classifier", (every, _matrix(D, named), _say("describe.token", labels=labels))),
        "span": ("span", (every, _matrix(D, 2), Notice("describe.span"))),
    }
    yield from (line(steps, name) for head, (name, steps) in others.items() if head in config.heads)


def _to_words(config: TransformerConfig) -> tuple[Notice, ...]:
    E, V = config.main.token_size, config.vocab_size
    matrix = _say("describe.tied", rows=E, columns=V) if config.tie_embeddings else _matrix(E, V)
    return _said(
        (config.head_scale != 1.0, _say("describe.times", scale=config.head_scale)),
        (True, matrix),
        (config.head_bias, Notice("describe.add_bias")),
        (config.logit_softcap is not None, _say("describe.capped", cap=config.logit_softcap)),
    )


def _lstm_lines(model: RecurrentModel) -> Iterator[Line]:
    config, sizes = model.config, Counter[str]()
    for name, parameter in model.named_parameters():
        sizes[name.partition(".")[0]] += parameter.numel()
    V, E, H = config.vocab_size, config.embedding_size, config.hidden_size
    tokens = _say("describe.tokens", rows=V, size=E)
    layers = _say("describe.lstm", num_layers=config.num_layers, size=H)
    yield Line("embeddings", 0, (tokens,), (), (Part("embedding", sizes["embedding"]),))
    yield Line("layers", 0, (layers,), (), (Part("lstm", sizes["lstm"]),))
    words = (_matrix(H, E), _say("describe.tied", rows=E, columns=V)) if config.tie_embeddings else (_matrix(H, V),)
    steps = (Notice("describe.every"), *words, Notice("describe.add_bias"), Notice("describe.logits"))
    parts = [Part(name, sizes[name]) for name in ("head", "projection", "bias") if name in sizes]
    yield Line("heads", 0, steps, (), tuple(parts))


def _ngram_lines(config: NGramConfig) -> Iterator[Line]:
    yield Line("layers", 0, (_say("describe.ngram", order=config.order),))
    for order, (count, discounts) in enumerate(zip(config.num_ngrams, config.discounts, strict=True), start=1):
        one, two, three = discounts
        less = _say("describe.discounts", one=one, two=two, three=three)
        part = Part(f"counts_{order}", count)
        yield Line("layers", 1, (_say("describe.order", order=order),), (less,), (part,))


def _mixture_lines(weights: Sequence[float], drawn: Sequence[Description]) -> Iterator[Line]:
    yield Line("layers", 0, (Notice("describe.mixture"),))
    for number, (weight, below) in enumerate(zip(weights, drawn, strict=True)):
        yield Line("layers", 1, (_say("describe.component", weight=weight),))
        for line in below.lines:
            parts = tuple(replace(part, name=f"components.{number}.{part.name}") for part in line.parts)
            yield replace(line, indent=line.indent + 2, parts=parts)


def _module_lines(model: nn.Module) -> Iterator[Line]:
    """Of a kind that is not known here: its modules, and how many parameters each has."""
    for name, module in model.named_children():
        part = Part(name, sum(parameter.numel() for parameter in module.parameters()))
        yield Line("layers", 0, (_say("describe.module", name=name, type=type(module).__name__),), (), (part,))


def _said(*told: tuple[bool, Notice]) -> tuple[Notice, ...]:
    """What of this is so."""
    return tuple(notice for so, notice in told if so)


def _say(id: str, /, **values: object) -> Notice:
    return Notice(id, values)


def _norm(stack: StackConfig) -> Notice:
    return Notice(f"describe.{stack.norm}")


def _matrix(rows: int, columns: int) -> Notice:
    return _say("describe.matrix", rows=rows, columns=columns)


def _activation(name: str) -> Notice:
    return _say("describe.activation", name=name)
