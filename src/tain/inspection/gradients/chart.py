"""Chart of gradient correlation against mask distance, as one self-contained SVG."""

from tain.foundation.svg import FAINT, Axis, Canvas, draw_axis
from tain.inspection.gradients.report import GradientReport
from tain.inspection.gradients.variance import SHARES, additive_correlation

_WIDTH, _HEIGHT, _EDGE = 760.0, 460.0, 16.0  # SVG user units, shown as pixels by a browser
_LEFT, _RIGHT, _TOP, _BOTTOM = 80.0, 590.0, 92.0, 372.0
_MARK = "#0b4f8a"


def as_svg(report: GradientReport) -> str:
    """Draw the correlations with their intervals, and the expectation for additive gradients."""
    distances, found = report.distances(), report.variance.correlations
    expected = [additive_correlation(share, report.masking_rate) for share in SHARES]
    ends = [end for figure in found for end in (figure.low, figure.high)]
    across = Axis(low=0.0, high=distances[-1], step=distances[-1], start=_LEFT, end=_RIGHT)
    up = Axis.around([0.0, *ends, *expected], start=_BOTTOM, end=_TOP)

    canvas = Canvas(_WIDTH)
    canvas.title(report.claim(), x=_EDGE, y=28.0)
    draw_axis(canvas, up, upright=True, grid=(_LEFT, _RIGHT), labels=[_LEFT - 10], shown="{:.2g}".format)
    for share, distance in zip(SHARES, distances, strict=True):
        for below, words in ((20, f"{distance:.0f}"), (35, f"{share:.0%} in common")):
            canvas.text(across.at(distance), _BOTTOM + below, words, size=11, anchor="middle", fill=FAINT)
    additive_line = " ".join(f"{across.at(distance):.1f},{up.at(value):.1f}" for distance, value in zip(distances, expected, strict=True))
    canvas.add("polyline", points=additive_line, fill="none", stroke=FAINT, stroke_width=1.5, stroke_dasharray="5 4")
    for distance, figure in zip(distances, found, strict=True):
        x = across.at(distance)
        canvas.line(x, up.at(figure.low), x, up.at(figure.high), colour=_MARK, width=2.5)
        canvas.add("circle", cx=x, cy=up.at(figure.value), r=5.0, fill=_MARK)
    measured, additive = up.at(found[-1].value), up.at(expected[-1])
    apart = max(0.0, 30 - abs(measured - additive)) / 2 * (1 if measured <= additive else -1)
    canvas.text(_RIGHT + 14, measured - apart + 4, f"measured: {found[-1].value:+.3f}", fill=_MARK, weight="bold")
    canvas.text(_RIGHT + 14, additive + apart + 4, f"if additive: {expected[-1]:+.3f}", fill=FAINT)
    canvas.text((_LEFT + _RIGHT) / 2, _BOTTOM + 56, "Hamming distance of two masks, tokens", anchor="middle")
    canvas.text(_EDGE, _TOP - 14, "correlation of their gradients")
    note = (
        f"{report.model}, {report.variance.texts} blocks of {report.block_tokens} tokens, {report.masking_rate:.0%} masked. "
        "Bars: 95% bootstrap interval over blocks."
    )
    canvas.text(_EDGE, _HEIGHT - 12, note, size=11, fill=FAINT)
    return canvas.picture(height=_HEIGHT, description=report.claim())
