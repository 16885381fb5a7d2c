"""Uniform reading of tables in any format: column names, and a stream of numbered rows."""

import csv
import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tain.foundation.errors import UserError
from tain.text.lines import MAX_LINE_BYTES, Span, is_blank, is_stdin, read_lines, refuse_unreadable, source_name, warn

_PARQUET_ROWS = 1024
_SHOWN_COLUMNS = 20
_NAME_WORDS, _NAME_CHARACTERS = 3, 40  # longer column names look like a text

# row number and values; None for a blank line
Row = tuple[int, list[object] | None]

_TABLE_KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_UNREAD_KINDS = {
    (".json",): "write one JSON object per line and name it .jsonl",
    (".xls", ".xlsx", ".ods"): "save the sheet as .csv",
    (".pdf", ".doc", ".docx", ".odt"): "save it as plain text, .txt",
    (".zip", ".tar", ".tgz", ".bz2", ".zst", ".7z", ".rar"): "unpack it, or pack the text itself as .gz or .xz",
    (".arrow", ".feather"): "write it as .parquet",
}


@dataclass(frozen=True)
class Table:
    """An open table.

    Attributes:
        name: Name in messages.
        unit: Unit of row numbers: ``line`` or ``row``, from 1.
        columns: Distinct column names.
        rows: Streams the values of the given columns, in that order. ``None`` reads all columns, and then
            rows with an additional column are refused rather than cut. Call it only once.
        has_header: Column names are in the first line; in other formats they cannot be confused with texts.
        types: Arrow type of each column, where the format records it (parquet).
    """

    name: str
    unit: str
    columns: list[str]
    rows: Callable[[list[str] | None], Iterator[Row]]
    has_header: bool = False
    types: dict[str, Any] = field(default_factory=dict)

    def warn_of_header(self) -> None:
        """Warn if no columns were named and the header line looks like a text."""
        if self.has_header and any(map(_looks_like_text, self.columns)):
            warn(
                f"the first line of {self.name} is read as column names ({self.listed_columns()}): if it is a text, put a line of "
                "names above it; if it is not, name the columns to read"
            )

    def listed_columns(self) -> str:
        names = ", ".join(repr(column) for column in self.columns[:_SHOWN_COLUMNS])
        rest = len(self.columns) - _SHOWN_COLUMNS
        return f"{names} and {rest} more" if rest > 0 else names


def kind_of(source: str | Path) -> str:
    """Detect from its name how a source is read: ``text``, ``csv``, ``tsv``, ``jsonl``, ``parquet`` or ``hub``.

    Raises:
        UserError: The name indicates an unsupported format.
    """
    if is_stdin(source):
        return "text"
    if str(source).startswith("hf:"):
        return "hub"
    path = Path(source)
    is_packed = path.suffix.lower() in (".gz", ".xz")
    suffix = Path(path.stem).suffix.lower() if is_packed else path.suffix.lower()
    for suffixes, advice in _UNREAD_KINDS.items():
        if suffix in suffixes:
            refuse_unreadable(source)
            raise UserError(f"{source_name(source)} is a {suffix} file, which tain does not read: {advice}")
    if suffix == ".parquet" and is_packed:
        raise UserError(f"{source_name(source)} is compressed, but parquet files are compressed inside already: unpack it to .parquet")
    return _TABLE_KINDS.get(suffix, "text")


def open_table(source: str | Path, *, span: Span | None = None, rows: tuple[int, int] | None = None) -> Table:
    """Open a table and read its column names.

    Args:
        source: The table.
        span: Only rows whose line begins in this range of bytes; for an uncompressed tsv or jsonl.
        rows: Only the rows in this range, counted from 0, blank lines included.

    Raises:
        UserError: It cannot be read, is empty, or has duplicate column names. ``Table.rows`` raises it for a bad row.
    """
    kind = kind_of(source)
    if kind == "csv":
        table = _delimited_table(source, _csv_records(source))
        _refuse_other_delimiter(table)
    elif kind == "tsv":
        # no quoting: in a tsv a quotation mark is a plain character
        table = _tsv_table(source, span)
    elif kind == "jsonl":
        table = _jsonl_table(source, span)
    elif kind == "parquet":
        table = _parquet_table(source, rows)
    else:
        table = _hub_table(source)
    if rows is not None and kind != "parquet":
        table = _only_rows(table, rows)
    twice = sorted({column for column in table.columns if table.columns.count(column) > 1})
    if twice:
        raise UserError(f"{table.name} has more than one column named {twice[0]!r}: give each column its own name")
    return table


def split_hub_source(source: str | Path) -> tuple[str, str, str | None]:
    """Split ``hf:NAME[:SPLIT[:COLUMN]]`` into name, split (default ``train``) and column."""
    name, *rest = str(source).removeprefix("hf:").split(":")
    if not name or len(rest) > 2 or not all(rest):
        raise UserError(
            f"data set is {str(source)!r}, which is not of the form hf:NAME[:SPLIT[:COLUMN]]: give for example hf:ag_news:train:text"
        )
    return name, rest[0] if rest else "train", rest[1] if len(rest) > 1 else None


def _csv_records(source: str | Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line + "\n" for line in read_lines(source)), strict=True)
    while True:
        number = reader.line_num + 1
        others_limit = csv.field_size_limit(MAX_LINE_BYTES)  # a global setting: changed for one record, then restored
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "new-line character" in str(error):
                raise UserError(
                    f"{source_name(source)} line {number} is not valid csv (a carriage return outside of quotation marks): "
                    "its lines may end with CR alone; convert them with: tr '\\r' '\\n'"
                ) from None
            raise UserError(
                f"{source_name(source)} line {number} is not valid csv ({error}): "
                "check its quotation marks, or use .tsv, where they are plain characters"
            ) from None
        finally:
            csv.field_size_limit(others_limit)
        yield number, record


def _only_rows(table: Table, wanted: tuple[int, int]) -> Table:
    return replace(table, rows=lambda chosen: islice(table.rows(chosen), *wanted))


def _tsv_table(source: str | Path, span: Span | None) -> Table:
    # no quoting: in a tsv a quotation mark is a plain character
    table = _delimited_table(source, _tsv_records(source))
    if span is None:
        return table
    lines = next(number for number, record in _tsv_records(source) if not _is_blank(record))
    with Path(source).open("rb") as file:
        header_bytes = sum(len(file.readline()) for _ in range(lines))
    return _delimited_table(source, _tsv_records(source, (max(span[0], header_bytes), span[1])), header=table.columns)


def _tsv_records(source: str | Path, span: Span | None = None) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in enumerate(read_lines(source, span=span), start=1))


def _delimited_table(source: str | Path, records: Iterator[tuple[int, list[str]]], *, header: list[str] | None = None) -> Table:
    """Build a table of records; ``header`` are its column names, if the records do not begin with them."""
    name = source_name(source)
    if header is None:
        header = next((record for _, record in records if not _is_blank(record)), None)
    if header is None:
        raise UserError(f"{name} is empty: give a table whose first line names the columns")

    def rows(chosen: list[str] | None) -> Iterator[Row]:
        indices = [header.index(column) for column in (chosen or header)]
        for number, record in records:
            if _is_blank(record):
                yield number, None
            elif len(record) != len(header):
                fields = "1 field" if len(record) == 1 else f"{len(record)} fields"
                raise UserError(f"{name} line {number} has {fields}, but the header has {len(header)}: fix the line or the header")
            else:
                yield number, [record[index] for index in indices]

    return Table(name=name, unit="line", columns=header, rows=rows, has_header=True)


def _looks_like_text(name: str) -> bool:
    """Whether a column name looks like a text: several words, a sentence ending, or a number."""
    name = name.strip()
    is_number = name.replace(".", "", 1).removeprefix("-").isdigit()
    return is_number or len(name.split()) > _NAME_WORDS or len(name) > _NAME_CHARACTERS or name.endswith((".", "?", "!", "。", "？", "！"))


def _is_blank(record: list[str]) -> bool:
    # a plain loop: the first cell nearly always decides, and this runs once per row
    for cell in record:  # noqa: SIM110
        if not is_blank(cell):
            return False
    return True


def _refuse_other_delimiter(table: Table) -> None:
    # otherwise such a file would pass as a table with a single column
    if len(table.columns) == 1:
        for delimiter, shown in ((";", "';'"), ("\t", "tabs")):
            if delimiter in table.columns[0]:
                raise UserError(f"{table.name} seems to be separated by {shown}, but a .csv is separated by commas: save it so, or as .tsv")


def _jsonl_table(source: str | Path, span: Span | None) -> Table:
    name = source_name(source)
    objects = _json_objects(source)
    skipped: list[int] = []  # blank lines before the first object, counted like others
    for number, first in objects:
        if first is not None:
            break
        skipped.append(number)
    else:
        raise UserError(f"{name} is empty: give one JSON object per line")
    columns = list(first)
    if not columns:
        raise UserError(f"{name} line {number} is an object without keys: its keys name the columns")

    whole = chain(((line, None) for line in skipped), [(number, first)], objects)

    def rows(chosen: list[str] | None) -> Iterator[Row]:
        wanted = chosen or columns
        for line, values in whole if span is None else _json_objects(source, span):
            if values is None:
                yield line, None
                continue
            missing = [column for column in wanted if column not in values]
            if missing:
                raise UserError(f"{name} line {line} has no key {missing[0]!r}, which is read: give every object the same keys")
            if chosen is None and len(values) > len(columns):
                further = next(key for key in values if key not in columns)
                raise UserError(
                    f"{name} line {line} has the key {further!r}, which the first object lacks: give every object the same keys"
                )
            yield line, [values[column] for column in wanted]

    return Table(name=name, unit="line", columns=columns, rows=rows)


def _json_objects(source: str | Path, span: Span | None = None) -> Iterator[tuple[int, dict[str, object] | None]]:
    for number, line in enumerate(read_lines(source, span=span), start=1):
        if not line or line.isspace():
            yield number, None
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = f"{error.msg}, character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise UserError(
                f"{source_name(source)} line {number} is invalid JSON ({why}): give one complete JSON object per line"
            ) from None
        if not isinstance(values, dict):
            raise UserError(f'{source_name(source)} line {number} is not a JSON object: give lines like {{"text": "..."}}')
        yield number, values


def count_rows(source: str | Path) -> int:
    """Count the rows of a parquet file without reading them.

    Raises:
        UserError: It cannot be read.
    """
    with _parquet_file(source) as file:
        return file.metadata.num_rows


def _parquet_file(source: str | Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(
            f'{source_name(source)} is parquet, which needs pyarrow: run pip install "tain[data]", or give .tsv or .jsonl'
        ) from None
    refuse_unreadable(source)
    try:
        # a small buffer without pre-buffering; otherwise a whole row group is read at once
        return pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source_name(source)} is not a parquet file, or is damaged ({_first_line(error)}): write it again") from None


def _parquet_table(source: str | Path, part: tuple[int, int] | None) -> Table:
    file = _parquet_file(source)
    import pyarrow as pa

    name = source_name(source)
    columns = list(file.schema_arrow.names)

    def rows(chosen: list[str] | None) -> Iterator[Row]:
        wanted = chosen or columns
        groups, number, stop = _groups_of(file.metadata, part)
        start = 0 if part is None else part[0]
        if not groups:
            return
        with file:
            try:
                for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted, row_groups=groups):
                    if number + len(batch) <= start:
                        number += len(batch)
                        continue
                    for values in zip(*(batch.column(column).to_pylist() for column in wanted), strict=True):
                        number += 1
                        if start < number <= stop:
                            yield number, list(values)
                    if number >= stop:
                        return
            except UnicodeDecodeError:
                raise UserError(f"{name} has text that is not UTF-8 after row {number}: write it again as UTF-8") from None
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{name} is damaged after row {number} ({_first_line(error)}): write it again") from None

    return Table(name=name, unit="row", columns=columns, rows=rows, types=dict(zip(columns, file.schema_arrow.types, strict=True)))


def _groups_of(metadata: Any, part: tuple[int, int] | None) -> tuple[list[int], int, int]:
    """Row groups that hold a range of rows, the number of rows before the first of them, and the end of the range."""
    start, stop = part or (0, metadata.num_rows)
    groups, before, begins = [], None, 0
    for group in range(metadata.num_row_groups):
        ends = begins + metadata.row_group(group).num_rows
        if begins < stop and start < ends:
            groups.append(group)
            before = begins if before is None else before
        begins = ends
    return groups, before or 0, stop


def _hub_table(source: str | Path) -> Table:
    dataset_name, split, _ = split_hub_source(source)
    name = source_name(source)
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise UserError(f'{name} is a hub data set, which needs datasets: run pip install "tain[data]", or give a local file') from None

    def refusal(error: Exception) -> UserError:
        return UserError(f"{name} could not be read ({_first_line(error)}): check name, split and network, or give a local file")

    # the hub client has dozens of exception types (offline, no such set, no such split, server errors); all concern the user
    try:
        examples = iter(datasets.load_dataset(dataset_name, split=split, streaming=True))
        first = next(examples, None)
    except Exception as error:
        raise refusal(error) from error
    if first is None:
        raise UserError(f"{name} is empty: give another split")
    columns = list(first)

    def rows(chosen: list[str] | None) -> Iterator[Row]:
        example, number = first, 0
        while example is not None:
            number += 1
            yield number, [example.get(column) for column in (chosen or columns)]
            try:
                example = next(examples, None)
            except Exception as error:
                raise refusal(error) from error

    return Table(name=name, unit="row", columns=columns, rows=rows)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
