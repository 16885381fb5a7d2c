"""Read texts, pairs and rows from plain text, csv, tsv, jsonl and parquet files (also compressed), stdin and hub data sets.

Everything is streamed, nothing is guessed, and unreadable input is refused with a one-line error. See `docs/input.md`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from tain.foundation.errors import UserError
from tain.text.lines import MAX_LINE_BYTES, is_blank, is_stdin, read_lines, source_name
from tain.text.records import Pair, Sentence
from tain.text.tables import Table, kind_of, open_table, split_hub_source

Item = TypeVar("Item")

_NO_DOCUMENT = object()  # unlike every table value, including a missing one


class Stream(Iterator[Item], Generic[Item]):
    """Iterator over the items of a source, without blank ones.

    Attributes:
        blank: Number of blank lines, texts or pairs skipped so far; final once the stream has ended.
    """

    def __init__(self, items: Iterator[Item | None], *, why_nothing: Callable[[int], str] | None) -> None:
        """Read up to the first item, so that an unusable source is refused before any work is done.

        Args:
            items: The items; ``None`` for blank ones.
            why_nothing: Describes the problem of a source without items, given its number of blank ones; None if that is no problem.

        Raises:
            UserError: There are no items.
        """
        self.blank = 0
        self._items = items
        self._next: Item | None = self._advance()
        if self._next is None and why_nothing is not None:
            raise UserError(why_nothing(self.blank))

    def __next__(self) -> Item:
        item, self._next = self._next, None
        if item is None:
            item = self._advance()
        if item is None:
            raise StopIteration
        return item

    def _advance(self) -> Item | None:
        for item in self._items:
            if item is not None:
                return item
            self.blank += 1
        return None


def read_texts(source: str | Path, *, column: str | None = None) -> Stream[str]:
    """Stream the texts of a source in bounded memory, unchanged except for line ends.

    Args:
        source: A file (.csv, .tsv, .jsonl, .ndjson, .parquet: a table; .txt and anything else: one text per line; with an
            additional .gz or .xz: compressed), ``-`` for plain text on standard input, or ``hf:NAME[:SPLIT[:COLUMN]]``.
        column: Column of the texts in a table; optional only if it has a single column.

    Returns:
        The texts in order, blank ones skipped and counted in ``.blank``.

    Raises:
        UserError: The source cannot be read, has no text, or the column is missing or not named; or, while reading, a line is
            invalid (not UTF-8, a NUL byte, over 10,000,000 bytes, a wrong number of fields, not text).
    """
    kind = kind_of(source)
    if kind == "text":
        refuse_columns(source, column)
        return Stream(_plain_texts(source), why_nothing=lambda blank: no_texts(source_name(source), blank))
    if kind == "hub":
        column = hub_column(source, column)
    table = open_table(source)
    chosen = None if column is None and len(table.columns) == 1 else [checked_column(table, column)]
    if column is None:
        table.warn_of_header()
    shown = chosen[0] if chosen else table.columns[0]
    return Stream(_column_texts(table, chosen), why_nothing=lambda blank: no_rows(table, blank, f"column {shown!r}"))


def read_sentences(source: str | Path, *, column: str | None = None, document_column: str | None = None) -> Stream[Sentence]:
    """Stream the texts of a source like ``read_texts``, with document boundaries.

    In plain text, empty lines and the end of the file end a document. Rows of a table are rarely consecutive text, so each is a separate
    document, unless ``document_column`` groups them.

    Args:
        source: As in ``read_texts``.
        column: As in ``read_texts``.
        document_column: Table column with the same value in all rows of a document; rows of a document are consecutive.

    Raises:
        UserError: As ``read_texts``.
    """
    if kind_of(source) == "text":
        refuse_columns(source, column, document_column)
        return Stream(_marked(_plain_texts(source)), why_nothing=lambda blank: no_texts(source_name(source), blank))
    if document_column is None:
        texts = read_texts(source, column=column)
        return Stream((Sentence(text, True) for text in texts), why_nothing=lambda blank: no_texts(source_name(source), blank))
    if kind_of(source) == "hub":
        column = hub_column(source, column)
    table = open_table(source)
    columns = [checked_column(table, name) for name in (column, document_column)]
    return Stream(_rows_of_documents(table, columns), why_nothing=lambda blank: no_rows(table, blank, f"column {columns[0]!r}"))


def read_pairs(source: str | Path, *, columns: tuple[str, str] | None = None) -> Stream[Pair]:
    """Stream pairs of texts from two columns of a table.

    Args:
        source: A table as in ``read_texts``, or ``hf:NAME[:SPLIT]``; plain text has no columns and is refused.
        columns: Names of the left and right columns; optional only if the table has exactly two.

    Returns:
        The pairs in order. Pairs with a blank side are skipped and counted in ``.blank``.

    Raises:
        UserError: As ``read_texts``.
    """
    kind = kind_of(source)
    if kind == "text":
        raise UserError(
            f"{source_name(source)} is read as plain text, one text per line, but pairs need two columns: "
            "give a .tsv file whose first line names its columns, and name the two with --pairs"
        )
    if kind == "hub" and split_hub_source(source)[2] is not None:
        raise UserError(f"{source_name(source)} names one column, but pairs need two: give hf:NAME:SPLIT, and name the two with --pairs")
    table = open_table(source)
    if columns is None:
        if len(table.columns) != 2:
            raise UserError(
                f"{table.name} has {len(table.columns)} columns ({table.listed_columns()}) and nothing is guessed: "
                "name the two that hold the pairs with --pairs"
            )
        chosen = None
        table.warn_of_header()
    else:
        chosen = [checked_column(table, column) for column in columns]
        if len(chosen) != 2 or chosen[0] == chosen[1]:
            raise UserError(
                f"columns are {', '.join(map(repr, columns))}, but the two sides of a pair must differ: name two different columns"
            )
    return Stream(_column_pairs(table, chosen), why_nothing=lambda blank: no_rows(table, blank, "one side of the pair"))


def read_rows(source: str | Path) -> tuple[list[str], Stream[dict[str, str]]]:
    """Read a whole table: column names, and a stream of rows.

    Numbers and booleans of jsonl and parquet are converted to their plain spelling, missing values to ``""``.

    Returns:
        The column names in order, and the rows; blank lines are skipped and counted in ``.blank``.

    Raises:
        UserError: The source is plain text, cannot be read, has no rows, or has a list or object as a value.
    """
    if kind_of(source) == "text":
        raise UserError(f"{source_name(source)} is read as plain text, but a table is needed: give .csv, .tsv, .jsonl or .parquet")
    table = open_table(source)
    return table.columns, Stream(_whole_rows(table), why_nothing=lambda blank: no_rows(table, blank, "every column"))


def _plain_texts(source: str | Path) -> Iterator[str | None]:
    for line in read_lines(source):
        yield None if is_blank(line) else line


def _marked(texts: Iterator[str | None]) -> Iterator[Sentence | None]:
    begins_document = True
    for text in texts:
        yield None if text is None else Sentence(text, begins_document)
        begins_document = text is None


def _rows_of_documents(table: Table, columns: list[str]) -> Iterator[Sentence | None]:
    before: object = _NO_DOCUMENT
    for number, values in table.rows(columns):
        text = None if values is None else text_or_blank(values[0], table, number, columns[0])
        if values is None or text is None:
            yield None
            continue
        yield Sentence(text, values[1] != before)
        before = values[1]


def _column_texts(table: Table, chosen: list[str] | None) -> Iterator[str | None]:
    column = (chosen or table.columns)[0]
    for number, values in table.rows(chosen):
        yield None if values is None else text_or_blank(values[0], table, number, column)


def _column_pairs(table: Table, chosen: list[str] | None) -> Iterator[Pair | None]:
    left_column, right_column = chosen or table.columns
    for number, values in table.rows(chosen):
        if values is None:
            yield None
            continue
        left = text_or_blank(values[0], table, number, left_column)
        right = text_or_blank(values[1], table, number, right_column)
        yield None if left is None or right is None else Pair(left, right)


def _whole_rows(table: Table) -> Iterator[dict[str, str] | None]:
    for number, values in table.rows(None):
        if values is None:
            yield None
        else:
            yield {column: _cell(value, table, number, column) for column, value in zip(table.columns, values, strict=True)}


def text_or_blank(value: object, table: Table, number: int, column: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{table.name} {table.unit} {number}, column {column!r} holds {_shown(value)}, not text: name a column of texts")
    if is_blank(value):
        return None
    refuse_bad_text(value, table, number, column)
    return value


def _cell(value: object, table: Table, number: int, column: str) -> str:
    if isinstance(value, str):
        refuse_bad_text(value, table, number, column)
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    raise UserError(f"{table.name} {table.unit} {number}, column {column!r} holds {_shown(value)}, not text or a number: remove the column")


def refuse_bad_text(text: str, table: Table, number: int, column: str) -> None:
    """Refuse text that UTF-8 cannot represent, that has a NUL character, or that is longer than ``MAX_LINE_BYTES``.

    Raises:
        UserError: It is such text; the message names its location.
    """
    # lines are checked as bytes, but JSON escapes, parquet and hub values bypass that check
    try:
        size_bytes = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        problem = "has half of a surrogate pair, which no UTF-8 text can hold: write the whole character"
    else:
        if "\0" in text:
            problem = "has a NUL character, so it is not plain text: remove it"
        elif size_bytes > MAX_LINE_BYTES:
            problem = f"is longer than {MAX_LINE_BYTES:,} bytes: split it into shorter texts"
        else:
            return
    raise UserError(f"{table.name} {table.unit} {number}, column {column!r} {problem}")


def refuse_columns(source: str | Path, *columns: str | None) -> None:
    """Refuse a column for plain text, which has no columns."""
    for column in columns:
        if column is not None:
            advice = (
                "save the table under a name that ends in .csv, .tsv or .jsonl" if is_stdin(source) else "name a table .csv, .tsv or .jsonl"
            )
            raise UserError(
                f"{source_name(source)} is read as plain text, which has no column {column!r}: remove the column option, or {advice}"
            )


def checked_column(table: Table, column: str | None) -> str:
    if column is None:
        raise UserError(
            f"{table.name} has {len(table.columns)} columns ({table.listed_columns()}) and nothing is guessed: "
            "name the one that holds the texts with --column"
        )
    if column not in table.columns:
        raise UserError(f"{table.name} has no column {column!r}: name one of {table.listed_columns()}")
    return column


def hub_column(source: str | Path, column: str | None) -> str | None:
    named = split_hub_source(source)[2]
    if column is not None and named is not None and column != named:
        raise UserError(f"{source_name(source)} names the column {named!r}, but --column says {column!r}: give one of the two")
    return column if named is None else named


def no_texts(name: str, blank: int) -> str:
    what = f"holds only blank lines ({blank:,})" if blank else "is empty"
    return f"{name} {what}: give UTF-8 text with one text per line"


def no_rows(table: Table, blank: int, where: str) -> str:
    if blank:
        return f"{table.name} is blank in {where} of every row ({blank:,}): give another column or file (columns: {table.listed_columns()})"
    return f"{table.name} has column names ({table.listed_columns()}) but no rows: give a table with texts below its first line"


def _shown(value: object) -> str:
    """Describe a value by its kind and, if it is short, by its content."""
    kinds = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object", bytes: "bytes"}
    kind = kinds.get(type(value), f"a {type(value).__name__}")
    spelled = repr(value)
    return f"{kind} ({spelled})" if len(spelled) <= 30 else kind
