"""The header of a GGUF file, read with bounds: what it says about a model, and where its tensors lie.

The format (versions 2 and 3): ``GGUF``, the version, the numbers of tensors and of keys; each key with its value; each
tensor's name, sizes, type and place; then, aligned, the tensors. Every number and length is held against the bytes
that are left and against a fixed limit before anything is made of it, so a damaged file costs no time and no memory.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn, TypeAlias, TypeVar

from wenlu.core.errors import CheckpointError
from wenlu.core.publication import storage_errors

T = TypeVar("T")
SUFFIX: Final = ".gguf"
MAGIC: Final = b"GGUF"
Value: TypeAlias = "int | float | bool | str | list[int] | list[float] | list[bool] | list[str]"

MAX_HEADER_BYTES = 1 << 27
MAX_KEYS = MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = 1 << 10
MAX_ELEMENTS = 1 << 21  # of all arrays together
MAX_KEPT_BYTES = 1 << 26  # of all words together
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16

_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class TensorType:
    """How numbers are stored: ``block_bytes`` bytes for every ``block_size`` numbers of a row."""

    name: str
    block_size: int
    block_bytes: int


TYPES: Final[Mapping[int, TensorType]] = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    8: TensorType("Q8_0", 32, 34),
    12: TensorType("Q4_K", 256, 144),
    14: TensorType("Q6_K", 256, 210),
    30: TensorType("BF16", 1, 2),
}
_OTHER_TYPES: Final[Mapping[int, str]] = {
    **{6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS"},
    **{18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16"},
    **{26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4"},
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the file: its shape with the longest stride first, as torch has it, and its bytes."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int  # from the beginning of the file
    num_bytes: int


@dataclass(frozen=True)
class Header:
    """All that a GGUF file says before its tensors."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]

    def text(self, key: str, default: str = "") -> str:
        """A word."""
        return self._typed(key, str, default)

    def integer(self, key: str) -> int | None:
        """A whole number, None where the file does not say."""
        return None if key not in self.metadata else self._typed(key, int, 0)

    def boolean(self, key: str, default: bool) -> bool:
        """A truth value."""
        return self._typed(key, bool, default)

    def texts(self, key: str) -> list[str]:
        """A list of words; empty where the file does not say."""
        return [self._checked(key, item, str) for item in self._list(key)]

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers."""
        return [self._checked(key, item, int) for item in self._list(key)]

    def numbers(self, key: str) -> list[float]:
        """A list of numbers."""
        return [self._checked(key, item, float) for item in self._list(key)]

    def refuse(self, part: str, found: object, possible: object) -> NoReturn:
        """Raise ``core.gguf_damaged``."""
        raise CheckpointError("core.gguf_damaged", path=self.path, part=part, found=found, possible=possible)

    def _list(self, key: str) -> list[object]:
        return list(self._typed(key, list, []))

    def _typed(self, key: str, kind: type[T], default: T) -> T:
        return self._checked(key, self.metadata.get(key, default), kind)

    def _checked(self, key: str, value: object, kind: type[T]) -> T:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.refuse(key, str(value)[:80], kind.__name__)
        return value


def read_header(path: Path, *, vocabulary: bool = True) -> Header:
    """Read and check the header of a GGUF file; without its ``vocabulary``, lists of words and of a tokenizer are
    left out.

    Raises:
        CheckpointError: ``core.gguf_magic``, ``core.gguf_version``, ``core.gguf_type`` for a tensor type that is not
            read here, or ``core.gguf_damaged`` with what was found and what was possible.
        RunError: the file cannot be read.
    """
    with storage_errors(path), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        if file.read(4) != MAGIC:
            raise CheckpointError("core.gguf_magic", path=path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data, size, vocabulary).header()


@dataclass
class _Reader:
    """Reads from the beginning on, never beyond the header's limit or the file's end."""

    path: Path
    data: mmap.mmap
    size: int
    vocabulary: bool
    place: int = 4
    part: str = "header"  # what is being read, for messages
    end: int = field(init=False)
    elements: int = field(init=False)  # that arrays may still have
    kept: int = field(init=False)  # bytes that words may still have

    def __post_init__(self) -> None:
        self.end = min(self.size, MAX_HEADER_BYTES)
        self.elements, self.kept = MAX_ELEMENTS, MAX_KEPT_BYTES

    def header(self) -> Header:
        version = self._number("I")
        if version not in _VERSIONS:
            raise CheckpointError("core.gguf_version", path=self.path, found=version, known="2, 3")
        num_tensors = self._count("tensor_count", MAX_TENSORS)
        num_keys = self._count("metadata_kv_count", MAX_KEYS)
        metadata: dict[str, Value] = {}
        for number in range(num_keys):
            self.part = f"key {number}"
            self.part = key = self._string(MAX_NAME_BYTES)
            if key in metadata:
                self._refuse("=", "a new key")
            value = self._value(int(self._number("I")))
            if value is not None:
                metadata[key] = value
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= MAX_ALIGNMENT or alignment % 8:
            self.part = "general.alignment"
            self._refuse(alignment, f"8, 16, ... {MAX_ALIGNMENT}")
        rows = [self._tensor(number) for number in range(num_tensors)]
        return Header(self.path, metadata, self._placed(rows, alignment))

    def _placed(
        self, rows: list[tuple[str, tuple[int, ...], TensorType, int]], alignment: int
    ) -> dict[str, TensorInfo]:
        """The tensors by name, each within the file and none over another."""
        start = -(-self.place // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        free = start
        for name, shape, kind, offset in sorted(rows, key=lambda row: row[3]):
            self.part = name
            num_bytes = math.prod(shape) // kind.block_size * kind.block_bytes
            place = start + offset
            if name in tensors:
                self._refuse("=", "a new name")
            if offset % alignment or place < free or place + num_bytes > self.size:
                self._refuse(f"{place} + {num_bytes}", f"{free} ... {self.size}")
            tensors[name] = TensorInfo(name, shape, kind, place, num_bytes)
            free = place + num_bytes
        return {name: tensors[name] for name, *_ in rows}

    def _tensor(self, number: int) -> tuple[str, tuple[int, ...], TensorType, int]:
        self.part = f"tensor {number}"
        self.part = name = self._string(MAX_NAME_BYTES)
        num_dimensions = int(self._number("I"))
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            self._refuse(num_dimensions, f"1 ... {MAX_DIMENSIONS}")
        shape = tuple(int(self._number("Q")) for _ in range(num_dimensions))[::-1]
        type_id, offset = int(self._number("I")), int(self._number("Q"))
        if type_id not in TYPES:
            found = _OTHER_TYPES.get(type_id, type_id)
            known = ", ".join(kind.name for kind in TYPES.values())
            raise CheckpointError("core.gguf_type", path=self.path, name=name, found=found, known=known)
        kind = TYPES[type_id]
        if not 0 < math.prod(shape) <= self.size * kind.block_size or shape[-1] % kind.block_size:
            self._refuse(shape, f"{kind.name}: {self.size} / {kind.block_bytes} * {kind.block_size}")
        return name, shape, kind, offset

    def _value(self, kind: int) -> Value | None:
        if kind == _STRING:
            return self._string(MAX_HEADER_BYTES)
        if kind != _ARRAY:
            return self._number(self._format(kind))
        kind, count = int(self._number("I")), int(self._number("Q"))
        width = 8 if kind == _STRING else struct.calcsize(self._format(kind))
        if count > min(self.elements, (self.end - self.place) // width):
            self._refuse(count, min(self.elements, (self.end - self.place) // width))
        self.elements -= count
        if kind == _STRING:
            return self._strings(count)
        start, self.place = self.place, self.place + count * width
        if self.part.startswith("tokenizer.") and not self.vocabulary:
            return None
        return list(struct.unpack_from(f"<{count}{_FIXED[kind]}", self.data, start))

    def _format(self, kind: int) -> str:
        if kind not in _FIXED:
            self._refuse(f"type {kind}", "0 ... 8, 10 ... 12")
        return _FIXED[kind]

    def _count(self, part: str, limit: int) -> int:
        self.part = part
        count = int(self._number("Q"))
        if count > min(limit, (self.end - self.place) // 12):  # the shortest key and tensor have more bytes
            self._refuse(count, min(limit, (self.end - self.place) // 12))
        return count

    def _number(self, code: str) -> int | float | bool:
        width = struct.calcsize("<" + code)
        if width > self.end - self.place:
            self._refuse(f"{width} bytes", self.end - self.place)
        value: int | float | bool = struct.unpack_from("<" + code, self.data, self.place)[0]
        self.place += width
        return value

    def _string(self, limit: int) -> str:
        length = int(self._number("Q"))
        limit = min(limit, self.end - self.place, self.kept)
        if length > limit:
            self._refuse(f"{length} bytes", limit)
        self.kept -= length
        self.place += length
        return self._decoded(self.data[self.place - length : self.place])

    def _strings(self, count: int) -> list[str] | None:
        """A vocabulary: a hundred thousand strings, hence without a call for each length."""
        place, end, data, length_of = self.place, self.end, self.data, struct.Struct("<Q").unpack_from
        raw = []
        for _ in range(count):
            start = place + 8
            length = length_of(data, place)[0] if start <= end else 0
            if length > end - start:
                self._refuse(f"{length} bytes", end - start)
            place = start + length
            if self.vocabulary:
                self.kept -= length
                if self.kept < 0:
                    self._refuse(f"{place - self.place} bytes", MAX_KEPT_BYTES)
                raw.append(data[start:place])
        self.place = place
        return [self._decoded(item) for item in raw] if self.vocabulary else None

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self._refuse(raw[:40], "UTF-8")

    def _refuse(self, found: object, possible: object) -> NoReturn:
        raise CheckpointError("core.gguf_damaged", path=self.path, part=self.part, found=found, possible=possible)
