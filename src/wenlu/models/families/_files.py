"""The two files of a model directory: config.json, read key by key with its mistakes named, and safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wenlu.core.downloads import partial_downloads, refuse_pointer
from wenlu.core.errors import CheckpointError
from wenlu.core.gguf import MAGIC, SUFFIX
from wenlu.core.log import notice
from wenlu.models import gguf
from wenlu.models.gguf import is_gguf
from wenlu.models.mapped import Pages
from wenlu.models.pickled import PICKLE_SUFFIXES

T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_REMOTE_CODE = ("auto_map", "custom_pipelines")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save writes a ZIP of one


class HFConfig:
    """A config.json whose values are read with the type that is expected of them."""

    def __init__(self, values: Mapping[str, object], path: Path) -> None:
        self.values = values
        self.used: set[str] = set()
        self.path = path.parent if path.parent.is_file() else path  # a GGUF file says itself what a config.json would

    def integer(self, key: str, default: int | None = None) -> int:
        """A required integer, unless a default is given; null counts as not given."""
        value = self._typed(key, int, default)
        return value if abs(value) < 2**63 else self.refuse(key, value, "int64")

    def number(self, key: str, default: float | None = None) -> float:
        """A required number, unless a default is given."""
        value = self._typed(key, (int, float), default)
        try:
            return float(value)
        except OverflowError:
            self.refuse(key, value, "float")

    def scale(self, key: str, default: float | None = None) -> float:
        """What divides by the square root of a required number above 0."""
        value = self.number(key, default)
        return math.pow(value, -0.5) if 0 < value < math.inf else self.refuse(key, value, "> 0")

    def boolean(self, key: str, default: bool) -> bool:
        """A truth value."""
        return self._typed(key, bool, default)

    def text(self, key: str, default: str) -> str:
        """A word."""
        return self._typed(key, str, default)

    def optional_integer(self, key: str, absent: int | None = None) -> int | None:
        """An integer; None when it is null, ``absent`` when the file does not say."""
        return None if self._value(key, absent) is None else self.integer(key, absent)

    def names(self, key: str) -> list[str]:
        """A list of words; empty when the file does not say."""
        value = self._value(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong_type(key, value, "list of strings")
        return value

    def listed(
        self, key: str, kind: type[T] | tuple[type[T], ...], supported: str, *, size: int | None = None
    ) -> list[T]:
        """A list of ``size`` items of a type, or of one and more; ``supported`` says so where it is another."""
        value = self._value(key)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            self.refuse(key, value, supported)
        return value if (bool(value) if size is None else len(value) == size) else self.refuse(key, value, supported)

    def optional_number(self, key: str, absent: float | None = None) -> float | None:
        """A number; None when it is null, ``absent`` when the file does not say."""
        return None if self._value(key, absent) is None else self.number(key, absent)

    def token_id(self, key: str) -> int | None:
        """A token id; of several, the first. None when there is none."""
        value = self._value(key)
        if isinstance(value, list):
            value = value[0] if value else None
        return None if value is None else HFConfig({key: value}, self.path).integer(key)

    def table(self, key: str) -> HFConfig | None:
        """A nested table, or None when the file does not say."""
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong_type(key, value, "object")
        return HFConfig(value, self.path)

    def choice(self, key: str, choices: Mapping[str, T], default: str) -> T:
        """What a word stands for here.

        Raises:
            CheckpointError: ``models.config_unsupported`` when the word stands for nothing here.
        """
        word = self.text(key, default)
        if word not in choices:
            self.refuse(key, word, ", ".join(choices))
        return choices[word]

    def require(self, key: str, supported: object) -> None:
        """Refuse a config that sets a key to anything but the one value that is supported."""
        value = self._value(key, supported)
        if value is not None and value != supported:
            self.refuse(key, value, supported)

    def refuse(self, key: str, value: object, supported: object) -> NoReturn:
        """Raise ``models.config_unsupported``."""
        raise CheckpointError("models.config_unsupported", key=key, value=value, supported=supported, path=self.path)

    def _value(self, key: str, default: object = None) -> object:
        """A value of any type; ``used`` notes which keys were asked for."""
        self.used.add(key)
        return self.values.get(key, default)

    def _wrong_type(self, key: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError("models.config_type", key=key, value=value, expected=expected, path=self.path)

    def _typed(self, key: str, kind: type[T] | tuple[type[T], ...], default: T | None) -> T:
        value = self._value(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError("models.config_missing", key=key, path=self.path)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            expected = kind.__name__ if isinstance(kind, type) else "number"
            raise self._wrong_type(key, value, expected)
        return value


def written_choice(choices: Mapping[str, T], value: T) -> str | None:
    """The first word that stands for a value, the inverse of ``HFConfig.choice``; None when none does."""
    return next((word for word, meant in choices.items() if meant == value), None)


class Weights:
    """The tensors of a directory, in one file or in shards, or of a GGUF file, read from memory maps."""

    def __init__(self, directory: Path, name: str = WEIGHTS) -> None:
        self.directory = directory
        self.path = directory if is_gguf(directory) else directory / name
        self.files = {} if is_gguf(directory) else _files_of_tensors(self.path)
        self.added: dict[str, Tensor] = {}  # what an adapter adds or replaces
        self.stack = ExitStack()
        self.read_names: set[str] = set()
        self.pages: dict[Path, Pages] = {}
        self.last: tuple[Path, Tensor] | None = None
        self.open: dict[Path, safe_open | gguf.Tensors] = {}

    def __enter__(self) -> Weights:
        for path in sorted(set(self.files.values())):
            self.files |= {name: path for name in self._open(path).keys() if name not in self.files}  # noqa: SIM118
        if not self.files:  # one file without an index
            self.files = dict.fromkeys(self._open(self.path).keys(), self.path)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._forget_last()
        self.stack.close()
        left = sorted(set(self.files) - self.read_names)
        if left and error is None:
            notice("models.tensors_left", path=self.directory, count=len(left), names=", ".join(left[:5]))

    @property
    def names(self) -> list[str]:
        """Names of all tensors, as the files say them."""
        return [*self.files, *self.added]

    def metadata(self) -> dict[str, str]:
        """What the one file says besides its tensors."""
        file = self.open[self.path]
        said = {} if isinstance(file, gguf.Tensors) else file.metadata()  # type: ignore[no-untyped-call]
        return said or {}

    def read(self, name: str) -> Tensor:
        """One tensor, in the type of the file, mapped and not copied.

        What was copied of the tensor before it need no longer be resident in the file's own type as well.
        """
        self._forget_last()
        self.read_names.add(name)
        if name in self.added:
            return self.added[name]
        path = self.files[name]
        try:
            tensor: Tensor = self.open[path].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError("models.weights_damaged", path=path, detail=error) from error
        self.last = path, tensor
        return tensor

    def _forget_last(self) -> None:
        if self.last is not None:
            path, tensor = self.last
            if path not in self.pages:
                self.pages[path] = Pages(path)
            self.pages[path].forget(tensor)
            self.last = None

    def _open(self, path: Path) -> safe_open | gguf.Tensors:
        if path not in self.open:
            if is_gguf(path):
                self.open[path] = gguf.Tensors(path)
                return self.open[path]
            try:
                self.open[path] = self.stack.enter_context(safe_open(path, framework="pt"))
            except FileNotFoundError as error:
                parts = ", ".join(partial_downloads(path.parent)) or "-"
                raise CheckpointError("models.weights_missing", path=path, parts=parts) from error
            except (SafetensorError, OSError) as error:
                refuse_pickle(path)
                refuse_pointer(path)
                raise CheckpointError("models.weights_damaged", path=path, detail=error) from error
        return self.open[path]


def refuse_pickle(path: Path) -> None:
    """Refuse a file that is a pickle by its name or by its first bytes, whatever its name; and a misnamed GGUF file.

    Raises:
        CheckpointError: ``models.pickle_refused``, ``models.gguf_suffix``.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(4)
    if start == MAGIC and path.suffix != SUFFIX:
        raise CheckpointError("models.gguf_suffix", path=path)
    if path.suffix in PICKLE_SUFFIXES or start.startswith(_PICKLE_STARTS):
        raise CheckpointError("models.pickle_refused", path=path.parent, files=path.name)


def refuse_names(id: str, names: Sequence[str], directory: Path) -> None:
    """Raise a ``CheckpointError`` that lists names of tensors, if there are any."""
    if names:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise CheckpointError(id, names=listed, count=len(names), path=directory)


def assign(model: Model, state: Mapping[str, Tensor]) -> Model:
    """The model with all of its weights, ready to be trained."""
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def write_model(directory: Path, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")
    on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
    save_file(on_cpu, directory / WEIGHTS, metadata={"format": "pt"})


def read_config(directory: Path, name: str = "config.json") -> dict[str, object]:
    """The config.json of a model directory, or another file like it.

    Raises:
        CheckpointError: ``models.no_config`` or ``models.config_damaged``.
    """
    path = directory / name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError("models.no_config", path=directory) from error
    except (ValueError, OSError) as error:
        refuse_pointer(path)
        raise CheckpointError("models.config_damaged", path=path, detail=error) from error
    if not isinstance(values, dict):
        raise CheckpointError("models.config_damaged", path=path, detail=type(values).__name__)
    for key in _REMOTE_CODE:
        if values.get(key):
            raise CheckpointError("models.remote_code", path=path, key=key, found=values[key])
    return values


def _files_of_tensors(whole: Path) -> dict[str, Path]:
    """Which shard holds which tensor; empty when there is one file, ``whole``.

    Raises:
        CheckpointError: ``models.pickle_refused`` when the weights are only there as a pickle.
    """
    if whole.is_file():
        return {}
    directory, index = whole.parent, whole.with_name(whole.name + ".index.json")
    if not index.is_file():
        pickles = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise CheckpointError("models.pickle_refused", path=directory, files=", ".join(pickles))
        parts = ", ".join(partial_downloads(directory)) or "-"
        raise CheckpointError("models.weights_missing", path=whole, parts=parts)
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): directory / str(shard) for name, shard in shards.items()}
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise CheckpointError("models.weights_damaged", path=index, detail=error) from error
    for path in files.values():
        if path.parent != directory:
            raise CheckpointError("models.weights_damaged", path=index, detail=path)
    return files
