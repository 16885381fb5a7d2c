"""Tasks evaluated by accuracy over items: transfer, lexicon induction, entity linking."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.figures import Row, SuiteResult, figures_of, number_of
from tain.evaluation.metrics import bootstrap_means
from tain.evaluation.suites.suite import LoadedSuite, Source, Split, Suite, SuiteOptions, load_sets
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

    def texts(self) -> Sequence[tuple[str | None, Sequence[str]]]:
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


def task_suite(name: str, title: str, sources: Callable[[Path | None, Split], Sequence[Source]], *, counted: str) -> Suite:
    """A suite of tasks, measured by accuracy: test items are resampled, training data is not."""
    return Suite(name=name, title=title, load=load_sets, measure=_outcomes, summarise=_accuracies, counted=counted, sources=sources)


def _outcomes(suite: LoadedSuite, encoder: EncodedOnce, options: SuiteOptions) -> dict[str, list[Outcomes]]:
    return {task.key: task.outcomes(encoder) for task in suite.sets}


def _accuracies(suite: LoadedSuite, measured: list[dict[str, list[Outcomes]]], options: SuiteOptions) -> SuiteResult:
    by_group: dict[str, list[tuple[Row, tuple[np.ndarray, np.ndarray]]]] = {}
    for task in suite.sets:
        for of_models in zip(*(outcomes[task.key] for outcomes in measured), strict=True):
            first = of_models[0]
            rng = np.random.default_rng([options.seed, number_of(first.key)])
            shares = 100 * np.stack([outcome.shares for outcome in of_models])
            values = shares.mean(axis=1), bootstrap_means(shares, resamples=options.resamples, rng=rng)
            items, figures = shares.shape[1], figures_of(*values)
            if first.deviation is not None:
                figures = tuple(replace(figure, deviation=100 * (o.deviation or 0.0)) for figure, o in zip(figures, of_models, strict=True))
            row = Row(key=first.key, title=first.title, unit=ACCURACY_UNIT, better="higher", items=items, figures=figures)
            by_group.setdefault(first.group, []).append((row, values))
    groups = tuple(suite.group(title, tuple(row for row, _ in found), [values for _, values in found]) for title, found in by_group.items())
    note = "; ".join(dict.fromkeys(remark for task in suite.sets for remark in task.remarks))
    return SuiteResult(name=suite.name, title=suite.title, groups=groups, note=note, counted=suite.row.counted)


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
