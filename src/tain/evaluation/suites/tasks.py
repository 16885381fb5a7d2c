"""Tasks whose figure is the share of items that came out right, whatever an item is: transfer, lexicon induction, name linking."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.suites.pairs import Source
from tain.foundation.errors import UserError

ACCURACY_UNIT = "accuracy x 100"


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """How every item of a task came out for one encoder.

    Attributes:
        key: What JSON calls the figure.
        title: What tables call it.
        group: Which mean it counts in.
        shares: Float64 (items,): 1 for right, 0 for wrong, in between where equal scores leave it to chance.
    """

    key: str
    title: str
    group: str
    shares: np.ndarray


@runtime_checkable
class Task(Protocol):
    """One set of such a suite, read and ready."""

    @property
    def key(self) -> str:
        """What the command line calls it."""
        ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the figures must know; the same remark of several sets is shown once."""
        ...

    def texts(self) -> Mapping[str, Sequence[str]]:
        """Everything that will be encoded, by its language."""
        ...

    def outcomes(self, encoder: EncodedOnce) -> list[Outcomes]:
        """Measure one encoder."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskSource(Source):
    """A task that tain knows: its names, its files below the data folder, and how they are read."""

    read: Callable[[Path], Task]

    def load(self, data: Path) -> Task:
        """Read the task from the folder ``data``.

        Raises:
            UserError: A file is not the table it should be.
        """
        return self.read(data)


def read_columns(file: Path, columns: Sequence[str], *, keep_blank: bool = False) -> list[tuple[str, ...]]:
    """Read the rows of a table, in these columns alone.

    Args:
        file: The table.
        columns: Their names.
        keep_blank: Let blank cells through.

    Raises:
        UserError: A column is not there, or a cell of them is blank.
    """
    from tain.text.readers import read_rows

    header, rows = read_rows(file)
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(
            f"{str(file)!r} has the columns {', '.join(header) or '(none)'}, but {', '.join(columns)} are needed: name them so in its first line"
        )
    found = []
    for number, row in enumerate(rows, start=1):
        blank = [column for column in columns if not row[column].strip()]
        if blank and not keep_blank:
            raise UserError(f"{str(file)!r}, row {number}: column {blank[0]!r} is blank: fill it in or drop the row")
        found.append(tuple(row[column] for column in columns))
    return found


def distinct(texts: Iterable[str]) -> list[str]:
    """Give each text once, in the order of its first appearance."""
    return list(dict.fromkeys(texts))
