"""SVG drawing helpers for self-contained pictures."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

INK, FAINT = "#1a1a1a", "#666666"


def picture(parts: Sequence[str], *, title: str, width: float, height: float) -> str:
    """Wrap elements in an SVG with a white background; sizes are user units, shown as pixels by a browser."""
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' role='img' width='{width:g}' height='{height:g}' viewBox='0 0 {width:g} {height:g}'"
        " font-family='Helvetica, Arial, sans-serif'>"
    )
    background = f"<rect width='{width:g}' height='{height:g}' fill='#ffffff'/>"
    return "\n".join([head, f"<title>{escape(title)}</title>", background, *parts, "</svg>\n"])


def line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1.0) -> str:
    """A straight line."""
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' stroke-width='{width:g}'/>"


def text(
    x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", weight: str = "normal", fill: str = INK, turn: float = 0.0
) -> str:
    """Text at a position, rotated around it by the given degrees."""
    turned = f" transform='rotate({turn:g} {x:.1f} {y:.1f})'" if turn else ""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' font-weight='{weight}' fill='{fill}'{turned}>"
        f"{escape(words)}</text>"
    )
