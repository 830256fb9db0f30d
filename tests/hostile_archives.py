"""Archives and compressed files that nobody should trust, two hundred of them, made from small pieces."""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

MIB = 1 << 20
UNSAFE_NAMES = [
    "../evil.txt",
    "../../evil.txt",
    "data/../../evil.txt",
    "data/..",
    "..",
    ".",
    "./evil.txt",
    "data/./evil.txt",
    "/evil.txt",
    "//host/evil.txt",
    "data//evil.txt",
    "C:/evil.txt",
    "C:evil.txt",
    "evil.txt:stream",
    "..\\evil.txt",
    "data\\evil.txt",
    "\\\\host\\share\\evil.txt",
    "con",
    "data/CON.txt",
    "aux.json",
    "nul",
    "LPT1.txt",
    "com9",
    "COM¹.txt",
    "data/prn .txt",
    "CONIN$",
    "evil.",
    "evil ",
    "data. /evil.txt",
    "a" * 300,
    "data/" + "a" * 300 + ".txt",
    "文" * 100 + ".txt",
    "/".join(["deep"] * 300),
    "evil\n.txt",
    "evil\x1b[2J.txt",
    "evil\x7f",
    "evil\x85.txt",
]
DEVICES = [
    *["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"],
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
]
LINKS = {
    "link": stat.S_IFLNK,
    "pipe": stat.S_IFIFO,
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "socket": stat.S_IFSOCK,
}
BOMB = b"a" * (18 * MIB)
NOISE = bytes(zlib.crc32(bytes([n % 256, n >> 8])) % 95 + 32 for n in range(5_000))


def made(*files: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP archive of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two files of one name are wanted
        for name, content in files:
            archive.writestr(name, content, compress_type=compression)
    return buffer.getvalue()


def of_kind(name: str, kind: int) -> zipfile.ZipInfo:
    """A directory entry that says it is a link or a device."""
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    return entry


def write_all(folder: Path) -> dict[str, str]:
    """Write all hostile files; their names, and how the id of their refusal begins."""
    expected = {}
    for name, content, refusal in (*_archives(), *_compressed()):
        assert name not in expected
        (folder / name).write_bytes(content)
        expected[name] = refusal
    return expected


def _archives() -> Iterator[tuple[str, bytes, str]]:
    unsafe = "fetch.archive_unsafe"
    for number, name in enumerate(UNSAFE_NAMES):
        yield f"name-last-{number}.zip", made(("good.txt", b"1"), (name, b"2")), unsafe
        yield f"name-first-{number}.zip", made((name, b"2"), ("good.txt", b"1")), unsafe
    for name in DEVICES:
        yield f"device-{name}.zip", made((f"deep/{name.title()}.tar.gz", b"2")), unsafe
    for name, kind in LINKS.items():
        yield f"{name}.zip", made(("good.txt", b"1"), (of_kind(name, kind), b"../../../etc/passwd")), unsafe
        yield f"{name}-folder.zip", made((of_kind("data", kind), b".."), ("data/evil.txt", b"2")), unsafe
    for number, names in enumerate([("a.txt", "a.txt"), ("a.txt", "A.TXT"), ("a", "a/"), ("ß/x", "SS/X")]):
        yield f"twice-{number}.zip", made(*((name, b"1") for name in names)), unsafe
    for level, content in {
        "zeros": bytes(20 * MIB),
        "letters": b"a" * (20 * MIB),
        "lines": b"ab\n" * (7 * MIB),
    }.items():
        yield f"bomb-of-{level}.zip", made(("good.txt", b"1"), (level, content)), "fetch.archive_ratio"
    yield "too-many.zip", made(*((f"{n}", b"") for n in range(20_001))), "fetch.archive_entries"
    yield from _damaged_archives()


def _damaged_archives() -> Iterator[tuple[str, bytes, str]]:
    whole = made(("a.txt", bytes(range(256)) * 4), ("b.txt", b"text " * 100))
    for number in range(20):
        yield f"cut-off-{number}.zip", whole[: len(whole) * number // 20], "fetch.archive_"
    yield "no-directory.zip", whole[:-22], "fetch.archive_damaged"
    yield "zip64.zip", whole[:-22] + b"PK\x06\x07" + bytes(16) + whole[-22:], "fetch.archive_damaged"
    yield "no-archive.zip", b"<html>not found</html>", "fetch.archive_damaged"
    at = whole.index(b"PK\x01\x02")
    lies = {
        "small": (24, "<I", 10),
        "large": (24, "<I", 0xFFFFFFF0),
        "more": (24, "<I", 2000),
        "packed-large": (20, "<I", 0x7FFFFFFF),
        "checksum": (16, "<I", 1),
        "encrypted": (8, "<H", 1),
        "packing": (10, "<H", 12),
        "far": (42, "<I", 0x7FFFFFFF),
        "shared": (42, "<I", 1),
        "long-name": (28, "<H", 0xFFFF),
    }
    for name, (offset, layout, value) in lies.items():
        content = bytearray(whole)
        struct.pack_into(layout, content, at + offset, value)
        yield f"lie-{name}.zip", bytes(content), "fetch.archive_"


def _compressed() -> Iterator[tuple[str, bytes, str]]:
    """What ``wenlu data`` would read: gz, xz and zst."""
    packers = {
        "gz": lambda text: gzip.compress(text, 4),
        "xz": lambda text: lzma.compress(text, preset=0),
        "zst": zstandard.compress,
    }
    bombs = {"txt": BOMB, "md": b"ab\n" * (6 * MIB), "jsonl": b'{"text": "' + BOMB + b'"}\n', "csv": b"text\n" + BOMB}
    for packing, pack in packers.items():
        for format, content in bombs.items():
            yield f"bomb.{format}.{packing}", pack(content), "data.bomb"
        piece = pack(b"a" * MIB)
        yield f"bomb-of-many.txt.{packing}", piece * 18, "data.bomb"
        yield f"behind-text.txt.{packing}", pack(b"text " * 100) + pack(BOMB), "data.bomb"
        yield f"doubly.txt.{packing}", pack(pack(BOMB)), "data.binary_file"
        noisy = pack(NOISE)
        for number in range(1, 8):
            yield f"cut-off-{number}.txt.{packing}", noisy[: len(noisy) * number // 8], "data.bad_compression"
        yield f"rubbish.txt.{packing}", b"\x80" * 1000, "data.bad_compression"
        yield f"rubbish-behind.txt.{packing}", piece + b"\x80" * 1000, "data.bad_compression"
    yield "dictionary.txt.xz", _xz_with_dictionary(lzma.compress(b"a" * 1000)), "data.bad_compression"
    alone = lzma.compress(b"a" * 1000, format=lzma.FORMAT_ALONE)
    yield "dictionary-alone.txt.xz", alone[:1] + b"\xff\xff\xff\xff" + alone[5:], "data.bad_compression"
    yield (
        "window.txt.zst",
        b"\x28\xb5\x2f\xfd\x00\xf8" + struct.pack("<I", 8 * 1 + 1)[:3] + b"a",
        "data.bad_compression",
    )


def _xz_with_dictionary(content: bytes) -> bytes:
    """The same file, which now asks for a dictionary of 4 GiB."""
    size = 4 * (content[12] + 1)
    header = bytearray(content[12 : 12 + size - 4])
    header[header.index(b"\x21\x01") + 2] = 40
    return content[:12] + bytes(header) + struct.pack("<I", zlib.crc32(header)) + content[12 + size :]
