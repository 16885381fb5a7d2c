"""Figure of mixing ratios for a paper: layers by kind of token over all texts, and layers by token for the first text."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tain.foundation.errors import UserError
from tain.foundation.svg import FAINT, INK, Canvas
from tain.inspection.results import Comparison, Inspection

_WIDTH, _EDGE, _LEFT = 860.0, 16.0, 56.0  # user units, as all below
_ROW = 20.0
_WIDEST, _NARROWEST = 68.0, 3.0  # width of a cell
_FEWEST_FOR_NAMES = 11.0  # narrower columns have no room for a token's name
_NAME_CHARS, _NAME_ROOM = 12, 66.0
_DARK = (11, 79, 74)  # at 100%; white at 0%, so that the scale also works without colour


def as_svg(found: Inspection | Comparison, *, method: str = "AttnResLn-N") -> str:
    """Draw the ratios of one method; two models are drawn below each other.

    Raises:
        UserError: The method was not measured.
    """
    models, titles = ((found,), (found.title,)) if isinstance(found, Inspection) else ((found.first, found.second), found.titles)
    if method not in models[0].methods:
        raise UserError(f"method is {method!r}: give one of {', '.join(models[0].methods)}")
    number = models[0].methods.index(method)
    canvas = Canvas(_WIDTH)
    y = canvas.title(found.claim(), x=_EDGE, y=28.0)
    for model, title in zip(models, titles, strict=True):
        canvas.text(_EDGE, y + 16, title, size=14, weight="bold")
        kinds = model.statistics.kinds
        names = [f"{kind.name} ({kind.tokens:,})" for kind in kinds]
        table = np.stack([kind.means[:, number] for kind in kinds], axis=1)
        caption = "share from other tokens, by layer and kind of token (how many)"
        y = _draw_table(canvas, table, names, top=y + 30, caption=caption, numbers=True)
        if model.texts:
            first = model.texts[0]
            caption = "the same, by layer and token of the first text"
            y = _draw_table(canvas, first.ratios[:, number], first.tokens, top=y + 24, caption=caption, numbers=False)
    read = models[0].statistics
    note = f"{method} of Kobayashi et al. 2021; {read.texts:,} texts, {read.tokens:,} tokens. White: 0% from other tokens, darkest: 100%."
    canvas.text(_EDGE, y + 24, note, size=11, fill=FAINT)
    return canvas.picture(height=y + 38, description=found.claim())


def _draw_table(
    canvas: Canvas, shares: Float[np.ndarray, "layers columns"], names: Sequence[str], *, top: float, caption: str, numbers: bool
) -> float:
    """Draw cells with column names below, and widen the picture if they need it; returns the table's lower end."""
    layers, columns = shares.shape
    cell = min(_WIDEST, max(_NARROWEST, (_WIDTH - _LEFT - _EDGE) / columns))
    canvas.width = max(canvas.width, _LEFT + cell * columns + _EDGE)
    canvas.text(_EDGE, top, caption, size=11, fill=FAINT)
    y = top + 10
    for layer in range(layers):
        canvas.text(_LEFT - 8, y + _ROW * layer + 14, str(layer + 1), size=11, anchor="end", fill=FAINT)
        for column in range(columns):
            share, x = float(shares[layer, column]), _LEFT + cell * column
            canvas.add("rect", x=x, y=y + _ROW * layer, width=cell, height=_ROW, fill=_shade(share), stroke="#ffffff")
            if numbers:
                ink = "#ffffff" if share > 0.55 else INK
                canvas.text(x + cell / 2, y + _ROW * layer + 14, f"{share:.0%}", size=10, anchor="middle", fill=ink)
    bottom = y + _ROW * layers
    if cell < _FEWEST_FOR_NAMES:
        return bottom
    for column, name in enumerate(names):
        short = name if len(name) <= _NAME_CHARS + 6 else f"{name[:_NAME_CHARS]}…"
        canvas.text(_LEFT + cell * (column + 0.5) + 3, bottom + 12, short, size=10, anchor="end", turn=-45.0)
    return bottom + _NAME_ROOM


def _shade(share: float) -> str:
    return "#" + "".join(f"{round(255 + (end - 255) * min(1.0, max(0.0, share))):02x}" for end in _DARK)
