"""Hostile archives: nothing leaves the target folder, nothing grows beyond the limits, and the reason is said."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

import hostile_archives
from promises import Figure
from resident import in_fresh_process
from skips import needs_posix
from wenlu.core.errors import DataError
from wenlu.data.archives import Limits, extract, why_unsafe
from wenlu.data.documents import DataSettings, Report, read_documents

MIB = 1024 * 1024


def made(path: Path, *files: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path.write_bytes(hostile_archives.made(*files, compression=compression))
    return path


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


def open_all(folder: str, files: list[str]) -> dict[str, str]:
    """Open each file as Wenlu would, and give the id of each refusal; runs in a process of its own."""
    refusals = {}
    for name in files:
        path = Path(folder, name)
        try:
            if path.suffix == ".zip":
                extract(path, Path(folder, "out", "deep", name), ["*"])
            else:
                for _ in read_documents(DataSettings((str(path),)), Report()):
                    pass
        except DataError as error:
            assert name in str(error)
            refusals[name] = error.id
    return refusals


@pytest.mark.promise("T20")
def test_two_hundred_hostile_files(tmp_path: Path, figure: Figure) -> None:
    needs_posix()
    expected = hostile_archives.write_all(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refusals, peak = in_fresh_process(open_all, str(tmp_path), sorted(expected))
    assert isinstance(refusals, dict)
    assert {
        name: refusals.get(name, "") for name in expected if not refusals.get(name, "").startswith(expected[name])
    } == {}
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    written = [path for path in tmp_path.rglob("*") if path not in before and not path.is_dir()]
    escaped = [path for path in written if not {tmp_path / "out/deep" / name for name in expected} & set(path.parents)]
    early = [path for path in written if expected.get(path.parts[len(tmp_path.parts) + 2]) == "fetch.archive_unsafe"]
    assert escaped == early == [] and len(expected) >= 200 and peak <= 200
    figure(f"{len(expected)} hostile archives and compressed files: 0 escapes, 0 accepted, {peak:.0f} MiB resident")


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.whl", ("p/a.txt", b"1"))
    with pytest.raises(DataError, match="no such file") as caught:
        extract(archive, tmp_path / "out", ["p/a.txt", "p/b.txt"])
    assert caught.value.id == "fetch.file_missing"
    assert "p/b.txt" in str(caught.value)


def test_a_name_cut_by_a_nul_byte_is_refused(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.whl", ("good.txt_evil", b"1"))
    archive.write_bytes(archive.read_bytes().replace(b"good.txt_evil", b"good.txt\x00evil"))
    assert refused(archive, tmp_path) == "fetch.archive_unsafe"


@pytest.mark.parametrize("name", ["a.txt", "wenlu/data/文.json", "a b.txt", "console/auxiliary.txt", ".hidden", "a..b"])
def test_ordinary_names_are_safe(name: str) -> None:
    assert why_unsafe(name) is None


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path: Path, compression: int) -> None:
    archive = made(tmp_path / "a.whl", ("a.txt", b"1" * 1000), compression=compression)
    assert refused(archive, tmp_path) == "fetch.archive_unsafe"


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
