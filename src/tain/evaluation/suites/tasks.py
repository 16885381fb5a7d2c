"""Tasks evaluated by accuracy over items: transfer, lexicon induction, entity linking."""

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
    """Result of one encoder for every item of a task.

    Attributes:
        key: Name of the figure in JSON.
        title: Name in tables.
        group: Mean in which it is included.
        shares: Float64 (items,): 1 for correct, 0 for wrong, in between for ties and for means over draws.
        deviation: Standard deviation of the mean share over draws of training examples; ``None`` without draws.
    """

    key: str
    title: str
    group: str
    shares: np.ndarray
    deviation: float | None = None


@runtime_checkable
class Task(Protocol):
    """Protocol of one loaded set of such a suite."""

    @property
    def key(self) -> str:
        """Name on the command line."""
        ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes for readers of the figures; a note shared by several sets is shown once."""
        ...

    def texts(self) -> Mapping[str, Sequence[str]] | Mapping[str | None, Sequence[str]]:
        """All texts to be encoded, by language."""
        ...

    def outcomes(self, encoder: EncodedOnce) -> list[Outcomes]:
        """Evaluate one encoder."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskSource(Source):
    """A known task before reading: its names, files and reader."""

    read: Callable[[Path], Task]

    def load(self, data: Path) -> Task:
        """Read the task from the data folder.

        Raises:
            UserError: A file does not have the expected format.
        """
        return self.read(data)


def read_columns(file: str | Path, columns: Sequence[str], *, keep_blank: bool = False) -> list[tuple[str, ...]]:
    """Read the given columns of a table.

    Args:
        file: The table.
        columns: Column names.
        keep_blank: Allow blank cells.

    Raises:
        UserError: A column is missing, or one of its cells is blank.
    """
    from tain.text.readers import read_rows

    header, rows = read_rows(file)
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(
            f"{str(file)!r} has the columns {', '.join(header) or '(none)'}, but {', '.join(columns)} are needed: rename them in its first line"
        )
    found = []
    for number, row in enumerate(rows, start=1):
        blank = [column for column in columns if not row[column].strip()]
        if blank and not keep_blank:
            raise UserError(f"{str(file)!r}, row {number}: column {blank[0]!r} is blank: fill it in or remove the row")
        found.append(tuple(row[column] for column in columns))
    return found


def distinct(texts: Iterable[str]) -> list[str]:
    """Distinct texts in the order of first appearance."""
    return list(dict.fromkeys(texts))
