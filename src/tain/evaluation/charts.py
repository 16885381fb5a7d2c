"""Render an evaluation report as a dot plot: one self-contained SVG without external fonts, scripts or files.

Every set is a row, every model a mark with its interval as a bar. Marks differ in shape, lightness and hue, so that the chart works in
greyscale and with colour blindness; they are labelled in the first row.
"""

import math
import textwrap
from collections.abc import Callable

from tain.evaluation.metrics import SPEARMAN_UNIT, Interval
from tain.evaluation.report import EvaluationReport, Figure, Group, Row
from tain.evaluation.suites.tasks import ACCURACY_UNIT
from tain.foundation.svg import FAINT, Axis, Canvas, draw_axis

_WIDTH = 800.0  # lengths are SVG user units, shown as pixels by a browser
_EDGE = 16.0
_LEFT, _RIGHT = 170.0, 610.0  # ends of the scale; mark labels may extend to the edge
_LANE = 15.0  # height of one model's mark within a row
_NAME_CHARS = 26
_NOTE_CHARS = 125
_MOST_MODELS = 6


def headline_sentence(report: EvaluationReport) -> str:
    """One-sentence summary: the difference of two models, the best of several, or the figure of one."""
    index, row = report.headline()
    names = [_short(label) for label in report.labels()]
    values = [figure.value for figure in row.figures]
    if any(math.isnan(value) for value in values):
        undefined = ", ".join(name for name, value in zip(names, values, strict=True) if math.isnan(value))
        return f"{undefined} has no figure on {index}: its cosines or the scores are all equal, or the texts too few or too short"
    if len(names) == 1:
        return f"{names[0]} reaches {_value(row, values[0])} on {index} (95% interval {_range(row.figures[0].interval, row)})"
    if len(names) == 2:
        return _comparison(names, row, row.figures[1], index)
    best = max(range(len(values)), key=lambda model: values[model])
    if best == 0:
        return f"{names[0]} has the highest figure of {len(names)} models on {index}: {_value(row, values[0])}"
    gain = row.figures[best]
    comparison = f"{_clause(gain, row)} {names[0]}"
    return f"{names[best]} has the highest figure of {len(names)} models on {index}: {_value(row, gain.value)}, {comparison}"


def as_svg(report: EvaluationReport) -> str:
    """Draw every figure on a scale of 100: the sets, and self-retrieval of the label-free report."""
    groups = _drawn_groups(report)
    rows = [row for _, group in groups for row in _rows(group)]
    ends = [end for row in rows for figure in row.figures for end in (figure.value, figure.interval.low, figure.interval.high)]
    axis = Axis.around(ends, start=_LEFT, end=_RIGHT, least_range=1.0)
    names = [_short(label) for label in report.labels()]
    canvas = Canvas(_WIDTH)
    top = canvas.title(headline_sentence(report), x=_EDGE, y=28.0, step=22.0) - 10
    y = top + 20
    for heading, group in groups:
        canvas.text(_EDGE, y + 20, heading, size=13, weight="bold")
        y += 28
        for row in _rows(group):
            y = _draw_row(canvas, axis, row, y, names=names if row is rows[0] else None, is_mean=row is group.mean)
    draw_axis(canvas, axis, upright=False, grid=(top + 18, y + 6), labels=(top + 12, y + 20))
    canvas.text((_LEFT + _RIGHT) / 2, y + 38, _quantity(groups), anchor="middle")
    y += 48
    for line in (part for note in _notes(report, groups) for part in textwrap.wrap(note, _NOTE_CHARS)):
        y += 15
        canvas.text(_EDGE, y, line, size=11, fill=FAINT)
    return canvas.picture(height=y + 14, description=headline_sentence(report))


# ---- text


def _comparison(names: list[str], row: Row, figure: Figure, index: str) -> str:
    if figure.difference_interval is not None and figure.difference_interval.excludes_zero():
        return f"{names[1]} scores {_clause(figure, row)} {names[0]} on {index}"
    interval = "" if figure.difference_interval is None else f" (95% interval {_range(figure.difference_interval, row)})"
    return f"No clear difference between {names[1]} and {names[0]} on {index}: {figure.difference:+.1f}{interval}"


def _clause(figure: Figure, row: Row) -> str:
    assert figure.difference is not None
    assert figure.difference_interval is not None
    low, high = sorted(abs(end) for end in (figure.difference_interval.low, figure.difference_interval.high))
    size, side = abs(figure.difference), "above" if figure.difference > 0 else "below"
    if not figure.difference_interval.excludes_zero():
        return f"not clearly apart ({figure.difference:+.1f}, 95% interval {_range(figure.difference_interval, row)}) from"
    return f"{size:.1f} points (95% interval {low:.1f} to {high:.1f}) {side}"


def _range(interval: Interval, row: Row) -> str:
    return f"{_value(row, interval.low)} to {_value(row, interval.high)}"


def _value(row: Row, value: float) -> str:
    return f"{value:.1f}" if row.unit else f"{value:.3g}"


def _notes(report: EvaluationReport, groups: list[tuple[str, Group]]) -> list[str]:
    marks = "Mark: all pairs of a set together. " if any(row.unit == SPEARMAN_UNIT for _, group in groups for row in group.rows) else ""
    notes = [f"{marks}Bar: 95% bootstrap interval, {report.resamples} resamples."]
    absent = [title for _, group in groups for title in group.absent]
    if absent:
        notes.append(f"Absent and not in the mean: {', '.join(absent)}.")
    if len(report.models) > _MOST_MODELS:
        notes.append(f"Marks repeat after {_MOST_MODELS} models: follow the order of the lanes.")
    return notes


def _quantity(groups: list[tuple[str, Group]]) -> str:
    units = {row.unit for _, group in groups for row in group.rows}
    names = ["Spearman's correlation x 100"] if SPEARMAN_UNIT in units else []
    names += [ACCURACY_UNIT] if ACCURACY_UNIT in units else []
    names += ["R@1 and MRR of self-retrieval x 100"] if units - {SPEARMAN_UNIT, ACCURACY_UNIT} else []
    return "; ".join(names)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARS else "…" + name[-_NAME_CHARS + 1 :]


# ---- layout


def _drawn_groups(report: EvaluationReport) -> list[tuple[str, Group]]:
    found = []
    for suite in report.suites:
        for group in suite.groups:
            if all(row.unit for row in group.rows):
                found.append((f"{suite.title}: {group.title}" if group.title else suite.title, group))
    return found


def _rows(group: Group) -> list[Row]:
    return [*group.rows, *([group.mean] if group.mean is not None else [])]


def _draw_row(canvas: Canvas, axis: Axis, row: Row, y: float, *, names: list[str] | None, is_mean: bool) -> float:
    """Draw a set's figures below ``y``, a lane for each model; returns the row's lower end."""
    height = _LANE * len(row.figures) + 8
    weight = "bold" if is_mean else "normal"
    if is_mean:
        canvas.add("rect", x=_EDGE, y=y, width=_WIDTH - 2 * _EDGE, height=height, fill="#f3f3f3", behind=True)
    canvas.text(_LEFT - 12, y + height / 2 + 4, row.title, anchor="end", weight=weight)
    for model, figure in enumerate(row.figures):
        middle, name = y + 4 + _LANE * (model + 0.5), names[model] if names else ""
        if math.isnan(figure.value):
            canvas.text(_LEFT + 4, middle + 4, f"undefined {name}".strip(), size=11, fill=FAINT)
            continue
        # the faint look belongs to the reference model
        colour, draw = _LOOKS[model % _MOST_MODELS if len(row.figures) > 1 else 1]
        x = axis.at(figure.value)
        low, high = (axis.at(end) if math.isfinite(end) else x for end in (figure.interval.low, figure.interval.high))
        canvas.line(low, middle, high, middle, colour=colour, width=2.5)
        draw(canvas, x, middle, colour)
        canvas.text(max(high, x + 6) + 6, middle + 4, f"{_value(row, figure.value)} {name}".strip(), size=11, weight=weight)
    return y + height


# ---- marks


def _circle(canvas: Canvas, x: float, y: float, colour: str) -> None:
    canvas.add("circle", cx=x, cy=y, r=4.5, fill="#ffffff", stroke=colour, stroke_width=2.0)


def _disc(canvas: Canvas, x: float, y: float, colour: str) -> None:
    canvas.add("circle", cx=x, cy=y, r=5.2, fill=colour)


def _square(canvas: Canvas, x: float, y: float, colour: str) -> None:
    canvas.add("rect", x=x - 4.4, y=y - 4.4, width=8.8, height=8.8, fill=colour)


def _diamond(canvas: Canvas, x: float, y: float, colour: str) -> None:
    canvas.add("path", d=f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z", fill="#ffffff", stroke=colour, stroke_width=2.0)


def _triangle(canvas: Canvas, x: float, y: float, colour: str) -> None:
    canvas.add("path", d=f"M{x:.1f} {y - 6:.1f}l6 10.5h-12z", fill=colour)


def _cross(canvas: Canvas, x: float, y: float, colour: str) -> None:
    canvas.add("path", d=f"M{x - 4.5:.1f} {y - 4.5:.1f}l9 9m0 -9l-9 9", fill="none", stroke=colour, stroke_width=2.5)


# from the Okabe-Ito palette, ordered so that neighbours also differ in lightness
_LOOKS: tuple[tuple[str, Callable[[Canvas, float, float, str], None]], ...] = (
    ("#8a8a8a", _circle),
    ("#0b4f8a", _disc),
    ("#e69f00", _square),
    ("#7a1f5c", _diamond),
    ("#35a079", _triangle),
    ("#000000", _cross),
)
