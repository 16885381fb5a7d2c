"""SVG canvas and linear axis, which all charts of tain share; the pictures need no fonts, scripts or other files."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

INK, FAINT, GRID = "#1a1a1a", "#666666", "#dddddd"
_FONT = "Helvetica, Arial, sans-serif"
_LETTER = 8.7  # mean width of a bold letter at 16 units, for the title's line breaks


class Canvas:
    """SVG picture that is built element by element.

    Lengths are SVG user units, which a browser shows as pixels. Elements are drawn in the order of the calls, after all elements that were
    added with ``behind=True``. Elements with a ``css`` class leave colours and font sizes to the style sheet of the page around them.

    Attributes:
        width: Width of the picture; may be raised until it is finished.
    """

    def __init__(self, width: float) -> None:
        self.width = width
        self._behind: list[str] = []
        self._before: list[str] = []

    def add(self, tag: str, words: str | None = None, *, css: str = "", behind: bool = False, **attributes: str | float) -> None:
        """Add an element.

        Args:
            tag: Name of the element: ``rect``.
            words: Text inside it; None for an element without content.
            css: Value of its ``class`` attribute.
            behind: Draw it below the other elements.
            attributes: Its other attributes, with ``_`` for ``-``; numbers are rounded to a tenth.
        """
        self._add(tag, words, attributes, css=css, behind=behind)

    def _add(self, tag: str, words: str | None, attributes: Mapping[str, str | float], *, css: str, behind: bool = False) -> None:
        named = {"class": css, **attributes} if css else attributes
        shown = "".join(f" {name.replace('_', '-')}={quoteattr(_plain(value))}" for name, value in named.items())
        end = "/>" if words is None else f">{escape(words)}</{tag}>"
        (self._behind if behind else self._before).append(f"<{tag}{shown}{end}")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        css: str = "",
        size: int = 12,
        anchor: str = "start",
        weight: str = "normal",
        fill: str = INK,
        turn: float = 0.0,
    ) -> None:
        """Write text at a position, rotated around it by ``turn`` degrees; with ``css``, the style sheet sets its look."""
        attributes: dict[str, str | float] = {"x": x, "y": y, "text_anchor": anchor}
        if not css:
            attributes |= {"font_size": str(size), "font_weight": weight, "fill": fill}
        if turn:
            attributes["transform"] = f"rotate({turn:g} {x:.1f} {y:.1f})"
        self._add("text", words, attributes, css=css)

    def title(self, sentence: str, *, x: float, y: float, step: float = 20.0) -> float:
        """Write the picture's title in lines that fit its width; returns the position of the line below."""
        lines = textwrap.wrap(sentence, int((self.width - 2 * x) / _LETTER))
        for number, words in enumerate(lines):
            self.text(x, y + step * number, words, size=16, weight="bold")
        return y + step * len(lines)

    def line(
        self, x1: float, y1: float, x2: float, y2: float, *, css: str = "", colour: str = INK, width: float = 1.0, behind: bool = False
    ) -> None:
        """Draw a straight line."""
        attributes: dict[str, str | float] = {"x1": x1, "x2": x2, "y1": y1, "y2": y2}
        if not css:
            attributes |= {"stroke": colour, "stroke_width": f"{width:g}"}
        self._add("line", None, attributes, css=css, behind=behind)

    def picture(self, *, height: float, description: str) -> str:
        """Return the picture as a file of its own, with a white background."""
        size = f"{self.width:.0f}", f"{height:.0f}"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{size[0]}" height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}"'
            f' font-family="{_FONT}">'
        )
        background = f'<rect width="{size[0]}" height="{size[1]}" fill="#ffffff"/>'
        return "\n".join([head, f"<title>{escape(description)}</title>", background, *self._behind, *self._before, "</svg>\n"])

    def inline(self, *, height: float, description: str, css: str) -> str:
        """Return the picture as an element of an HTML page, which scales it and sets its colours."""
        head = f'<svg class="{css}" viewBox="0 0 {self.width:.0f} {height:.0f}" role="img" aria-label={quoteattr(description)}>'
        return "".join([head, *self._behind, *self._before, "</svg>"])


@dataclass(frozen=True)
class Axis:
    """Linear scale with round ends, and its position in a picture.

    Attributes:
        low: Value at ``start``, a multiple of ``step``.
        high: Value at ``end``, a multiple of ``step``.
        step: Distance of two ticks.
        start: Position of ``low`` in the picture.
        end: Position of ``high``; less than ``start`` if values grow upwards.
    """

    low: float
    high: float
    step: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Iterable[float], *, start: float, end: float, ticks: int = 6, least_range: float = 1e-6) -> "Axis":
        """Choose round ends around all finite values, 0 to 100 if there is none.

        Args:
            values: What the scale must hold.
            start: Position of the low end.
            end: Position of the high end.
            ticks: About how many ticks fit.
            least_range: Values that lie closer together than this do not make the steps smaller.
        """
        finite = [value for value in values if math.isfinite(value)] or [0.0, 100.0]
        step = _round_step(max(max(finite) - min(finite), least_range) / ticks)
        low, high = math.floor(min(finite) / step) * step, math.ceil(max(finite) / step) * step
        return cls(low=low, high=high + (step if low == high else 0.0), step=step, start=start, end=end)

    def at(self, value: float) -> float:
        """Position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Values of the ticks, in rising order; the tick at zero is exactly 0."""
        first, last = round(self.low / self.step), round(self.high / self.step)
        return [number * self.step for number in range(first, last + 1)]


def draw_axis(
    canvas: Canvas,
    axis: Axis,
    *,
    upright: bool,
    grid: tuple[float, float],
    labels: Iterable[float],
    shown: Callable[[float], str] = "{:g}".format,
    css: tuple[str, str] = ("", ""),
) -> None:
    """Draw an axis: a line of the grid and labels at each tick.

    Args:
        canvas: The picture.
        axis: Scale and position.
        upright: Values grow along the picture's height, not along its width.
        grid: Ends of the grid's lines, across the axis.
        labels: Positions of the labels, across the axis: one for labels at one side, two for both sides.
        shown: Formats a tick's value.
        css: Classes of lines and labels, where a page's style sheet sets their look.
    """
    labels = tuple(labels)
    for tick in axis.ticks():
        along = axis.at(tick)
        colour = FAINT if tick == 0 and axis.low < 0 else GRID
        ends = (grid[0], along, grid[1], along) if upright else (along, grid[0], along, grid[1])
        canvas.line(*ends, css=css[0], colour=colour, behind=True)
        for across in labels:
            x, y = (across, along + 4) if upright else (along, across)
            canvas.text(x, y, shown(tick), css=css[1], size=11, anchor="end" if upright else "middle", fill=FAINT)


def _round_step(rough: float) -> float:
    """The least of 1, 2 or 5 times a power of ten that is not below ``rough``."""
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(multiple * magnitude for multiple in (1.0, 2.0, 5.0, 10.0) if multiple * magnitude >= rough)


def _plain(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1f}".removesuffix(".0")
