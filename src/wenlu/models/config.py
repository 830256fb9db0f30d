"""What a model is, as data: the choices of a stack, the ``[model]`` table of a run, and the call all models share.

Every difference between model families is an independent choice on ``StackConfig``. No choice reads a family's name;
choices that contradict each other are refused with both settings in the message. A choice enters together with the
parity test of the family that needs it. This file imports no torch: settings are read before a model is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypedDict, TypeVar, Unpack

from wenlu.core.errors import SettingsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from wenlu.models.statistics import Statistics

Norm = Literal["layer_norm", "rms_norm", "rms_norm_plus_one"]  # plus one: the weight is added to 1 (Gemma)
# A sublayer, or what it was added to ("after"); around: both sides.
NormPlacement = Literal["before", "after", "around"]
OuterNorm = Literal["embedding", "final"]
Position = Literal["learned", "sinusoidal", "rotary", "relative"]
AttentionKind = Literal["causal", "bidirectional"]
FeedForwardKind = Literal["dense", "gated"]
Activation = Literal["gelu", "gelu_tanh", "silu", "relu", "tanh"]
QueryKeyNorm = Literal["none", "head"]
Head = Literal["language_model", "pooler", "pair", "sequence", "token", "span"]
Bias = Literal["q", "k", "v", "o", "ffn"]
Scheme = Literal["gpt2", "wenlu", "neighbours"]

ALL_BIASES: frozenset[Bias] = frozenset({"q", "k", "v", "o", "ffn"})
DEFAULT_ROPE_THETA = 10_000.0
_LARGEST, _MOST_LAYERS = 2**28, 10_000

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Stretching of the slow rotary frequencies by ``factor``, Llama 3.1's; without a longest context, of all of them.

    Wavelengths beyond ``original_max_positions / low_frequency_factor`` are multiplied by ``factor``, those below
    ``original_max_positions / high_frequency_factor`` stay, those between are interpolated.
    """

    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_max_positions: int | None = None

    def __post_init__(self) -> None:
        if self.high_frequency_factor <= self.low_frequency_factor:
            raise SettingsError(
                "models.rope_scaling_order", low=self.low_frequency_factor, high=self.high_frequency_factor
            )

    def to_hf(self) -> dict[str, object]:
        """What a config.json says of it."""
        if self.original_max_positions is None:
            return {"rope_type": "linear", "factor": self.factor}
        bounds = {"low_freq_factor": self.low_frequency_factor, "high_freq_factor": self.high_frequency_factor}
        longest = {"original_max_position_embeddings": self.original_max_positions}
        return {"rope_type": "llama3", "factor": self.factor, **bounds, **longest}


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """One tower of identical Transformer layers with its embeddings; by default causal, with norms before sublayers."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    num_kv_heads: int | None = None  # None: num_heads (multi-head); 1: multi-query
    head_dim: int | None = None  # None: hidden_size // num_heads
    num_distinct_layers: int | None = None  # None: all; ALBERT has one, used again and again
    attention: AttentionKind = "causal"
    memory_size: int | None = None  # of the encoder's states that each layer attends to as well; None: no such sublayer
    norm: Norm = "layer_norm"
    norm_eps: float = 1e-5
    norm_placement: NormPlacement = "before"
    outer_norms: frozenset[OuterNorm] = frozenset({"final"})  # after the embeddings, after the last layer
    qk_norm: QueryKeyNorm = "none"  # head: RMSNorm over each head of q and of k, before the rotation
    position: Position = "learned"
    position_offset: int = 0  # rows of the table before position 0 (RoBERTa and BART: 2)
    rope_theta: float = DEFAULT_ROPE_THETA
    rope_scaling: RopeScaling | None = None
    relative_buckets: int = 32
    relative_distance: int = 128
    window: int | None = None  # keys that a query sees, itself included; None: all
    full_every: int | None = None  # each n-th layer has no window
    window_rope_theta: float | None = None  # of layers with a window; None: rope_theta
    num_segments: int = 0
    embedding_size: int | None = None  # None: hidden_size; else a matrix takes embeddings to it (ALBERT)
    embedding_scale: float = 1.0
    mel_bins: int | None = None  # the input is a spectrogram, read by two convolutions (Whisper)
    ffn: FeedForwardKind = "dense"
    activation: Activation = "gelu_tanh"
    biases: frozenset[Bias] = ALL_BIASES
    attention_scale: float | None = None  # None: head size ** -0.5
    attention_softcap: float | None = None  # scores stay within it, by tanh (Gemma 2)
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0  # after the activation
    residual_dropout: float = 0.0
    final_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) is not None:
                check_size(name, getattr(self, name), least=_LEAST.get(name, 1))
        for name in _DROPOUTS:
            check_dropout(name, getattr(self, name))
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise SettingsError("models.heads_split", hidden_size=self.hidden_size, num_heads=self.num_heads)
        check_size("num_heads * head_dim", self.num_heads * self.head_size)
        if self.num_heads % self.kv_heads:
            raise SettingsError("models.kv_heads_split", num_heads=self.num_heads, num_kv_heads=self.kv_heads)
        if self.num_layers % self.distinct_layers:
            raise SettingsError(
                "models.layers_split", num_layers=self.num_layers, num_distinct_layers=self.distinct_layers
            )
        if self.position == "rotary" and self.head_size % 2:
            raise SettingsError("models.rope_odd_head", head_dim=self.head_size, position=self.position)
        for name, (choice, used) in _READ_BY.items():
            if getattr(self, choice) not in used and getattr(self, name) != getattr(StackConfig, name):
                raise _unread(name, getattr(self, name), choice, getattr(self, choice))
        for name in ("full_every", "window_rope_theta"):
            if self.window is None and getattr(self, name) is not None:
                raise _unread(name, getattr(self, name), "window", None)

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, resolved."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_size(self) -> int:
        """Size of one head, resolved."""
        return self.hidden_size // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def distinct_layers(self) -> int:
        """Number of layers with weights of their own, resolved."""
        return self.num_layers if self.num_distinct_layers is None else self.num_distinct_layers

    @property
    def token_size(self) -> int:
        """Size of a token's embedding, resolved."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    def window_of(self, layer: int) -> int | None:
        """The window of the layer with this number, from 0."""
        full = self.full_every is not None and (layer + 1) % self.full_every == 0
        return None if full else self.window


_SIZES = tuple(field.name for field in fields(StackConfig) if str(field.type).startswith("int"))
# Of the buckets a half looks each way, a half of it one by one.
_LEAST = {"num_segments": 0, "position_offset": 0, "relative_buckets": 4}
_DROPOUTS = tuple(field.name for field in fields(StackConfig) if field.name.endswith("_dropout"))
_READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {  # what only some answers to another choice read
    **dict.fromkeys(("rope_theta", "rope_scaling", "window_rope_theta"), ("position", ("rotary",))),
    **dict.fromkeys(("relative_buckets", "relative_distance"), ("position", ("relative",))),
    "position_offset": ("position", ("learned", "sinusoidal")),
    "window": ("position", ("learned", "sinusoidal", "rotary")),
}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A whole Transformer: its stacks, its vocabulary, and what stands on the hidden states.

    With an encoder alone, its states are those that the heads read; with both, the decoder attends to the encoder's.
    """

    vocab_size: int
    tie_embeddings: bool  # the output matrix is the token embedding: yes or no, there is no third way
    decoder: StackConfig | None = None
    encoder: StackConfig | None = None
    heads: frozenset[Head] = frozenset({"language_model"})
    head_transform: Activation | None = None  # a matrix, this activation and a norm before the output matrix (BERT)
    head_bias: bool = False
    head_scale: float = 1.0  # of the hidden states before the output matrix (T5)
    logit_softcap: float | None = None
    pooled_position: Literal["first", "last"] = "first"  # of a row, for heads that judge the whole of it
    pooler_activation: Activation = "tanh"
    classifier_bias: bool = True
    classifier_dropout: float = 0.0
    labels: tuple[str, ...] = ()  # of the sequence or the token head
    start_token_id: int | None = None
    end_token_id: int | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self) -> None:
        check_size("vocab_size", self.vocab_size)
        check_dropout("classifier_dropout", self.classifier_dropout)
        assert self.encoder is not None or self.decoder is not None, "a Transformer has a stack"
        if self.decoder is not None and self.decoder.attention != "causal":
            raise _unread("attention", self.decoder.attention, "stack", "decoder")
        if self.heads & {"sequence", "token"}:
            check_size("labels", len(self.labels))

    @property
    def main(self) -> StackConfig:
        """The stack whose states the heads read."""
        stack = self.decoder or self.encoder
        assert stack is not None
        return stack

    @property
    def towers(self) -> dict[str, StackConfig]:
        """The stacks there are by their names, the encoder first."""
        return {name: stack for name, stack in (("encoder", self.encoder), ("decoder", self.decoder)) if stack}

    @property
    def stacks(self) -> tuple[StackConfig, ...]:
        """The same without their names."""
        return tuple(self.towers.values())


@dataclass(frozen=True)
class ModelSettings:
    """The ``[model]`` table of a run. None means the default of the kind; what a kind does not use must stay None."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    kind: str = "qwen3"  # a file of models/families
    start: str | None = None  # a model to go on from, whose kind, sizes, weights and tokenizer are then taken
    num_layers: int | None = None
    hidden_size: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    max_positions: int | None = None  # None: the sequence length of the run
    rope_theta: float | None = None
    tie_embeddings: bool | None = None
    dropout: float | None = None
    initialization: Scheme | None = None
    embedding_size: int | None = None  # lstm
    order: int | None = None  # ngram

    def refuse_unused(self, uses: frozenset[str]) -> None:
        """Refuse every setting that was given and that the kind does not read.

        Raises:
            SettingsError: ``models.setting_unused``, naming the setting, its value and what the kind does use.
        """
        for name, value in vars(self).items():
            if name not in ("kind", "start", *uses) and value is not None:
                read = ", ".join(sorted(uses))
                raise SettingsError("models.setting_unused", name=name, value=value, kind=self.kind, uses=read)


def given(value: T | None, default: T) -> T:
    """The value when it was given, else the default (0 and False count as given)."""
    return default if value is None else value


class Cache(Protocol):
    """What a model remembers of the tokens it has read, for the rows of one batch. For inference: holds no gradient."""

    @property
    def length(self) -> int:
        """Number of positions read, padding included."""

    def reorder(self, index_N: Tensor) -> None:
        """Let row i continue what was row ``index_N[i]``; the number of rows may change."""

    def truncate(self, length: int) -> None:
        """Forget all positions from ``length`` on."""


class Measured(Protocol):
    """What every model says of itself, whatever it can be asked for."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""

    @property
    def max_positions(self) -> int | None:
        """The longest context that the model was made for; None when there is no limit."""

    def statistics(self, *, sequence_length: int) -> Statistics:
        """Parameters, FLOPs and bytes at this sequence length."""


class Reading(TypedDict, total=False):
    """What a model may be told of the tokens that it reads.

    ``mask`` is False at padding; ``document_ids`` isolates the documents of a packed row (-1 is padding, a document of
    its own); ``positions`` are counted within each document when not given. With a cache, all of these describe the
    new tokens only: the cache remembers the rest.
    """

    mask: Tensor | None
    positions: Tensor | None
    document_ids: Tensor | None
    cache: Cache | None


class LanguageModel(Measured, Protocol):
    """What every language model offers; it is also a ``torch.nn.Module``."""

    def __call__(self, input_ids_BS: Tensor, **reading: Unpack[Reading]) -> Tensor:
        """Logits (B, S, V) of the token after each position."""

    def hidden(self, input_ids_BS: Tensor, **reading: Unpack[Reading]) -> Tensor:
        """Hidden states (B, S, D) after the final norm."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states of any leading shape."""

    def target_log_probs(self, input_ids_BS: Tensor, labels_BS: Tensor, **reading: Unpack[Reading]) -> Tensor:
        """Natural-log probability (B, S) of each label in float32, 0 where the label is -100."""

    def new_cache(self, batch_size: int, max_length: int) -> Cache:
        """An empty cache for ``batch_size`` rows of at most ``max_length`` positions."""


class Family(Protocol):
    """What a file of ``models/families`` offers as its ``FAMILY``: one kind of model, its settings and its files."""

    @property
    def uses(self) -> frozenset[str]:
        """Names of the ``ModelSettings`` that this kind reads."""

    def build(
        self, settings: ModelSettings, *, vocab_size: int, end_id: int, sequence_length: int, seed: int
    ) -> nn.Module:
        """A new model with initial weights drawn from the seed."""

    def load(self, hf: Mapping[str, object], directory: Path, *, dtype: torch.dtype) -> nn.Module:
        """The model of a directory whose config.json is ``hf``."""

    def save(self, model: nn.Module, directory: Path) -> bool:
        """Write config.json and the weights; False, and nothing written, when this kind cannot express the model."""


def _unread(name: str, value: object, choice: str, found: object) -> SettingsError:
    return SettingsError("models.choice_unused", name=name, value=value, choice=choice, found=found)


def check_size(name: str, value: int, *, least: int = 1) -> None:
    """Refuse what no model has: torch cannot count the bytes of such matrices, nor Python walk through such layers.

    Raises:
        SettingsError: ``models.size``.
    """
    largest = _MOST_LAYERS if name.endswith("layers") else _LARGEST
    if not least <= value <= largest:
        raise SettingsError("models.size", name=name, value=value, least=least, largest=largest)


def check_dropout(name: str, value: float) -> None:
    """Refuse what is no probability.

    Raises:
        SettingsError: ``models.dropout_range``.
    """
    if not 0 <= value < 1:
        raise SettingsError("models.dropout_range", name=name, value=value)
