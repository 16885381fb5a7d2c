"""Chart of gradient correlation against mask distance, as one self-contained SVG."""

import math
import textwrap

from tain.inspection.gradients.report import GradientReport
from tain.inspection.gradients.variance import SHARES, additive_correlation
from tain.inspection.svg import FAINT, line, picture, text

_WIDTH, _HEIGHT, _EDGE = 760.0, 460.0, 16.0  # SVG user units, shown as pixels by a browser
_LEFT, _RIGHT, _TOP, _BOTTOM = 80.0, 590.0, 92.0, 372.0
_GRID, _MARK = "#dddddd", "#0b4f8a"


def as_svg(report: GradientReport) -> str:
    """Draw the correlations with their intervals, and the expectation for additive gradients."""
    distances, found = report.distances(), report.variance.correlations
    expected = [additive_correlation(share, report.masking_rate) for share in SHARES]
    ends = [end for figure in found for end in (figure.low, figure.high)]
    low, high, step = _round_ends(min(0.0, *ends, *expected), max(*ends, *expected))

    def x(distance: float) -> float:
        return _LEFT + distance / distances[-1] * (_RIGHT - _LEFT)

    def y(value: float) -> float:
        return _BOTTOM - (value - low) / (high - low) * (_BOTTOM - _TOP)

    parts = [
        text(_EDGE, 28.0 + 20 * number, words, size=16, weight="bold") for number, words in enumerate(textwrap.wrap(report.claim(), 84))
    ]
    for number in range(round((high - low) / step) + 1):
        tick = low + number * step
        colour = FAINT if abs(tick) < step / 2 else _GRID
        parts.append(line(_LEFT, y(tick), _RIGHT, y(tick), colour))
        parts.append(text(_LEFT - 10, y(tick) + 4, f"{tick:.2g}" if abs(tick) > 1e-9 else "0", size=11, anchor="end", fill=FAINT))
    for share, distance in zip(SHARES, distances, strict=True):
        parts.append(text(x(distance), _BOTTOM + 20, f"{distance:.0f}", size=11, anchor="middle", fill=FAINT))
        parts.append(text(x(distance), _BOTTOM + 35, f"{share:.0%} in common", size=11, anchor="middle", fill=FAINT))
    additive_line = " ".join(f"{x(distance):.1f},{y(value):.1f}" for distance, value in zip(distances, expected, strict=True))
    parts.append(f"<polyline points='{additive_line}' fill='none' stroke='{FAINT}' stroke-width='1.5' stroke-dasharray='5 4'/>")
    for distance, figure in zip(distances, found, strict=True):
        parts.append(line(x(distance), y(figure.low), x(distance), y(figure.high), _MARK, width=2.5))
        parts.append(f"<circle cx='{x(distance):.1f}' cy='{y(figure.value):.1f}' r='5' fill='{_MARK}'/>")
    measured, additive = y(found[-1].value), y(expected[-1])
    apart = max(0.0, 30 - abs(measured - additive)) / 2 * (1 if measured <= additive else -1)
    parts.append(text(_RIGHT + 14, measured - apart + 4, f"measured: {found[-1].value:+.3f}", fill=_MARK, weight="bold"))
    parts.append(text(_RIGHT + 14, additive + apart + 4, f"if additive: {expected[-1]:+.3f}", fill=FAINT))
    parts.append(text((_LEFT + _RIGHT) / 2, _BOTTOM + 56, "Hamming distance of two masks, tokens", anchor="middle"))
    parts.append(text(_EDGE, _TOP - 14, "correlation of their gradients"))
    note = (
        f"{report.model}, {report.variance.texts} blocks of {report.block_tokens} tokens, {report.masking_rate:.0%} masked. "
        "Bars: 95% bootstrap interval over blocks."
    )
    parts.append(text(_EDGE, _HEIGHT - 12, note, size=11, fill=FAINT))
    return picture(parts, title=report.claim(), width=_WIDTH, height=_HEIGHT)


def _round_ends(low: float, high: float) -> tuple[float, float, float]:
    """Round the ends of a scale outwards so that about six ticks fit; also returns the step between ticks."""
    rough = max(high - low, 1e-6) / 6
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(multiple * magnitude for multiple in (1.0, 2.0, 5.0, 10.0) if multiple * magnitude >= rough)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step
