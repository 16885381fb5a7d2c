"""Render an inspection as terminal tables."""

from typing import TYPE_CHECKING, Any

from tain.foundation.ruled_table import ruled_table
from tain.inspection.results import Comparison, Inspection, SimilarityInspection

if TYPE_CHECKING:
    from rich.console import Group


def as_table(found: Inspection | Comparison) -> "Group":
    """Rich renderable of an inspection."""
    from rich.console import Group
    from rich.text import Text

    if isinstance(found, Inspection):
        return Group(*_inspection(found, found.title))
    parts: list[Any] = []
    for each, title in zip((found.first, found.second), found.titles, strict=True):
        parts += [*_inspection(each, title), Text("")]
    if found.geometry is not None:
        table = ruled_table("vectors of these texts", *found.titles)
        for name in found.geometry[0]:
            table.add_row(name.replace("_", " "), *(f"{each[name]:.3g}" for each in found.geometry))
        parts.append(table)
    return Group(*parts)


def _inspection(found: Inspection, title: str) -> list[Any]:
    from rich.text import Text

    read = found.statistics
    heading = f"{title}: share of a token's vector that comes from other tokens ({_counted(read.texts, 'text')}, {read.tokens:,} tokens)"
    table = ruled_table("layer", *found.methods, "expands")
    for layer, (means, rate) in enumerate(zip(read.means, found.expansion_rates, strict=True), start=1):
        table.add_row(str(layer), *(f"{value:.1%}" for value in means), f"{rate:.2f}")
    mean_rate = sum(found.expansion_rates) / len(found.expansion_rates)
    table.add_row("all", *(f"{value:.1%}" for value in read.overall), f"{mean_rate:.2f}", style="bold")
    for kind in read.kinds:
        table.add_row(kind.name, *(f"{value:.1%}" for value in kind.overall), "")
    parts: list[Any] = [Text(heading, style="bold"), table]
    if read.texts > 1:
        correlations = ", ".join(
            f"{method} {value:+.2f}"
            for method, value in zip(found.methods, read.frequency_correlation_words, strict=True)
            if value == value
        )
        if correlations:
            parts += [Text(""), Text(f"Rank correlation of a piece's frequency rank with its ratio, words only: {correlations}.")]
    for each in found.similarities if read.texts == len(found.texts) else ():  # not representative for the first of many texts
        parts.append(Text(f"Texts {each.left + 1} and {each.right + 1}: cosine {each.cosine:.4f}; most from {_strongest(found, each)}."))
    return parts


def _strongest(found: Inspection, similarity: SimilarityInspection, *, count: int = 3) -> str:
    contributions = similarity.contributions
    indices = contributions.ravel().argsort()[::-1][:count]
    left, right = (found.texts[side].tokens for side in (similarity.left, similarity.right))
    pairs = (divmod(int(index), contributions.shape[1]) for index in indices)
    return ", ".join(f"{left[i]} / {right[j]} ({contributions[i, j]:+.4f})" for i, j in pairs)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
