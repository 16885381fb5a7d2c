"""Style of the pictures that benchmarks draw for the docs: matplotlib figures, saved as SVG with the same bytes in every run."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1] / "docs"
BLUE, GREY, BROWN = "#0b4f8a", "#767676", "#9a4a00"  # they also differ in lightness
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tain",  # ids do not change from run to run
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#444444",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
}


def start(finding: str, *, note: str, height: float, panels: int = 1, width: float = 8.5) -> "tuple[Figure, list[Axes]]":
    """Begin a picture.

    Args:
        finding: Its title, in one sentence.
        note: What marks and bars mean, below the panels.
        height: Inches.
        panels: Number of panels side by side.
        width: Inches.
    """
    mpl.rcParams.update(_STYLE)
    figure, axes = plt.subplots(1, panels, figsize=(width, height), layout="constrained", squeeze=False)
    figure.suptitle(finding, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5, color="#555555")
    return figure, list(axes[0])


def dumbbell(axes: "Axes", y: float, *, hollow: float, filled: float, spread: float, colour: str = BLUE) -> None:
    """Draw a value before (hollow) and after (filled), with one standard deviation of the latter to either side."""
    axes.plot([hollow, filled], [y, y], color="#b5c7da", linewidth=2.5, zorder=1)
    axes.errorbar(filled, y, xerr=spread, fmt="o", color=colour, markersize=6.5, elinewidth=2, capsize=3, zorder=3)
    axes.plot(hollow, y, "o", markersize=6, markerfacecolor="white", markeredgecolor="#555555", markeredgewidth=1.4, zorder=2)


def name_rows(axes: "Axes", names: Iterable[str]) -> None:
    """Name the rows from top to bottom, and draw the grid of the scale below."""
    names = list(names)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def save(figure: "Figure", name: str) -> None:
    """Write ``docs/NAME``."""
    figure.savefig(DOCS / name, metadata={"Date": None, "Creator": None})
    plt.close(figure)
