"""Read candidates of a search: texts with an id and metadata from other columns of their table."""

import datetime
import decimal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tain.foundation.errors import UserError
from tain.text.readers import Stream, checked_column, hub_column, no_rows, read_texts, refuse_bad_text, refuse_columns, text_or_blank
from tain.text.records import Candidate
from tain.text.tables import Table, kind_of, open_table


def read_candidates(
    source: str | Path,
    *,
    column: str | None = None,
    id_column: str | None = None,
    keep: Sequence[str] = (),
    metadata_column: str | None = None,
) -> Stream[Candidate]:
    """Stream the texts of a source like ``read_texts``, as candidates with id and metadata.

    Values keep their JSON type in jsonl and parquet (dates become ISO 8601 texts); in csv and tsv they are texts. A missing value (null,
    or a blank cell of csv and tsv) is left out of the metadata.

    Args:
        source: As in ``read_texts``.
        column: As in ``read_texts``.
        id_column: Column of the ids: texts or whole numbers, never blank. Default: a candidate is identified by its text.
        keep: Columns of the metadata.
        metadata_column: Column with an object of further metadata (or null).

    Raises:
        UserError: As ``read_texts``; or a column does not exist or is named twice; or, while reading, an id is blank or no text or whole
            number, or a value is not JSON.
    """
    if kind_of(source) == "text":
        refuse_columns(source, column, id_column, metadata_column, *keep)
        return Stream((Candidate(text) for text in read_texts(source)), why_nothing=None)
    twice = sorted({name for name in keep if list(keep).count(name) > 1})
    if twice:
        raise UserError(f"column {twice[0]!r} is kept twice: name it once")
    if kind_of(source) == "hub":
        column = hub_column(source, column)
    table = open_table(source)
    chosen = table.columns[0] if column is None and len(table.columns) == 1 else checked_column(table, column)
    for name in (*keep, *filter(None, (id_column, metadata_column))):
        checked_column(table, name)
    return Stream(
        _candidates(table, chosen, id_column, keep, metadata_column), why_nothing=lambda blank: no_rows(table, blank, f"column {chosen!r}")
    )


def _candidates(
    table: Table, column: str, id_column: str | None, keep: Sequence[str], metadata_column: str | None
) -> Iterator[Candidate | None]:
    wanted = list(dict.fromkeys([column, *filter(None, (id_column, metadata_column)), *keep]))
    at = {name: index for index, name in enumerate(wanted)}
    for number, values in table.rows(wanted):
        text = None if values is None else text_or_blank(values[0], table, number, column)
        if values is None or text is None:
            yield None
            continue
        given = None if id_column is None else _id(values[at[id_column]], table, number, id_column)
        kept = {} if metadata_column is None else _object(values[at[metadata_column]], table, number, metadata_column)
        kept |= {name: _json_value(values[at[name]], table, number, name) for name in keep}
        yield Candidate(text, given, {name: value for name, value in kept.items() if not _is_missing(value, table)})


def _id(value: object, table: Table, number: int, column: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UserError(f"{table.name} {table.unit} {number} has no value in the id column {column!r}: give every row its id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(
            f"{table.name} {table.unit} {number}, id column {column!r} holds {str(value)[:30]!r}: give texts or whole numbers as ids"
        )
    refuse_bad_text(str(value), table, number, column)
    return str(value)


def _object(value: Any, table: Table, number: int, column: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(
            f"{table.name} {table.unit} {number}, column {column!r} holds {str(value)[:30]!r}, not an object of metadata: "
            "keep single columns with --keep"
        )
    return _json_value(value, table, number, column)


def _is_missing(value: object, table: Table) -> bool:
    return value is None or (table.has_header and isinstance(value, str) and not value.strip())


def _json_value(value: Any, table: Table, number: int, column: str) -> Any:
    """The value as JSON knows it.

    Raises:
        UserError: JSON has no form for it, it is nested too deeply, or it is no text that can be stored.
    """
    try:
        return _plain_value(value, table, number, column)
    except RecursionError:
        raise UserError(f"{table.name} {table.unit} {number}, column {column!r} is nested too deeply: leave the column out") from None


def _plain_value(value: Any, table: Table, number: int, column: str) -> Any:
    """The value as JSON knows it."""
    if isinstance(value, str):
        refuse_bad_text(value, table, number, column)
        return value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_plain_value(item, table, number, column) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain_value(item, table, number, column) for key, item in value.items()}
    raise UserError(
        f"{table.name} {table.unit} {number}, column {column!r} holds {type(value).__name__}, which JSON has no form for: leave the column out"
    )
