"""The header of a GGUF file, read with bounds: what it says about a model, and where its tensors lie.

The format (versions 2 and 3): ``GGUF``, the version, the numbers of tensors and of keys; each key with its value; each
tensor's name, sizes, type and place; then, aligned, the tensors. Every number and length is held against the bytes
that are left and against a fixed limit before anything is made of it, so a damaged file costs no time and no memory.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias, TypeVar

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


class TensorType(NamedTuple):
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


class TensorInfo(NamedTuple):
    """A tensor of the file: its shape with the longest stride first, as torch has it, and its bytes."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int  # from the beginning of the file
    num_bytes: int


class Header(NamedTuple):
    """All that a GGUF file says before its tensors."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]

    def value(self, key: str, default: T) -> T:
        """A value of the type of ``default``, which it is where the file does not say."""
        return self._checked(key, self.metadata.get(key, default), type(default))

    def integer(self, key: str) -> int | None:
        """A whole number, None where the file does not say."""
        return self.value(key, 0) if key in self.metadata else None

    def values(self, key: str, kind: type[T]) -> list[T]:
        """A list of values of one type; empty where the file does not say."""
        return [self._checked(key, item, kind) for item in self.value(key, list[object]())]

    def refuse(self, part: str, found: object, possible: object) -> NoReturn:
        """Raise ``core.gguf_damaged``."""
        raise CheckpointError("core.gguf_damaged", path=self.path, part=part, found=found, possible=possible)

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
        if file.read(4) != MAGIC:
            raise CheckpointError("core.gguf_magic", path=path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data, vocabulary=vocabulary).header()


class _Reader:
    """Reads from the beginning on, never beyond the header's limit or the file's end."""

    def __init__(self, path: Path, data: mmap.mmap, *, vocabulary: bool) -> None:
        self.path, self.data, self.vocabulary = path, data, vocabulary
        self.place, self.end = len(MAGIC), min(len(data), MAX_HEADER_BYTES)
        self.part = "header"  # what is being read, for messages
        self.elements, self.kept = MAX_ELEMENTS, MAX_KEPT_BYTES  # what arrays and words may still have

    def header(self) -> Header:
        version = self._number("I")
        if version not in _VERSIONS:
            raise CheckpointError("core.gguf_version", path=self.path, found=version, known="2, 3")
        num_tensors = self._count("tensor_count", MAX_TENSORS)
        num_keys = self._count("metadata_kv_count", MAX_KEYS)
        metadata: dict[str, Value] = {}
        for number in range(num_keys):
            key = self._name(f"key {number}", metadata, "a new key")
            value = self._value(self._number("I"))
            if value is not None:
                metadata[key] = value
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= MAX_ALIGNMENT or alignment % 8:
            self.part = "general.alignment"
            self._refuse(alignment, f"8, 16, ... {MAX_ALIGNMENT}")
        tensors: dict[str, TensorInfo] = {}
        for number in range(num_tensors):
            name = self._name(f"tensor {number}", tensors, "a new name")
            tensors[name] = self._tensor(name)
        start = free = -(-self.place // alignment) * alignment
        tensors = {name: info._replace(offset=start + info.offset) for name, info in tensors.items()}
        for info in sorted(tensors.values(), key=lambda info: info.offset):  # within the file, none over another
            if (info.offset - start) % alignment or not free <= info.offset <= len(self.data) - info.num_bytes:
                self.part = info.name
                self._refuse(f"{info.offset} + {info.num_bytes}", f"{free} ... {len(self.data)}")
            free = info.offset + info.num_bytes
        return Header(self.path, metadata, tensors)

    def _name(self, part: str, known: Container[str], possible: str) -> str:
        """The name of the next key or tensor, which becomes the part that messages speak of."""
        self.part = part
        self.part = self._strings(1, MAX_NAME_BYTES)[0]
        if self.part in known:
            self._refuse("=", possible)
        return self.part

    def _tensor(self, name: str) -> TensorInfo:
        """A tensor whose offset is still that from the first one."""
        num_dimensions = self._number("I")
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            self._refuse(num_dimensions, f"1 ... {MAX_DIMENSIONS}")
        shape = tuple(self._number("Q") for _ in range(num_dimensions))[::-1]
        type_id, offset = self._number("I"), self._number("Q")
        if type_id not in TYPES:
            found = _OTHER_TYPES.get(type_id, type_id)
            known = ", ".join(kind.name for kind in TYPES.values())
            raise CheckpointError("core.gguf_type", path=self.path, name=name, found=found, known=known)
        kind, size = TYPES[type_id], len(self.data)
        if not 0 < math.prod(shape) <= size * kind.block_size or shape[-1] % kind.block_size:
            self._refuse(shape, f"{kind.name}: {size} / {kind.block_bytes} * {kind.block_size}")
        return TensorInfo(name, shape, kind, offset, math.prod(shape) // kind.block_size * kind.block_bytes)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._strings(1)[0]
        if kind != _ARRAY:
            return self._number(self._format(kind))
        kind, count = self._number("I"), self._number("Q")
        width = 8 if kind == _STRING else struct.calcsize(self._format(kind))
        most = min(self.elements, (self.end - self.place) // width)
        if count > most:
            self._refuse(count, most)
        self.elements -= count
        if kind == _STRING:
            words = self._strings(count, keep=self.vocabulary)
            return words if self.vocabulary else None
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
        count: int = self._number("Q")
        most = min(limit, (self.end - self.place) // 12)  # the shortest key and tensor have more bytes
        return count if count <= most else self._refuse(count, most)

    def _number(self, code: str) -> Any:
        width = struct.calcsize("<" + code)
        if width > self.end - self.place:
            self._refuse(f"{width} bytes", self.end - self.place)
        self.place += width
        return struct.unpack_from("<" + code, self.data, self.place - width)[0]

    def _strings(self, count: int, limit: int = MAX_HEADER_BYTES, *, keep: bool = True) -> list[str]:
        """Words; a vocabulary has a hundred thousand, hence without a call for each length."""
        data, place, length_of, raw = self.data, self.place, struct.Struct("<Q").unpack_from, []
        last, limit = self.end - 8, min(limit, self.kept)
        for _ in range(count):
            length = length_of(data, place)[0] if place <= last else 0
            if length > limit or length > last - place:
                self._refuse(f"{length} bytes", min(limit, last - place))
            place += 8 + length
            if keep:
                limit -= length
                raw.append(data[place - length : place])
        if keep:
            self.kept -= place - self.place - 8 * count
        self.place = place
        try:
            return [word.decode("utf-8") for word in raw]
        except UnicodeDecodeError as error:
            self._refuse(error.object[:40], "UTF-8")

    def _refuse(self, found: object, possible: object) -> NoReturn:
        raise CheckpointError("core.gguf_damaged", path=self.path, part=self.part, found=found, possible=possible)
