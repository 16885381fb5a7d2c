"""Render an evaluation report as a terminal table; where it is too wide, values and intervals have lines of their own."""

import math
from typing import TYPE_CHECKING

from tain.evaluation.metrics import SPEARMAN_UNIT, Interval
from tain.foundation.ruled_table import ruled

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.console import Group as Lines
    from rich.table import Table

    from tain.evaluation.report import EvaluationReport, Figure, Group, Row, SuiteResult

_NAME_WIDTH, _NARROW_NAME = 17, 14
_UNLIMITED = 10_000  # columns
_UNITS = {SPEARMAN_UNIT: "Spearman's correlation x 100"}  # spelled out; other units are shown unchanged


def as_table(report: "EvaluationReport") -> "Lines":
    """Build what rich prints: one table a suite, below each what is absent, at the end what was cut and what the intervals are."""
    from rich.console import Group as Lines
    from rich.text import Text

    parts, labels = [], report.labels()
    for suite in report.suites:
        heading = f"{suite.title}, {suite.note}" if suite.note else suite.title
        parts += [Text(heading, style="bold"), _Fitting(suite, labels)]
        for group in suite.groups:
            if group.absent:
                verb = "is" if len(group.absent) == 1 else "are"
                parts.append(Text(f"{', '.join(group.absent)} {verb} absent and not in the mean.", style="italic"))
        parts.append(Text(""))
    for model in report.models:
        if model.truncated:
            parts.append(Text(f"{model.name}: {model.truncated} of {model.texts} distinct texts were truncated at its length limit."))
    units = list(dict.fromkeys(row.unit for suite in report.suites if suite.counted for group in suite.groups for row in group.rows))
    scale = f"Figures of sets are {' or '.join(_UNITS.get(unit, unit) for unit in units)}. " if units else ""
    against = f" Differences are to {labels[0]}, on the same resamples." if len(report.models) > 1 else ""
    parts.append(Text(f"{scale}In brackets: 95% bootstrap interval, {report.resamples} resamples.{against}"))
    return Lines(*parts)


class _Fitting:
    """The table of a suite, narrow where the terminal is."""

    def __init__(self, suite: "SuiteResult", names: list[str]) -> None:
        self._suite, self._names = suite, names

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        wide = _suite_table(self._suite, self._names, is_narrow=False)
        is_narrow = console.measure(wide, options=options.update(width=_UNLIMITED)).maximum > options.max_width
        yield _suite_table(self._suite, self._names, is_narrow=True) if is_narrow else wide


def _suite_table(suite: "SuiteResult", names: list[str], *, is_narrow: bool) -> "Table":
    table = ruled()
    table.add_column("", no_wrap=True)
    if suite.counted:
        table.add_column(suite.counted, justify="right", no_wrap=True)
    for name in names:
        table.add_column(_folded(name, _NARROW_NAME if is_narrow else _NAME_WIDTH), overflow="fold")
    if len(names) == 2:
        table.add_column("difference", overflow="fold")
    for group in suite.groups:
        _add_group(table, group, has_items=bool(suite.counted), is_narrow=is_narrow)
    return table


def _add_group(table: "Table", group: "Group", *, has_items: bool, is_narrow: bool) -> None:
    if group.title:
        table.add_row(group.title, style="italic")
    for row in (*group.rows, *((group.mean,) if group.mean is not None else ())):
        is_mean = row is group.mean
        items = [] if not has_items else [""] if is_mean else [str(row.items)]
        arrow = "" if has_items else " ↑" if row.better == "higher" else " ↓"
        table.add_row(row.title + arrow, *items, *_cells(row, "\n" if is_narrow else " "), style="bold" if is_mean else None)


def _cells(row: "Row", gap: str) -> list[str]:
    """One cell a model; with two models a third for the difference, with more the difference below the value. ``gap`` is before intervals."""
    cells = [
        f"{_number(figure.value, row)}{_deviation(figure, row)}{gap}{_bracket(figure.interval, row)}".rstrip() for figure in row.figures
    ]
    if len(row.figures) == 2:
        cells.append(_difference(row.figures[1], row, gap))
    elif len(row.figures) > 2:
        cells[1:] = [f"{cell}\n{_difference(figure, row, gap)}" for cell, figure in zip(cells[1:], row.figures[1:], strict=True)]
    return cells


def _deviation(figure: "Figure", row: "Row") -> str:
    return "" if figure.deviation is None else f" ±{_number(figure.deviation, row)}"


def _difference(figure: "Figure", row: "Row", gap: str) -> str:
    if figure.difference is None or figure.difference_interval is None or math.isnan(figure.difference):
        return "undefined"
    sign = "+" if figure.difference > 0 else ""
    return f"{sign}{_number(figure.difference, row)}{gap}{_bracket(figure.difference_interval, row)}"


def _bracket(interval: Interval, row: "Row") -> str:
    return "" if math.isnan(interval.low) else f"\\[{_number(interval.low, row)} {_number(interval.high, row)}]"


def _number(value: float, row: "Row") -> str:
    """One decimal on a scale of 100; else two, or three and no leading zero below 1: ``13.79``, ``.043``."""
    if math.isnan(value):
        return "undefined"
    if row.unit:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}".replace("0.", ".", 1)


def _folded(name: str, width: int) -> str:
    """Wrap a long model name into at most three lines of column width; its end is kept, since paths differ there."""
    lines: list[str] = []
    while len(name) > width:
        cut = max((name.rfind(mark, 0, width) for mark in "/-_ .:"), default=-1) + 1 or width
        lines.append(name[:cut])
        name = name[cut:]
    lines.append(name)
    return "\n".join(["…", *lines[-2:]] if len(lines) > 3 else lines).replace("[", "\\[")
