"""The report as a dot plot: one self-contained SVG, no fonts, scripts or files from elsewhere.

Every set is a row, every model a mark with its interval as a bar. Models differ in shape and in lightness as well as in hue, so
that the chart survives greyscale and colour blindness, and are named beside their marks in the first row.
"""

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tain.evaluation.metrics import SPEARMAN_UNIT, Interval
from tain.evaluation.report import EvaluationReport, Figure, Group, Row
from tain.evaluation.suites.tasks import ACCURACY_UNIT

_WIDTH = 800  # all lengths are SVG user units, which a browser shows as pixels
_EDGE = 16.0
_LEFT, _RIGHT = 170.0, 610.0  # where the scale begins and ends; labels of marks run on to the edge
_LANE = 15  # height of one model's mark in a row
_FONT = "font-family='Helvetica, Arial, sans-serif'"
_INK, _FAINT, _GRID = "#1a1a1a", "#666666", "#dddddd"
_NAME_CHARS = 26
_TITLE_CHARS = 88
_MOST_MODELS = 6


def headline_sentence(report: EvaluationReport) -> str:
    """Say what was found in one sentence: the difference of two models, the best of several, or the figure of one."""
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
    """Draw every figure that is on a scale of 100: the sets, and of geometry the self-retrieval."""
    groups = _drawn_groups(report)
    scale = _Scale.around([row for _, group in groups for row in _rows(group)])
    canvas = _Canvas()
    canvas.title(headline_sentence(report))
    top = canvas.y
    canvas.space(20.0)
    is_first = True
    for heading, group in groups:
        canvas.heading(heading)
        for row in _rows(group):
            canvas.row(row, scale, names=[_short(label) for label in report.labels()] if is_first else None, is_mean=row is group.mean)
            is_first = False
    canvas.axis(scale, top, _quantity(groups))
    canvas.notes(_notes(report, groups))
    return canvas.svg(headline_sentence(report))


# ---- words


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
        notes.append(f"Absent, and not in a mean: {', '.join(absent)}.")
    if len(report.models) > _MOST_MODELS:
        notes.append(f"Marks repeat after {_MOST_MODELS} models: read the order of the lanes.")
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


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    step: float

    @classmethod
    def around(cls, rows: list[Row]) -> "_Scale":
        """Choose round ends about all figures and intervals, so that about six ticks fit."""
        ends = [end for row in rows for f in row.figures for end in (f.value, f.interval.low, f.interval.high) if math.isfinite(end)]
        low, high = (min(ends), max(ends)) if ends else (0.0, 100.0)
        rough = max(high - low, 1.0) / 6
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next(multiple * magnitude for multiple in (1.0, 2.0, 5.0, 10.0) if multiple * magnitude >= rough)
        return cls(low=math.floor(low / step) * step, high=math.ceil(high / step) * step + (step if low == high else 0), step=step)

    def x(self, value: float) -> float:
        return _LEFT + (value - self.low) / (self.high - self.low) * (_RIGHT - _LEFT)

    def ticks(self) -> list[float]:
        return [self.low + index * self.step for index in range(round((self.high - self.low) / self.step) + 1)]


class _Canvas:
    """Collects SVG elements from top to bottom; ``y`` is where the next one goes."""

    def __init__(self) -> None:
        self.y = 18.0
        self._below: list[str] = []  # the grid, drawn first
        self._above: list[str] = []

    def space(self, height: float) -> None:
        self.y += height

    def title(self, sentence: str) -> None:
        for line in textwrap.wrap(sentence, _TITLE_CHARS):
            self.y += 4
            self._text(_EDGE, self.y + 6, line, size=16, weight="bold")
            self.y += 18

    def heading(self, title: str) -> None:
        self.y += 20
        self._text(_EDGE, self.y, title, size=13, weight="bold")
        self.y += 8

    def row(self, row: Row, scale: _Scale, *, names: list[str] | None, is_mean: bool) -> None:
        height = _LANE * len(row.figures) + 8
        weight = "bold" if is_mean else "normal"
        if is_mean:
            self._below.append(f"<rect x='{_EDGE}' y='{self.y:.1f}' width='{_WIDTH - 2 * _EDGE}' height='{height}' fill='#f3f3f3'/>")
        self._text(_LEFT - 12, self.y + height / 2 + 4, row.title, anchor="end", weight=weight)
        for model, figure in enumerate(row.figures):
            middle = self.y + 4 + _LANE * (model + 0.5)
            self._mark(figure, row, scale, middle, model=model, name=names[model] if names else "", weight=weight)
        self.y += height

    def axis(self, scale: _Scale, top: float, quantity: str) -> None:
        self.y += 6
        for tick in scale.ticks():
            x = scale.x(tick)
            self._below.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{top + 18:.1f}' y2='{self.y:.1f}' stroke='{_GRID}'/>")
            for y in (top + 12, self.y + 14):
                self._text(x, y, f"{tick:g}", size=11, anchor="middle", fill=_FAINT)
        self.y += 32
        self._text((_LEFT + _RIGHT) / 2, self.y, quantity, size=12, anchor="middle")

    def notes(self, lines: list[str]) -> None:
        self.y += 10
        for line in (part for note in lines for part in textwrap.wrap(note, 125)):
            self.y += 15
            self._text(_EDGE, self.y, line, size=11, fill=_FAINT)
        self.y += 14

    def svg(self, description: str) -> str:
        head = (
            f"<svg xmlns='http://www.w3.org/2000/svg' role='img' width='{_WIDTH}' height='{self.y:.0f}'"
            f" viewBox='0 0 {_WIDTH} {self.y:.0f}' {_FONT}>"
        )
        background = f"<rect width='{_WIDTH}' height='{self.y:.0f}' fill='#ffffff'/>"
        return "\n".join([head, f"<title>{escape(description)}</title>", background, *self._below, *self._above, "</svg>\n"])

    def _mark(self, figure: Figure, row: Row, scale: _Scale, y: float, *, model: int, name: str, weight: str) -> None:
        if math.isnan(figure.value):
            self._text(_LEFT + 4, y + 4, f"undefined {name}".strip(), size=11, fill=_FAINT)
            return
        colour, draw = _LOOKS[model % _MOST_MODELS if len(row.figures) > 1 else 1]  # faint is for what others are compared with
        low, high = (scale.x(end) if math.isfinite(end) else scale.x(figure.value) for end in (figure.interval.low, figure.interval.high))
        self._above.append(f"<line x1='{low:.1f}' x2='{high:.1f}' y1='{y:.1f}' y2='{y:.1f}' stroke='{colour}' stroke-width='2.5'/>")
        self._above.append(draw(scale.x(figure.value), y, colour))
        self._text(max(high, scale.x(figure.value) + 6) + 6, y + 4, f"{_value(row, figure.value)} {name}".strip(), size=11, weight=weight)

    def _text(
        self, x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", weight: str = "normal", fill: str = _INK
    ) -> None:
        self._above.append(
            f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' font-weight='{weight}' fill='{fill}'>"
            f"{escape(words)}</text>"
        )


# ---- marks


def _circle(x: float, y: float, colour: str) -> str:
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4.5' fill='#ffffff' stroke='{colour}' stroke-width='2'/>"


def _disc(x: float, y: float, colour: str) -> str:
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5.2' fill='{colour}'/>"


def _square(x: float, y: float, colour: str) -> str:
    return f"<rect x='{x - 4.4:.1f}' y='{y - 4.4:.1f}' width='8.8' height='8.8' fill='{colour}'/>"


def _diamond(x: float, y: float, colour: str) -> str:
    return f"<path d='M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z' fill='#ffffff' stroke='{colour}' stroke-width='2'/>"


def _triangle(x: float, y: float, colour: str) -> str:
    return f"<path d='M{x:.1f} {y - 6:.1f}l6 10.5h-12z' fill='{colour}'/>"


def _cross(x: float, y: float, colour: str) -> str:
    return f"<path d='M{x - 4.5:.1f} {y - 4.5:.1f}l9 9m0 -9l-9 9' fill='none' stroke='{colour}' stroke-width='2.5'/>"


# from the Okabe-Ito palette, ordered so that neighbours differ in lightness too
_LOOKS: tuple[tuple[str, Callable[[float, float, str], str]], ...] = (
    ("#8a8a8a", _circle),
    ("#0b4f8a", _disc),
    ("#e69f00", _square),
    ("#7a1f5c", _diamond),
    ("#35a079", _triangle),
    ("#000000", _cross),
)
