"""Read lines of UTF-8 text from a file or standard input as a stream, in bounded memory."""

import difflib
import gzip
import io
import lzma
import math
import os
import re
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from tain.foundation.errors import UserError

MAX_LINE_BYTES = 10_000_000

Span = tuple[int, int]  # first byte, and the byte after the last

_READ_BYTES = MAX_LINE_BYTES + len("\r\n") + 1  # one byte more than the longest allowed line shows that a line is too long
_BUFFER_BYTES = 1 << 18
_BOM = b"\xef\xbb\xbf"

# white space, and zero-width characters: soft hyphen, joiners, direction marks, byte order marks inside a text
_BLANK = re.compile(r"[\s\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*")
_ADVICE_ON_RETURNS = "where these end lines, convert them with: tr '\\r' '\\n'"

# leading bytes of files that are not UTF-8 text -> what they are, what to do
_OTHER_STARTS = {
    b"\x1f\x8b": ("gzip data", "let its name end in .gz"),
    b"\xfd7zXZ\0": ("xz data", "let its name end in .xz"),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("zstd data", "unpack it, or pack it as .gz or .xz"),
    b"\xff\xfe": ("UTF-16 text", "convert it with: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "convert it with: iconv -f UTF-16 -t UTF-8"),
}


class SourceWarning(UserWarning):
    """Warning about a source that is readable, but perhaps not as intended."""


def is_blank(text: str) -> bool:
    """Whether a text has no visible characters, only white space and zero-width characters."""
    return _BLANK.fullmatch(text) is not None


def is_stdin(source: str | Path) -> bool:
    return str(source) == "-"


def source_name(source: str | Path) -> str:
    """Name of a source in messages."""
    return "standard input" if is_stdin(source) else repr(str(source))


def read_lines(source: str | Path, *, span: Span | None = None) -> Iterator[str]:
    """Yield every line, including blank ones, without line end (LF or CRLF) and without a byte order mark at the start.

    Only LF ends a line; form feeds, U+2028 and similar are part of the text. Files ending in .gz or .xz are decompressed.

    Args:
        source: A file, or ``-`` for standard input.
        span: Only the lines that begin in this range of bytes of an uncompressed file; messages count lines from its first byte.

    Raises:
        UserError: The source cannot be opened or decompressed, or a line is not UTF-8, has a NUL byte, or is longer
            than ``MAX_LINE_BYTES``; the line is named by number and never held in memory completely.
    """
    name = source_name(source) if span is None else f"{source_name(source)} (from byte {span[0]:,})"
    number = returns = 0
    with _open_bytes(source) as file:
        at, stop = (0, math.inf) if span is None else (_first_line_from(file, span[0]), span[1])
        try:
            while at < stop and (raw := file.readline(_READ_BYTES)):
                number += 1
                size = len(raw)
                if at == 0:
                    _refuse_other_starts(raw, source)
                    raw = raw.removeprefix(_BOM)
                at += size
                raw = raw.removesuffix(b"\n").removesuffix(b"\r")
                returns += raw.count(b"\r") if b"\r" in raw else 0
                if len(raw) > MAX_LINE_BYTES:
                    has = f" and has {returns:,} carriage returns; {_ADVICE_ON_RETURNS}" if returns else ": give one text per line"
                    raise UserError(f"{name} line {number} is longer than {MAX_LINE_BYTES:,} bytes{has}")
                if b"\0" in raw:
                    raise UserError(f"{name} line {number} has a NUL byte, so it is not plain text: give a UTF-8 text file")
                try:
                    yield raw.decode()
                except UnicodeDecodeError as error:
                    byte = f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
                    raise UserError(f"{name} line {number} is not UTF-8 ({byte} of the line): save the file as UTF-8") from None
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise UserError(_unpacking_failed(source, number, error)) from None
    if returns >= max(1, number):
        lines = "1 line" if number == 1 else f"{number:,} lines"
        warn(f"{name} has {lines} (a line ends with LF) and {returns:,} carriage returns inside: {_ADVICE_ON_RETURNS}")


def _first_line_from(file: IO[bytes], start: int) -> int:
    """Go to the first line that begins at or after a byte, and return where it begins."""
    if start == 0:
        return 0
    at = file.seek(start - 1)
    while piece := file.readline(_READ_BYTES):
        at += len(piece)
        if piece.endswith(b"\n"):
            break
    return at


def warn(message: str) -> None:
    """Warn about a source; the command line prints it as one line."""
    warnings.warn(message, SourceWarning, stacklevel=3)


def refuse_unreadable(path: str | Path) -> None:
    """Refuse a path that does not exist (suggesting similar names), is a folder, or is not readable."""
    name = source_name(path)
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, never raises
        raise UserError(f"{name} is a folder, but one file is read: give a file, or pipe several in and give - (standard input)")
    if not os.path.exists(path):  # noqa: PTH110 - unlike Path.exists, never raises
        raise UserError(f"{name} does not exist: {_missing_advice(path)}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{name} cannot be read without permission: change its permissions, or give another file")


def _open_bytes(source: str | Path) -> AbstractContextManager[IO[bytes]]:
    if is_stdin(source):
        return nullcontext(sys.stdin.buffer)  # not ours to close
    refuse_unreadable(source)
    path = Path(source)
    # both decompressors implement readline in slow Python; a buffer around them does it in C
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(gzip.GzipFile(path), _BUFFER_BYTES)  # type: ignore[arg-type]
    if path.suffix.lower() == ".xz":
        return io.BufferedReader(lzma.LZMAFile(path), _BUFFER_BYTES)  # type: ignore[arg-type]
    return path.open("rb", buffering=_BUFFER_BYTES)


def _refuse_other_starts(first_line: bytes, source: str | Path) -> None:
    for start, (what, advice) in _OTHER_STARTS.items():
        if first_line.startswith(start):
            if is_stdin(source) and "its name" in advice:
                advice = "unpack it on the way in, such as with: gzip -dc FILE | or xz -dc FILE |"
            raise UserError(f"{source_name(source)} holds {what}, not UTF-8 text: {advice}")


def _unpacking_failed(source: str | Path, lines_read: int, error: Exception) -> str:
    kind = "gzip" if Path(source).suffix.lower() == ".gz" else "xz"
    if isinstance(error, EOFError):
        return f"{source_name(source)} ends in the middle of its {kind} data, after line {lines_read}: download or pack it again"
    if lines_read == 0:
        return f"{source_name(source)} is named like {kind} data but is none or is damaged: rename it or pack it again"
    return f"{source_name(source)} has damaged {kind} data after line {lines_read}: download or pack it again"


def _missing_advice(path: Path) -> str:
    folder = path.parent
    if not os.path.isdir(folder):  # noqa: PTH112
        return f"there is no folder {str(folder)!r} either; check the path"
    try:
        near = difflib.get_close_matches(path.name, os.listdir(folder), n=3, cutoff=0.8)  # noqa: PTH208 - names alone
    except OSError:
        near = []
    if near:
        return "did you mean " + " or ".join(repr(str(folder / name)) for name in near) + "?"
    return "check the path"
