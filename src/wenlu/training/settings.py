"""The whole TOML of a run: one frozen dataclass a table. Each part's settings stand beside the code that reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from wenlu.core.errors import SettingsError
from wenlu.core.settings import refuse_outside
from wenlu.data.settings import DataSettings
from wenlu.models.adapters import LoraSettings
from wenlu.models.config import ModelSettings
from wenlu.models.device import DeviceName
from wenlu.tasks._base import TaskSettings
from wenlu.tokenization.tokenizer import TokenizerSettings
from wenlu.training.optimizers import OptimizerSettings
from wenlu.training.schedules import Duration, ScheduleSettings

Precision = Literal["auto", "fp32", "bf16"]
Layout = Literal["auto", "packed", "stream"]
AttentionBackend = Literal["auto", "sdpa", "eager"]
NonFinite = Literal["stop", "skip"]


@dataclass(frozen=True)
class TrainSettings:
    """The ``[train]`` table.

    ``steps`` is the number of optimizer steps. It is decided once, from ``budget`` when it is not given, and written
    into ``run.toml``: a resumed run never decides it again. One step reads ``batch_size`` rows of ``sequence_length``
    tokens, ``accumulation`` times. ``device``, ``precision``, ``threads`` (0: one a processor core that is free to us)
    and ``layout`` are resolved once as well. ``deterministic`` matters on CUDA only, where it costs speed: without it a
    run is not repeated to the last bit. ``non_finite`` says what follows a loss or a gradient that is NaN or infinite:
    the run stops, or the step's update is left out (the eleventh in a row stops it too).
    ``bigram_steps`` fit the embedding and the untied output matrix of a Transformer to the train split's pairs of
    tokens before the first step; of a budget in time they take a quarter at most.
    ``patience`` ends a run after that many evaluations without a better one (0: never).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    steps: int | None = None
    budget: str | None = None
    batch_size: int = 8
    accumulation: int = 1
    sequence_length: int = 256
    seed: int = 1
    clip: float = 1.0
    bigram_steps: int = 0
    patience: int = 0
    non_finite: NonFinite = "stop"
    device: DeviceName = "auto"
    deterministic: bool = True
    precision: Precision = "auto"
    threads: int = 0
    compile: bool | None = None
    layout: Layout = "auto"
    attention: AttentionBackend = "auto"
    num_workers: int = 0
    save_every: str = "10%"
    keep: int = 3

    def __post_init__(self) -> None:
        if self.length.unit == "percent":
            raise SettingsError("training.duration", setting="train.budget", value=self.budget)
        Duration.parse(self.save_every, setting="train.save_every")
        bounds = {
            ">= 0": ("seed", "clip", "bigram_steps", "patience"),
            ">= 1": ("steps", "batch_size", "accumulation", "keep"),
            ">= 2": ("sequence_length",),
            "0 <= x <= 1024": ("threads", "num_workers"),  # far more of them crash the process when they are started
        }
        refuse_outside("training.range", "train", self, bounds)

    @property
    def tokens_per_step(self) -> int:
        """What one step reads when its rows are full."""
        return self.batch_size * self.sequence_length * self.accumulation

    @property
    def length(self) -> Duration:
        """How long a run without ``steps`` is."""
        return Duration.parse(self.budget or "1 epoch", setting="train.budget")


@dataclass(frozen=True)
class EvaluateSettings:
    """The ``[evaluate]`` table: how validation text is scored, in a run and afterwards.

    Windows of at most ``context`` tokens (0: the run's sequence length) whose starts are ``stride`` tokens apart (0:
    half a context). ``max_tokens`` bounds the evaluations during the run (0: everything); the last one, of the finished
    model, reads up to ``final_max_tokens``.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    every: str = "10%"
    context: int = 0
    stride: int = 0
    max_tokens: int = 8192
    final_max_tokens: int = 65536

    def __post_init__(self) -> None:
        Duration.parse(self.every, setting="evaluate.every")
        bounds = {">= 0": ("context", "stride", "max_tokens", "final_max_tokens")}
        refuse_outside("training.range", "evaluate", self, bounds)


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides a run. The task's name chooses the class of its table: ``SETTINGS`` of its file."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    PLUGIN_TABLES: ClassVar[dict[str, str]] = {"task": "wenlu.tasks"}

    data: DataSettings = field(default_factory=DataSettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
