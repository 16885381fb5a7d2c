"""Deterministic shares of a source: contiguous ranges of bytes or rows of its files."""

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tain.foundation.errors import UserError
from tain.text.lines import Span, is_stdin, read_lines, refuse_unreadable, source_name
from tain.text.tables import count_rows, kind_of, open_table


@dataclass(frozen=True)
class Share:
    """One of several shares of a source.

    Attributes:
        number: 1 for the first share.
        count: Number of shares.

    Raises:
        UserError: The number is not between 1 and the count.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UserError(
                f"shard is {self.number}/{self.count}, which does not exist: give 1/{max(self.count, 1)} or another up to the last"
            )

    @classmethod
    def parse(cls, given: str) -> "Share":
        """Read ``3/64``: the third of 64 shares.

        Raises:
            UserError: It is spelled otherwise, or does not exist.
        """
        number, mark, count = given.partition("/")
        if not mark or not (number.isascii() and number.isdigit() and count.isascii() and count.isdigit()):
            raise UserError(f"shard is {given!r}, which is not of the form NUMBER/COUNT: give for example 3/64")
        return cls(int(number), int(count))

    def of(self, total: int) -> tuple[int, int]:
        """Start and stop of this share of ``total`` units; shares differ by at most one unit."""
        return total * (self.number - 1) // self.count, total * self.number // self.count


@dataclass(frozen=True)
class Part:
    """A part of a source that is read in one go.

    Attributes:
        source: A file, ``-`` or a hub data set.
        unit: ``bytes``: lines that begin in a range of bytes; ``rows``: a range of lines or rows; ``all``: everything.
        start: First byte or row.
        stop: Byte or row after the last.
    """

    source: str
    unit: Literal["bytes", "rows", "all"] = "all"
    start: int = 0
    stop: int = 0

    @property
    def span(self) -> Span | None:
        return (self.start, self.stop) if self.unit == "bytes" else None

    @property
    def rows(self) -> tuple[int, int] | None:
        return (self.start, self.stop) if self.unit == "rows" else None


def files_of(source: str | Path) -> list[str]:
    """Files of a source, in reading order: those of a folder or a pattern, sorted by name; any other source is returned alone.

    Hidden files, and files in hidden folders, are left out.

    Raises:
        UserError: The folder or the pattern has no files.
    """
    source = str(source)
    if is_stdin(source) or source.startswith("hf:"):
        return [source]
    if os.path.isdir(source):  # noqa: PTH112 - unlike Path.is_dir, never raises
        root = Path(source)
        found = [path for path in root.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(root))]
        if not found:
            raise UserError(f"{source_name(source)} is a folder without files: give a folder of text files or tables, or one file")
        return [str(path) for path in sorted(found, key=lambda path: path.relative_to(root).as_posix())]
    if glob.has_magic(source) and not os.path.exists(source):  # noqa: PTH110
        matched = sorted(name for name in glob.glob(source, recursive=True) if os.path.isfile(name))  # noqa: PTH113, PTH207
        if not matched:
            raise UserError(f"{source_name(source)} matches no file: check the pattern, and quote it so that the shell leaves it alone")
        return matched
    return [source]


def parts_of(source: str | Path, share: Share | None = None) -> list[Part]:
    """Parts of a source that belong to a share; the parts of all shares, in order, are the whole source.

    The files lie end to end. A share is an equal range of their bytes, and each line of plain text, tsv or jsonl belongs to the share in
    which it begins. Rows of parquet are spread evenly over the bytes of their file. A compressed file or a csv, whose records may have
    several lines, is not split: it belongs to the share in which it begins. If such a file, or a hub data set, is the only source, its
    rows are counted first, and a share is an equal range of rows.

    Args:
        source: As in ``read_texts``; or a folder or a pattern of files.
        share: The share; default: everything.

    Raises:
        UserError: A file cannot be read, or standard input is to be split.
    """
    files = files_of(source)
    if share is None:
        return [Part(name) for name in files]
    if is_stdin(source):
        raise UserError("standard input cannot be split into shards, since each process reads its own: save it in a file and give the file")
    if len(files) == 1 and not _is_split(files[0]):
        start, stop = share.of(_rows_of(files[0]))
        return [Part(files[0], "rows", start, stop)]
    sizes = [_bytes_of(name) for name in files]
    start, stop = share.of(sum(sizes))
    parts, begins = [], 0
    for name, size in zip(files, sizes, strict=True):
        part = _part(name, size, start - begins, stop - begins)
        if part is not None:
            parts.append(part)
        begins += size
    return parts


def identity_of(source: str | Path) -> list[list[object]]:
    """Name (without folders), and size in bytes, of each file of a source; shards of one run agree in it."""
    files = files_of(source)
    return [[name if name.startswith("hf:") else Path(name).name, None if name.startswith("hf:") else _bytes_of(name)] for name in files]


def _part(name: str, size: int, start: int, stop: int) -> Part | None:
    """Part of one file within a range of bytes that may begin before the file and end after it."""
    if not _is_split(name):
        return Part(name) if start <= 0 < stop else None
    first, last = max(start, 0), min(stop, size)
    if first >= last:
        return None
    if kind_of(name) != "parquet":
        return Part(name, "bytes", first, last)
    rows = _rows_of(name)
    from_row, to_row = -(-first * rows // size), -(-last * rows // size)  # row j begins at byte j * size / rows
    return Part(name, "rows", from_row, to_row) if from_row < to_row else None


def _is_split(name: str) -> bool:
    """Whether a file can be split by bytes, or knows its rows."""
    return kind_of(name) in ("text", "tsv", "jsonl", "parquet") and not name.lower().endswith((".gz", ".xz"))


def _rows_of(name: str) -> int:
    if kind_of(name) == "parquet":
        return count_rows(name)
    if kind_of(name) in ("text", "jsonl"):
        return sum(1 for _ in read_lines(name))
    return sum(1 for _ in open_table(name).rows(None))


def _bytes_of(name: str) -> int:
    refuse_unreadable(name)
    return Path(name).stat().st_size


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
