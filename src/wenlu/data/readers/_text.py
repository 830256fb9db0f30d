"""Lines of a text file in the encoding that was asked for; what does not fit is refused by name, with its place."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import NoReturn

from wenlu.core.errors import DataError
from wenlu.core.log import notice
from wenlu.data.files import DataSettings, Record, Report, SourceFile
from wenlu.data.readers._compression import open_bytes

LINE_LIMIT = 1 << 26  # characters of one row of a table or of JSON Lines
_HEAD_BYTES = 1 << 16
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SIGNATURES = (
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP (docx, xlsx, epub)"),
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x1f\x8b", "gzip (.gz)"),
    (b"\xfd7zXZ", "xz (.xz)"),
    (b"\x28\xb5\x2f\xfd", "Zstandard (.zst)"),
    (b"PAR1", "Parquet (.parquet)"),
    (b"SQLite format 3", "SQLite"),
    (b"\xd0\xcf\x11\xe0", "Microsoft Office (doc, xls)"),
    (b"\x7fELF", "ELF"),
)
_LIKELY = ("gb18030", "big5", "shift_jis", "euc_kr", "euc_jp", "cp1252")  # in order of preference between equals
_WIDE = ("utf_16_le", "utf_16_be")
_ESCAPED = re.compile("[\udc00-\udcff]")
_LINE_ENDS = {"": re.compile("\r\n|\r|\n"), "\n": re.compile("\n")}


def lines(
    source: SourceFile, settings: DataSettings, report: Report, *, newline: str = "", limit: int = -1
) -> Iterator[tuple[int, str]]:
    """Number and text of each line, its line end kept; a longer line than ``limit`` comes in several pieces.

    ``newline`` is ``""`` (LF, CRLF and CR end a line) or LF alone.

    Raises:
        DataError: ``data.undecodable``, ``data.binary_file``, ``data.unreadable``, ``data.bad_compression``.
    """
    with open_bytes(source, report) as raw:
        head, encoding, errors = _beginning(raw, source, settings, report)
        number = 1
        with io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline=newline) as stream:
            while True:
                try:
                    line = stream.readline(limit)
                except UnicodeDecodeError as error:
                    _refuse(source, raw, encoding, error, number, newline, head)
                if not line:
                    return
                yield number, _checked(line, number, source, settings, report)
                number += line.endswith(("\n", "\r"))


def _blocks(source: SourceFile, settings: DataSettings, report: Report) -> Iterator[str]:
    """The text in blocks as they come: faster than lines where they do not matter. Raises what ``lines`` does."""
    with open_bytes(source, report) as raw:
        head, encoding, errors = _beginning(raw, source, settings, report)
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        number, at_end = 1, False
        held = ""  # a CR, until it is known whether it is half of a CRLF
        while not at_end:
            data = raw.read1(_HEAD_BYTES)
            at_end = not data
            try:
                block = decoder.decode(data, at_end)
            except UnicodeDecodeError as error:
                _refuse(source, raw, encoding, error, number, "", head, held)
            if block:
                yield _checked(block, number + (held != "" and block[0] != "\n"), source, settings, report)
                number += _num_line_ends(held + block.removesuffix("\r"))
                held = "\r" if block.endswith("\r") else ""


def _beginning(
    raw: io.BufferedReader, source: SourceFile, settings: DataSettings, report: Report
) -> tuple[bytes, str, str]:
    """The first bytes, the encoding, and what is done with bytes that do not fit it."""
    head = raw.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    encoding = _encoding(head, source, settings)
    if report.files:
        report.files[-1].encoding = encoding
    return head, encoding, "strict" if settings.bad_bytes == "refuse" else "wenlu.escape"


def _checked(text: str, number: int, source: SourceFile, settings: DataSettings, report: Report) -> str:
    """The text of a line or block; bytes that did not fit are replaced and counted."""
    if "\0" in text:
        line = number + _num_line_ends(text[: text.index("\0")])
        raise DataError("data.binary_file", path=source, line=line, kind="NUL (U+0000)")
    if settings.bad_bytes == "replace":
        text, replaced = _ESCAPED.subn("\ufffd", text)
        report.replaced_bytes += replaced
    return text


def _num_line_ends(text: str) -> int:
    return text.count("\n") + (text.count("\r") - text.count("\r\n") if "\r" in text else 0)


def whole_lines(
    source: SourceFile, settings: DataSettings, report: Report, *, newline: str
) -> Iterator[tuple[int, str]]:
    """The same for formats in which a line cannot be divided: one beyond LINE_LIMIT is refused."""
    for number, line in lines(source, settings, report, newline=newline, limit=LINE_LIMIT):
        if len(line) == LINE_LIMIT:
            raise DataError("data.line_too_long", path=source, line=number, limit=LINE_LIMIT)
        yield number, line


def documents(source: SourceFile, settings: DataSettings, report: Report) -> Iterator[Record]:
    """The documents of a plain text, divided as ``data.document`` says; over-long ones in parts at line ends.

    The line end behind a document's last line, or a part's, is not part of its text.
    """
    mode = "file" if settings.document == "auto" else settings.document
    if mode == "file":
        yield from _whole_file(source, settings, report)
        return
    limit = settings.maximum_characters
    held: list[str] = []
    size, start, part = 0, 1, 0
    inside_line = False  # the piece before was cut off inside its line
    for number, line in lines(source, settings, report, limit=limit):
        blank = not inside_line and line.isspace()
        inside_line = not line.endswith(("\n", "\r"))
        separates = mode == "blank_line" and blank
        if held and (separates or size + len(line) > limit):
            yield _record(held, start, part)
            held, size, part = [], 0, part + 1
        if separates:
            part = 0
            continue
        start = start if held else number
        held.append(line)
        size += len(line)
        if mode == "line" and not inside_line:
            if not blank or part:
                yield _record(held, start, part)
            held, size, part = [], 0, 0
    if held:
        yield _record(held, start, part)


def _whole_file(source: SourceFile, settings: DataSettings, report: Report) -> Iterator[Record]:
    limit = settings.maximum_characters
    held: list[str] = []
    size, start, part = 0, 1, 0
    for block in _blocks(source, settings, report):
        held.append(block)
        size += len(block)
        if size <= limit:
            continue
        text, place = "".join(held), 0
        while len(text) - place > limit:
            end = _last_line_end(text, place, place + limit)
            yield _record([text[place:end]], start, part)
            start += _num_line_ends(text[place:end])
            place, part = end, part + 1
        held, size = [text[place:]], len(text) - place
    if held:
        yield _record(held, start, part)


def _last_line_end(text: str, start: int, end: int) -> int:
    """The place behind the last line end, or ``end`` where there is none; never inside CRLF."""
    if text[end - 1 : end + 1] == "\r\n":
        end -= 1
    return max(text.rfind("\n", start, end), text.rfind("\r", start, end)) + 1 or end


def _escape(error: UnicodeError) -> tuple[str, int]:
    """A lone surrogate for each byte that does not fit; unlike Python's own handler also for bytes below 128."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("wenlu.escape", _escape)


def _record(held: list[str], start: int, part: int) -> Record:
    return Record("".join(held).removesuffix("\n").removesuffix("\r"), start, part)


def _encoding(head: bytes, source: SourceFile, settings: DataSettings) -> str:
    """The byte order mark's encoding, else the one that was asked for; binary files are refused."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            if encoding != "utf-8-sig":
                notice("data.byte_order_mark", path=source, encoding=encoding)
            return encoding
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            raise DataError("data.binary_file", path=source, line=1, kind=kind)
    name = codecs.lookup(settings.encoding).name
    if name in ("utf-16", "utf-32") and head:  # without the mark that they demand
        values = {"line": 1, "offset": 0, "bytes": head[:4].hex(" "), "encoding": name}
        narrow = b"\0" not in head and (head.isascii() or _are_utf8(head))
        raise DataError("data.undecodable", path=source, likely="utf-8" if narrow else f"{name}-le", **values)
    if b"\0" in head and not name.startswith(("utf-16", "utf-32")):
        offset = head.index(0)
        place = {"path": source, "line": head[:offset].count(b"\n") + 1}
        ascii_alone = head.isascii() and head.count(0) < len(head) / 4  # in UTF-16 every second byte would be 0
        if ascii_alone or not (likely := _likely(head, _WIDE)):
            raise DataError("data.binary_file", **place, kind="NUL (00)")
        found = {"offset": offset, "bytes": "00", "encoding": settings.encoding}
        raise DataError("data.undecodable", **place, **found, likely=likely)
    return settings.encoding


def _refuse(
    source: SourceFile,
    raw: io.BufferedReader,
    encoding: str,
    error: UnicodeDecodeError,
    number: int,
    newline: str,
    head: bytes,
    held: str = "",
) -> NoReturn:
    data, codec = bytes(error.object), codecs.lookup(encoding).name
    offset = raw.tell() - len(data) + error.start
    before = held + data[: error.start].decode(encoding, errors="ignore")
    line = number + len(_LINE_ENDS[newline].findall(before))
    near = data[max(0, error.start - 4096) :]
    if codec not in ("utf-8", "utf-8-sig") and _are_utf8(head, near):
        likely: str | None = "utf-8"
    else:
        valid = head[: offset - error.start].decode(codec, errors="ignore") + before
        damaged = codec.startswith("utf-8") and _is_mostly_utf8(valid, data[error.start :])
        damaged = damaged or codec.startswith(("utf-16", "utf-32"))
        damaged = damaged or error.reason == "incomplete multibyte sequence"  # all was right up to the file's last byte
        likely = None if damaged else _likely(near, _LIKELY)
    id, wrong = "data.undecodable" if likely else "data.damaged_text", data[error.start : error.end].hex(" ")
    raise DataError(id, path=source, line=line, offset=offset, bytes=wrong, encoding=encoding, likely=likely) from error


def _are_utf8(*pieces: bytes) -> bool:
    """Whether pieces of a file, which may begin and end inside a character, are UTF-8 and more than ASCII."""
    whole = (re.sub(rb"\A[\x80-\xbf]{1,3}", b"", piece) for piece in pieces)
    try:
        text = "".join(codecs.getincrementaldecoder("utf-8")().decode(piece) for piece in whole)
    except UnicodeDecodeError:
        return False
    return not text.isascii() and "\0" not in text


def _is_mostly_utf8(valid: str, rest: bytes) -> bool:
    """Whether a text that is valid UTF-8 up to some wrong bytes is in UTF-8 all the same, and they are damage."""
    # its short characters may stand in another encoding by chance, but then most of what follows does not fit
    after = codecs.getincrementaldecoder("utf-8")("wenlu.escape").decode(rest[:4096])
    wide = [character for character in valid + _ESCAPED.sub("", after) if character > "\x7f"]
    return len(wide) >= 3 * max(1, len(_ESCAPED.findall(after))) or max(valid, default="") >= "\u0800"


def _likely(data: bytes, candidates: tuple[str, ...]) -> str | None:
    """The encoding among the candidates that these bytes most probably have; None when none fits."""
    from charset_normalizer import from_bytes

    end = len(data) // 2 * 2 if candidates == _WIDE else data.rfind(b"\n") + 1 or len(data)
    matches = [match for match in from_bytes(data[:end], cp_isolation=list(candidates)) if match.encoding in candidates]
    if not matches:
        return None
    best = min(matches, key=lambda match: (round(match.chaos, 2), -match.coherence, candidates.index(match.encoding)))
    return best.encoding.replace("_", "-")
