"""Figures of evaluations: values with bootstrap intervals, grouped into rows and suites."""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tain.evaluation.metrics import Interval, percentile_interval


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One model's figure with its bootstrap interval.

    Attributes:
        value: Figure on all pairs; ``nan`` if undefined, such as when all cosines of a model are equal.
        interval: 95% percentile bootstrap interval.
        difference: ``value`` minus the first model's; ``None`` for the first model.
        difference_interval: Its 95% interval, from resamples shared by both models.
        deviation: Standard deviation over draws of training examples, for suites that draw them.
    """

    value: float
    interval: Interval
    difference: float | None = None
    difference_interval: Interval | None = None
    deviation: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One table row: a set, a mean over sets, or a measure.

    Attributes:
        key: Name in JSON.
        title: Name in tables.
        unit: Unit of the figures, such as ``Spearman x 100``; empty for a pure number.
        better: Whether higher or lower is better.
        items: Number of pairs or texts behind the figures.
        figures: One per model, in the order of ``EvaluationReport.models``.
    """

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    items: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that are averaged together.

    Attributes:
        title: Such as ``English, test``; may be empty.
        rows: The sets or measures.
        mean: Unweighted mean over ``rows``; ``None`` if there are fewer than two or they cannot be averaged.
            Its interval treats the resamples of different sets as independent.
        absent: Titles of missing sets, which are not in the mean.
    """

    title: str
    rows: tuple[Row, ...]
    mean: Row | None = None
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """Result of one suite; ``counted`` names the items of its rows, and is empty if they are not shown."""

    name: str
    title: str
    groups: tuple[Group, ...]
    note: str = ""
    counted: str = "pairs"


def figures_of(values: np.ndarray, replicates: np.ndarray) -> tuple[Figure, ...]:
    """Combine values (models,) with their paired bootstrap values (models, resamples)."""
    figures = [Figure(value=float(values[0]), interval=percentile_interval(replicates[0]))]
    for value, row in zip(values[1:], replicates[1:], strict=True):
        figures.append(
            Figure(
                value=float(value),
                interval=percentile_interval(row),
                difference=float(value - values[0]),
                difference_interval=percentile_interval(row - replicates[0]),
            )
        )
    return tuple(figures)


def mean_row(title: str, rows: tuple[Row, ...], found: list[tuple[np.ndarray, np.ndarray]]) -> Row | None:
    if len(rows) < 2:
        return None
    values, replicates = (np.mean([pair[part] for pair in found], axis=0) for part in (0, 1))
    return Row(
        key=f"mean of {title}" if title else "mean",
        title=f"mean of {len(rows)}",
        unit=rows[0].unit,
        better="higher",
        items=sum(row.items for row in rows),
        figures=figures_of(values, replicates),
    )


def number_of(name: str) -> int:
    """A hash that is the same in every process, unlike ``hash``."""
    return zlib.crc32(name.encode())
