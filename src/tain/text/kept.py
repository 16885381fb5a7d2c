"""Texts with further columns of their table, from one or several files, whole or one share of them."""

import json
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tain.foundation.errors import UserError, refuse_all
from tain.text.lines import is_blank, is_stdin, read_lines, source_name
from tain.text.parts import Part, Share, files_of, parts_of
from tain.text.readers import Stream, checked_column, hub_column, no_rows, no_texts, refuse_columns, text_or_blank
from tain.text.tables import Table, kind_of, open_table

Kind = Literal["text", "whole number", "number", "truth value", "arrow"]

_ROWS_FOR_KINDS = 1000
_OWN_COLUMNS = ("index", "vector")  # of every parquet file of vectors
_LARGEST_WHOLE = 1 << 63


@dataclass(frozen=True)
class KeptField:
    """A column that is carried through.

    Attributes:
        name: Its name in the output.
        column: Its name in the table.
        kind: What its values are; ``arrow``: what ``arrow`` says.
        arrow: Arrow type, if the table is parquet.
        is_id: It identifies the row, so it may not be blank.
    """

    name: str
    column: str
    kind: Kind
    arrow: Any = None
    is_id: bool = False


class TextRow(NamedTuple):
    """A text, and its row's values of the kept columns."""

    text: str
    values: tuple[object, ...] = ()


class TextRows(Stream[TextRow]):
    """Stream of texts with kept columns.

    Attributes:
        fields: The kept columns.
    """

    fields: tuple[KeptField, ...] = ()


def read_text_rows(
    source: str | Path,
    *,
    column: str | None = None,
    keep: Sequence[str] = (),
    id_column: str | None = None,
    share: Share | None = None,
) -> TextRows:
    """Stream the texts of a source like ``read_texts``, with other columns of the same rows.

    Values of csv and tsv are texts, those of parquet keep their type. For jsonl and hub data sets, the first 1,000 rows decide whether a
    column holds texts, whole numbers, numbers or truth values; anything else is stored as JSON text.

    Args:
        source: As in ``read_texts``; or a folder, or a pattern of files, which are read in the order of their names.
        column: As in ``read_texts``.
        keep: Columns to keep.
        id_column: A further one, kept under the name ``id``; it may not be blank.
        share: Only this share of the source, which may be empty; see ``parts_of``.

    Raises:
        UserError: As ``read_texts``; or a column does not exist, is named twice, or is named like a column of the output; or, while
            reading, a value is not of its column's kind, or a file has changed since it was opened.
    """
    files = files_of(source)
    parts = parts_of(source, share)
    has_tables = {kind_of(name) != "text" for name in files}
    if len(has_tables) > 1:
        raise UserError(f"{source_name(source)} has both tables and plain text: give one kind of files, such as '*.txt' or '*.jsonl'")
    if has_tables == {False}:
        for each in (column, id_column, *keep):
            refuse_columns(files[0], each)
        items = (row for part in parts for row in _unchanged(part, _plain_rows(part)))
        return TextRows(items, why_nothing=None if share else lambda blank: no_texts(source_name(source), blank))
    if kind_of(files[0]) == "hub":
        column = hub_column(files[0], column)
    first = open_table(files[0])
    chosen = first.columns[0] if column is None and len(first.columns) == 1 else checked_column(first, column)
    if column is None:
        first.warn_of_header()
    fields = _fields(files[0], first, keep=keep, id_column=id_column)
    items = (row for part in parts for row in _unchanged(part, _table_rows(part, chosen, fields)))
    made = TextRows(items, why_nothing=None if share else lambda blank: no_rows(first, blank, f"column {chosen!r}"))
    made.fields = fields
    return made


class KeptColumns:
    """Splits a stream of rows into texts and the values of the kept columns, which are taken afterwards.

    Args:
        rows: Rows in order.
        fields: The kept columns.
    """

    def __init__(self, rows: Iterator[TextRow], fields: Sequence[KeptField]) -> None:
        self.fields = tuple(fields)
        self._rows = rows
        self._waiting: deque[tuple[object, ...]] = deque()

    def texts(self) -> Iterator[str]:
        """Texts in order; the values of each wait for ``take``."""
        for row in self._rows:
            self._waiting.append(row.values)
            yield row.text

    def take(self, count: int) -> list[tuple[object, ...]]:
        """Values of the next ``count`` texts that were read, one tuple per text."""
        return [self._waiting.popleft() for _ in range(count)]


def _plain_rows(part: Part) -> Iterator[TextRow | None]:
    lines = read_lines(part.source, span=part.span)
    for line in lines if part.rows is None else islice(lines, *part.rows):
        yield None if is_blank(line) else TextRow(line)


def _table_rows(part: Part, column: str, fields: Sequence[KeptField]) -> Iterator[TextRow | None]:
    table = open_table(part.source, span=part.span, rows=part.rows)
    for each in (column, *(field.column for field in fields)):
        checked_column(table, each)
    wanted = list(dict.fromkeys([column, *(field.column for field in fields)]))
    at = {name: index for index, name in enumerate(wanted)}
    for number, values in table.rows(wanted):
        text = None if values is None else text_or_blank(values[0], table, number, column)
        if values is None or text is None:
            yield None
        else:
            yield TextRow(text, tuple(_kept(values[at[field.column]], field, table, number) for field in fields))


def _kept(value: object, field: KeptField, table: Table, number: int) -> object:
    """The value as it is stored."""
    if field.is_id and (value is None or value == ""):
        raise UserError(f"{table.name} {table.unit} {number} has no value in the id column {field.column!r}: give every row its id")
    if value is None or field.kind == "arrow":
        return value
    if field.kind == "text":
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    fits = {"truth value": (bool,), "whole number": (int,), "number": (int, float)}[field.kind]
    if isinstance(value, fits) and isinstance(value, bool) == (field.kind == "truth value"):
        if field.kind == "number":
            return float(value)  # type: ignore[arg-type]
        if not isinstance(value, int) or -_LARGEST_WHOLE <= value < _LARGEST_WHOLE:
            return value
    raise UserError(
        f"{table.name} {table.unit} {number}, column {field.column!r} holds {value!r:.40}, but the first rows hold a {field.kind}: "
        "write the column with values of one kind"
    )


def _fields(source: str, table: Table, *, keep: Sequence[str], id_column: str | None) -> tuple[KeptField, ...]:
    named = [*([("id", id_column)] if id_column is not None else []), *((name, name) for name in keep)]
    problems = []
    for name, column in named:
        checked_column(table, column)
        if name in _OWN_COLUMNS:
            problems.append(f"column {name!r} cannot be kept, since the output has a column of this name: rename it in the table")
        elif [other for other, _ in named].count(name) > 1:
            problems.append(f"column {name!r} is kept twice: name it once")
    refuse_all(list(dict.fromkeys(problems)))
    if not named:
        return ()
    columns = [column for _, column in named]
    kinds = _kinds(source, table, columns)
    return tuple(
        KeptField(name, column, kinds[column], table.types.get(column), is_id=column == id_column and name == "id")
        for name, column in named
    )


def _kinds(source: str, table: Table, columns: list[str]) -> dict[str, Kind]:
    if table.types:
        return dict.fromkeys(columns, "arrow")
    if table.has_header:
        return dict.fromkeys(columns, "text")
    wanted = list(dict.fromkeys(columns))
    first = [values for _, values in islice(open_table(source).rows(wanted), _ROWS_FOR_KINDS) if values is not None]
    return {column: _kind({type(values[index]) for values in first} - {type(None)}) for index, column in enumerate(wanted)}


def _kind(types: set[type]) -> Kind:
    if types == {bool}:
        return "truth value"
    if types == {int}:
        return "whole number"
    if types and types <= {int, float}:
        return "number"
    return "text"


def _unchanged(part: Part, rows: Iterator[TextRow | None]) -> Iterator[TextRow | None]:
    """Rows of a part; refuses a file that changes while it is read."""
    before = _state_of(part.source)
    yield from rows
    if _state_of(part.source) != before:
        raise UserError(
            f"{source_name(part.source)} changed while it was read, so its texts may be mixed: wait until it is written, then run again"
        )


def _state_of(source: str) -> tuple[int, int] | None:
    if is_stdin(source) or source.startswith("hf:"):
        return None
    try:
        found = Path(source).stat()
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None  # a pipe changes as it is read
