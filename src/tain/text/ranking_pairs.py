"""Read ranking data: contexts with correct answers, and optional negatives."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tain.foundation.errors import UserError
from tain.text.lines import source_name
from tain.text.readers import refuse_bad_text
from tain.text.records import RankingExample
from tain.text.tables import Table, kind_of, open_table

COLUMNS = ("context", "answer")
_RIGHT, _WRONG = {"1", "1.0", "true"}, {"0", "0.0", "false"}


def read_ranking_examples(
    source: str | Path,
    *,
    columns: tuple[str, str] | None = None,
    negatives: str | None = None,
    label: str | None = None,
) -> list[RankingExample]:
    """Read a table of contexts and answers; rows with the same context become one example, in order of first occurrence.

    Args:
        source: A table as in ``readers.read_pairs``.
        columns: Context and answer columns; default: ``context`` and ``answer``, or the only two columns.
        negatives: Column of wrong answers for the context: in jsonl and parquet a list of texts (the answer column may also hold lists:
            several correct answers), in tsv and csv the same as JSON, ``["one", "other"]``; blank for none.
        label: Column with 1 if the row's answer is correct, and 0 if not.

    Returns:
        The examples, each with at least one correct answer. Contexts without a correct answer are skipped.

    Raises:
        UserError: The source is not a table of pairs, a context or answer is blank, a list is invalid, a label is neither 0 nor 1, or no
            context has a correct answer.
    """
    table = _open(source)
    context_column, answer_column = _columns(table, columns)
    chosen = [context_column, answer_column]
    for column in (negatives, label):
        if column is not None:
            _refuse_missing(table, column)
            chosen.append(column)
    if len(set(chosen)) < len(chosen):
        raise UserError(f"columns are {', '.join(map(repr, chosen))}, but two are the same: name different columns")
    right: dict[str, dict[str, None]] = {}
    wrong: dict[str, dict[str, None]] = {}
    rows = 0
    for index, cells in _rows(table, chosen):
        rows += 1
        context, answers = _pair(cells, index, context_column, answer_column)
        is_right = label is None or _is_right(cells[-1], index, label)
        right.setdefault(context, {})
        (right if is_right else wrong).setdefault(context, {}).update(dict.fromkeys(answers))
        if negatives is not None:
            wrong.setdefault(context, {}).update(dict.fromkeys(_listed(cells[2], index, negatives)))
    examples = [
        RankingExample(context, tuple(answers), tuple(text for text in wrong.get(context, ()) if text not in answers))
        for context, answers in right.items()
        if answers
    ]
    if not examples:
        raise UserError(f"{table.name} has no correct answer: column {label!r} is 0 in all {rows:,} rows; mark correct answers by 1")
    return examples


def read_ranking_pairs(source: str | Path, *, columns: tuple[str, str] | None = None) -> list[tuple[str, str]]:
    """Read a table of contexts and answers row by row; a list of answers gives one pair each.

    Args:
        source: A table as in ``readers.read_pairs``.
        columns: Context and answer columns; default: ``context`` and ``answer``, or the only two columns.

    Returns:
        Context and answer of every row, in order, including repeats.

    Raises:
        UserError: The source is not a table of pairs, or a context or answer is blank.
    """
    table = _open(source)
    chosen = _columns(table, columns)
    pairs = []
    for index, cells in _rows(table, list(chosen)):
        context, answers = _pair(cells, index, *chosen)
        pairs += [(context, answer) for answer in answers]
    return pairs


def _open(source: str | Path) -> Table:
    if kind_of(source) == "text":
        raise UserError(
            f"{source_name(source)} is read as plain text, but pairs need two columns, context and answer: "
            "give .tsv, .csv, .jsonl or .parquet"
        )
    return open_table(source)


def _columns(table: Table, columns: tuple[str, str] | None) -> tuple[str, str]:
    if len(table.columns) < 2:
        raise UserError(f"{table.name} has one column ({table.listed_columns()}), but a pair needs two: a context and its correct answer")
    if columns is not None:
        for column in columns:
            _refuse_missing(table, column)
        return columns
    if set(COLUMNS) <= set(table.columns):
        return COLUMNS
    if len(table.columns) == 2:
        table.warn_of_header()
        return table.columns[0], table.columns[1]
    raise UserError(
        f"{table.name} has {len(table.columns)} columns ({table.listed_columns()}) and nothing is guessed: "
        "name the columns of contexts and answers with --columns"
    )


def _refuse_missing(table: Table, column: str) -> None:
    if column not in table.columns:
        raise UserError(f"{table.name} has no column {column!r}: name one of {table.listed_columns()}")


@dataclass(frozen=True)
class _Place:
    """Location of a row, for messages."""

    table: Table
    number: int

    def __str__(self) -> str:
        return f"{self.table.name} {self.table.unit} {self.number}"


def _rows(table: Table, chosen: list[str]) -> Iterator[tuple[_Place, list[object]]]:
    is_empty = True
    for number, cells in table.rows(chosen):
        if cells is not None:
            is_empty = False
            yield _Place(table, number), cells
    if is_empty:
        raise UserError(
            f"{table.name} has column names ({table.listed_columns()}) but no rows: give a table with pairs below its first line"
        )


def _pair(cells: list[object], index: _Place, context_column: str, answer_column: str) -> tuple[str, list[str]]:
    context = _text(cells[0], index, context_column, "context")
    values = cells[1] if isinstance(cells[1], list) else [cells[1]]
    if not values:
        raise UserError(f"{index} has an empty answer in column {answer_column!r}: fill it in or remove the row")
    return context, [_text(value, index, answer_column, "answer") for value in values]


def _text(value: object, index: _Place, column: str, what: str) -> str:
    if value is None or (isinstance(value, str) and (not value or value.isspace())):
        raise UserError(f"{index} has an empty {what} in column {column!r}: fill it in or remove the row")
    if not isinstance(value, str):
        raise UserError(f"{index}, column {column!r} holds {type(value).__name__} {str(value)[:30]!r}, not text: name a column of texts")
    refuse_bad_text(value, index.table, index.number, column)
    return value


def _listed(value: object, index: _Place, column: str) -> list[str]:
    """Read a cell of negatives: a list, or a list written as JSON."""
    if value is None or (isinstance(value, str) and (not value or value.isspace())):
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list):
        raise UserError(f'{index}, column {column!r} is not a list of negatives: write it as ["one", "other"], or leave it blank')
    return [_text(text, index, column, "negative") for text in value]


def _is_right(value: object, index: _Place, column: str) -> bool:
    spelled = str(value).strip().lower()
    if spelled not in _RIGHT | _WRONG:
        raise UserError(f"{index}, column {column!r} holds {spelled!r}: give 1 if the answer is correct and 0 if not")
    return spelled in _RIGHT
