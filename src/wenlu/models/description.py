"""A model drawn line by line as it is after all choices, each line with its parameters; from its config alone.

What a line says are notices: ids of the catalogue and their values, which whoever prints puts into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from wenlu.core.log import Notice
from wenlu.models.config import (
    Activation,
    Bias,
    Head,
    LanguageModel,
    ModelSettings,
    StackConfig,
    TransformerConfig,
    given,
)
from wenlu.models.statistics import Part, Statistics, transformer_parts, transformer_statistics

if TYPE_CHECKING:
    from torch import nn

    from wenlu.models.ngram import NGramConfig
    from wenlu.models.recurrent import LSTMConfig

Section = Literal["embeddings", "layers", "heads"]

LONGEST_ROW = 1024  # whose costs are told, where a model can read as much
_PROJECTIONS: tuple[Bias, ...] = ("q", "k", "v", "o")
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
        sums: dict[str, int] = {"embeddings": 0, "layers": 0, "heads": 0}
        for line in self.lines:
            sums[line.section] += line.parameters
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
    from wenlu.models.transformer import Transformer

    kind = family(settings.kind)
    if isinstance(kind, MixtureFamily):
        return Description(tuple(_mixture_lines((), ())))
    if isinstance(kind, NGramFamily):
        order = given(settings.order, ngram.MAX_ORDER)
        config = ngram.NGramConfig(vocab_size=vocab_size, end_token_id=0, order=order, num_ngrams=(), discounts=())
        return Description(tuple(_ngram_lines(config)))
    with meta_device():
        model = build_model(settings, vocab_size=vocab_size, end_id=0, sequence_length=sequence_length)
    if isinstance(model, Transformer):
        equipped = replace(model.config, heads=model.config.heads | heads)
        return describe_transformer(equipped, sequence_length=sequence_length)
    return describe_model(model, sequence_length=sequence_length)


def describe_model(model: nn.Module, *, sequence_length: int | None = None) -> Description:
    """The drawing of a model of any kind; one on the device ``meta`` will do."""
    from wenlu.models.mixture import Mixture
    from wenlu.models.ngram import NGramModel
    from wenlu.models.recurrent import RecurrentModel
    from wenlu.models.transformer import Transformer

    if isinstance(model, Transformer):
        return describe_transformer(model.config, sequence_length=sequence_length)
    length = given(sequence_length, LONGEST_ROW)
    lines: Iterable[Line]
    if isinstance(model, RecurrentModel):
        lines = _lstm_lines(model.config)
    elif isinstance(model, NGramModel):
        lines = _ngram_lines(model.config)
    elif isinstance(model, Mixture):
        drawn = [describe_model(component, sequence_length=length) for component in model.components]
        lines = _mixture_lines(model.weights, drawn)
    else:
        lines = _module_lines(model)
    return Description(tuple(lines), cast(LanguageModel, model).statistics(sequence_length=length), length)


def describe_transformer(config: TransformerConfig, *, sequence_length: int | None = None) -> Description:
    """The drawing of a Transformer; its costs are those of rows as long as it can read, up to ``LONGEST_ROW``."""
    length = sequence_length or min(LONGEST_ROW, config.main.max_positions)
    parts = {part.name: part for part in transformer_parts(config)}
    towers = config.towers.items()
    lines = [line for name, stack in towers for line in _stack_lines(name, stack, config, parts)]
    lines += _head_lines(config, parts)
    statistics = transformer_statistics(config, sequence_length=length)
    return Description(tuple(lines), statistics, length, config)


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
    attend = Notice(f"describe.{stack.attention}")
    yield _sublayer(f"{name}.layers.{{}}.self_attention", attend, stack, parts)
    yield Line("layers", 3, (), tuple(_attention_details(stack)))
    if sight := tuple(_sight(stack)):
        yield Line("layers", 3, (), sight)
    if stack.memory_size is not None:
        yield _sublayer(f"{name}.layers.{{}}.cross_attention", Notice("describe.cross"), stack, parts)
        yield Line("layers", 3, (), tuple(_attention_details(stack)))
    yield _sublayer(f"{name}.layers.{{}}.ffn", Notice("describe.ffn"), stack, parts)
    yield Line("layers", 3, (), tuple(_ffn_details(stack)))
    if (final := parts.get(f"{name}.final_norm")) is not None:
        yield Line("layers", 1, (_norm(stack),), (Notice("describe.final"),), (final,))


def _embedding_lines(
    name: str, stack: StackConfig, config: TransformerConfig, parts: dict[str, Part]
) -> Iterator[Line]:
    """How tokens come in, a line for each table."""
    E, offset = stack.token_size, stack.position_offset
    places = stack.max_positions + offset
    offsets = (_say("describe.offset", offset=offset),) if offset else ()
    relative = _say("describe.relative", buckets=stack.relative_buckets, distance=stack.relative_distance)
    tables: dict[str, tuple[Notice, tuple[Notice, ...]]] = {
        "embeddings.token": (_say("describe.tokens", rows=config.vocab_size, size=E), ()),
        "embeddings.spectrogram": (_say("describe.spectrogram", bands=stack.mel_bins, size=E), ()),
        "embeddings.position": (_say("describe.learned", rows=places, size=E), offsets),
        "embeddings.segment": (_say("describe.segments", rows=stack.num_segments, size=E), ()),
        "embeddings.norm": (_norm(stack), ()),
        "embeddings.projection": (_matrix(E, stack.hidden_size), ()),
        "relative": (relative, ()),
    }
    scale = (_say("describe.times", scale=stack.embedding_scale),) if stack.embedding_scale != 1.0 else ()
    for module, (step, details) in tables.items():
        part = parts.get(f"{name}.{module}")
        if part is not None:
            steps = (step, *scale) if module == "embeddings.token" else (step,)
            yield Line("embeddings", 1, steps, details, (part,))
        elif module == "embeddings.token" and stack.mel_bins is None:
            yield Line("embeddings", 1, (Notice("describe.tokens_shared"), *scale))
        elif module == "embeddings.position" and stack.position == "sinusoidal":
            yield Line("embeddings", 1, (Notice("describe.sinusoidal"),), offsets)


def _sublayer(prefix: str, step: Notice, stack: StackConfig, parts: dict[str, Part]) -> Line:
    """x and what is added to it, with the norms where they stand (``Layer.residual``)."""
    names = [prefix, f"{prefix}_norm", f"{prefix}_end_norm"]
    x, add, norm = Notice("describe.x"), Notice("describe.add"), _norm(stack)
    placed = {
        "before": (x, norm, step, add),
        "after": (x, step, add, norm),
        "around": (x, norm, step, norm, add) if names[2] in parts else (x, norm, step, add),
    }
    return Line("layers", 2, placed[stack.norm_placement], (), tuple(parts[name] for name in names if name in parts))


def _attention_details(stack: StackConfig) -> Iterator[Notice]:
    yield _say("describe.heads", heads=stack.num_heads, size=stack.head_size)
    if stack.kv_heads != stack.num_heads:
        yield _say("describe.groups", heads=stack.kv_heads)
    if stack.qk_norm == "head":
        yield Notice("describe.qk_norm")
    if stack.attention_scale is not None and stack.attention_scale != stack.head_size**-0.5:
        yield _say("describe.scores", scale=stack.attention_scale)
    if stack.attention_softcap is not None:
        yield _say("describe.softcap", cap=stack.attention_softcap)
    biased = [name for name in _PROJECTIONS if name in stack.biases]
    if biased and len(biased) < len(_PROJECTIONS):
        yield _say("describe.biases_on", names=", ".join(biased))
    else:
        yield Notice("describe.biases" if biased else "describe.no_biases")


def _sight(stack: StackConfig) -> Iterator[Notice]:
    """Positions that attention itself knows, and how far it sees."""
    if stack.position == "rotary":
        yield _say("describe.rotary", theta=stack.rope_theta)
        scaling = stack.rope_scaling
        if scaling is not None and scaling.original_max_positions is not None:
            yield _say("describe.stretched_slow", factor=scaling.factor, positions=scaling.original_max_positions)
        elif scaling is not None:
            yield _say("describe.stretched", factor=scaling.factor)
    if stack.window is not None:
        yield _say("describe.window", window=stack.window)
        if stack.full_every is not None:
            yield _say("describe.full_every", every=stack.full_every)
        if stack.window_rope_theta is not None:
            yield _say("describe.window_rotary", theta=stack.window_rope_theta)


def _ffn_details(stack: StackConfig) -> Iterator[Notice]:
    yield _say("describe.widths", size=stack.hidden_size, inner=stack.intermediate_size)
    if stack.ffn == "gated":
        yield _say("describe.gated", activation=stack.activation)
    else:
        yield _activation(stack.activation)
    yield Notice("describe.biases" if "ffn" in stack.biases else "describe.no_biases")


def _head_lines(config: TransformerConfig, parts: dict[str, Part]) -> Iterator[Line]:
    """What reads the hidden states, a line for each head; that of the vocabulary has one for its transform, too."""
    stack = config.main
    D, E = stack.hidden_size, stack.token_size
    every, last = Notice("describe.every"), config.pooled_position == "last"
    position = Notice("describe.last" if last else "describe.first")
    pooled = Notice("describe.pooled") if "pooler" in config.heads else position

    def line(steps: Sequence[Notice], *names: str) -> Line:
        held = tuple(parts[name] for name in (f"head.{name}" for name in names) if name in parts)
        return Line("heads", 0, tuple(steps), (), held)

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


def _to_words(config: TransformerConfig) -> Iterator[Notice]:
    E, V = config.main.token_size, config.vocab_size
    if config.head_scale != 1.0:
        yield _say("describe.times", scale=config.head_scale)
    yield _say("describe.tied", rows=E, columns=V) if config.tie_embeddings else _matrix(E, V)
    if config.head_bias:
        yield Notice("describe.add_bias")
    if config.logit_softcap is not None:
        yield _say("describe.capped", cap=config.logit_softcap)


def _lstm_lines(config: LSTMConfig) -> Iterator[Line]:
    V, E, H = config.vocab_size, config.embedding_size, config.hidden_size
    gates = sum(4 * H * ((E if layer == 0 else H) + H + 2) for layer in range(config.num_layers))
    tokens = _say("describe.tokens", rows=V, size=E)
    yield Line("embeddings", 0, (tokens,), (), (Part("embedding", V * E),))
    yield Line("layers", 0, (_say("describe.lstm", num_layers=config.num_layers, size=H),), (), (Part("lstm", gates),))
    every, bias, logits = Notice("describe.every"), Notice("describe.add_bias"), Notice("describe.logits")
    if config.tie_embeddings:
        steps = (every, _matrix(H, E), _say("describe.tied", rows=E, columns=V), bias, logits)
        yield Line("heads", 0, steps, (), (Part("projection", H * E + E), Part("bias", V)))
    else:
        yield Line("heads", 0, (every, _matrix(H, V), bias, logits), (), (Part("head", H * V + V),))


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


def _say(id: str, /, **values: object) -> Notice:
    return Notice(id, values)


def _norm(stack: StackConfig) -> Notice:
    return Notice(f"describe.{stack.norm}")


def _matrix(rows: int, columns: int) -> Notice:
    return _say("describe.matrix", rows=rows, columns=columns)


def _activation(name: Activation) -> Notice:
    return _say("describe.activation", name=name)
