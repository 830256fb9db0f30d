"""Hostile archives: nothing leaves the target folder, nothing grows beyond the limits, and the reason is said."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from wenlu.core.errors import DataError
from wenlu.data.archives import Limits, extract, why_unsafe

MIB = 1024 * 1024
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


def made(path: Path, *files: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content, compress_type=compression)
    return path


def of_kind(name: str, kind: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    return entry


def refused(archive: Path, folder: Path, *, limits: Limits | None = None) -> str:
    """The id of the refusal; nothing was written anywhere."""
    before = set(folder.rglob("*"))
    with pytest.raises(DataError) as caught:
        extract(archive, folder / "inner" / "target", ["*"], limits=limits)
    assert str(caught.value)
    written = set(folder.rglob("*")) - before
    assert all(folder / "inner" / "target" in (path, *path.parents) or path == folder / "inner" for path in written)
    return caught.value.id


def test_takes_only_the_named_files(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.whl", ("p/a.txt", b"1"), ("p/deep/b.txt", "文".encode()), ("p/code.py", b"boom"))
    files = extract(archive, tmp_path / "out", ["p/*.txt"])
    assert list(files) == ["p/a.txt", "p/deep/b.txt"]
    assert files["p/deep/b.txt"].read_text(encoding="utf-8") == "文"
    assert not (tmp_path / "out/p/code.py").exists()


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.whl", ("p/a.txt", b"1"))
    with pytest.raises(DataError, match="no such file") as caught:
        extract(archive, tmp_path / "out", ["p/a.txt", "p/b.txt"])
    assert caught.value.id == "fetch.file_missing"
    assert "p/b.txt" in str(caught.value)


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_unsafe_names_refuse_the_whole_archive(tmp_path: Path, name: str) -> None:
    archive = made(tmp_path / "a.whl", ("good.txt", b"1"), (name, b"2"))
    assert refused(archive, tmp_path) == "fetch.archive_unsafe"
    assert not (tmp_path / "inner").exists(), "the good file was written before the bad name was seen"


def test_a_name_cut_by_a_nul_byte_is_refused(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.whl", ("good.txt_evil", b"1"))
    archive.write_bytes(archive.read_bytes().replace(b"good.txt_evil", b"good.txt\x00evil"))
    assert refused(archive, tmp_path) == "fetch.archive_unsafe"


@pytest.mark.parametrize("name", ["a.txt", "wenlu/data/文.json", "a b.txt", "console/auxiliary.txt", ".hidden", "a..b"])
def test_ordinary_names_are_safe(name: str) -> None:
    assert why_unsafe(name) is None


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    archive = made(tmp_path / "a.whl", (of_kind("link", kind), b"/etc/passwd"))
    assert refused(archive, tmp_path) == "fetch.archive_unsafe"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a.txt", "a.txt"), ("a.txt", "A.TXT"), ("a", "a/")])
def test_two_files_of_one_name_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    archive = made(tmp_path / "a.whl", (names[0], b"1"), (names[1], b""))
    assert refused(archive, tmp_path) == "fetch.archive_unsafe"


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path: Path, compression: int) -> None:
    archive = made(tmp_path / "a.whl", ("a.txt", b"1" * 1000), compression=compression)
    assert refused(archive, tmp_path) == "fetch.archive_unsafe"


def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.whl", ("zeros", bytes(20 * MIB)))
    assert archive.stat().st_size < 25_000  # 1000:1
    assert refused(archive, tmp_path) == "fetch.archive_ratio"


def test_the_sum_of_many_files_is_bounded(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.whl", *((f"{n}.txt", bytes([n]) * 1000) for n in range(10)))
    assert refused(archive, tmp_path, limits=Limits(extracted_bytes=5_500)) == "fetch.archive_too_large"
    written = list((tmp_path / "inner").rglob("*.txt"))
    assert sum(path.stat().st_size for path in written) <= 5_500


def test_the_archive_itself_is_bounded(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.whl", ("a.txt", b"1" * 5000), compression=zipfile.ZIP_STORED)
    assert refused(archive, tmp_path, limits=Limits(archive_bytes=1000)) == "fetch.archive_too_large"


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.whl", *((f"{n}.txt", b"") for n in range(50)))
    assert refused(archive, tmp_path, limits=Limits(entries=49)) == "fetch.archive_entries"
    assert refused(archive, tmp_path, limits=Limits(directory_bytes=1000)) == "fetch.archive_too_large"


def _central(content: bytearray, offset: int, layout: str, value: int) -> None:
    at = content.index(b"PK\x01\x02")
    struct.pack_into(layout, content, at + offset, value)


def _declare_large(content: bytearray) -> None:
    _central(content, 24, "<I", 0xFFFFFFF0)


def _declare_small(content: bytearray) -> None:
    _central(content, 24, "<I", 10)


def _declare_more(content: bytearray) -> None:
    _central(content, 24, "<I", 2000)


def _wrong_checksum(content: bytearray) -> None:
    _central(content, 16, "<I", 1)


def _encrypted(content: bytearray) -> None:
    _central(content, 8, "<H", 1)


def _far_offset(content: bytearray) -> None:
    _central(content, 42, "<I", 0x7FFFFFFF)


def _cut(content: bytearray) -> None:
    del content[len(content) // 2 :]


def _no_directory(content: bytearray) -> None:
    del content[-22:]


def _zip64(content: bytearray) -> None:
    content[-22:-22] = b"PK\x06\x07" + bytes(16)


def _not_a_zip(content: bytearray) -> None:
    content[:] = b"<html>not found</html>"


def _empty(content: bytearray) -> None:
    content.clear()


@pytest.mark.parametrize(
    "damage",
    [
        _declare_large,
        _declare_small,
        _declare_more,
        _wrong_checksum,
        _encrypted,
        _far_offset,
        _cut,
        _no_directory,
        _zip64,
        _not_a_zip,
        _empty,
    ],
)
def test_lies_and_damage_are_refused(tmp_path: Path, damage: Callable[[bytearray], None]) -> None:
    archive = made(tmp_path / "a.whl", ("a.txt", bytes(range(256)) * 4))
    content = bytearray(archive.read_bytes())
    damage(content)
    archive.write_bytes(content)
    assert refused(archive, tmp_path).startswith("fetch.archive_")


def test_files_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """The flat archive bomb: many directory entries for one piece of compressed data."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"1" * 1000)
        archive.filelist.append(archive.filelist[0])
        archive._didModify = True  # type: ignore[attr-defined]
    path = tmp_path / "a.whl"
    path.write_bytes(buffer.getvalue())
    with zipfile.ZipFile(path) as opened:
        assert len(opened.infolist()) == 2
    content = path.read_bytes()
    at = content.rindex(b"a.txt")
    path.write_bytes(content[:at] + b"b.txt" + content[at + 5 :])
    assert refused(path, tmp_path) == "fetch.archive_damaged"


def test_a_file_in_the_target_is_never_replaced(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.whl", ("a.txt", b"new"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        extract(archive, tmp_path / "out", ["a.txt"])
    assert (tmp_path / "out/a.txt").read_bytes() == b"old"
