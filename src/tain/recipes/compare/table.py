"""Render a comparison as a terminal table."""

from typing import TYPE_CHECKING, Any

from tain.foundation.ruled_table import ruled

if TYPE_CHECKING:
    from rich.console import Group as Lines

    from tain.recipes.compare.recipe import Compared


def comparison_table(result: "Compared") -> "Lines":
    """Build what rich prints: one row a candidate, best first; below, those that were not tried and why."""
    from rich.console import Group as Lines
    from rich.text import Text

    has_labels = result.labelled is not None
    table = ruled(gap=2)
    for heading in (
        "candidate",
        "MRR x 100",
        "to the best",
        *(["labels"] if has_labels else []),
        "made in",
        *([] if has_labels else ["texts/s"]),
    ):
        table.add_column(heading, justify="left" if heading == "candidate" else "right", no_wrap=True)
    for row in result.rows():
        if "skipped" in row:
            continue
        cells = [_figure(row["self_retrieval"], factor=100), _behind(row["self_retrieval"], factor=100)]
        if has_labels:
            cells.append("–" if row["labelled"] is None else _figure(row["labelled"], factor=1))
        cells += [f"{row['made_s']:.0f} s", *([] if has_labels else [f"{row['texts_a_second']:,.0f}"])]
        is_winner = row["candidate"] == result.winner
        table.add_row(f"{row['candidate']} *" if is_winner else row["candidate"], *cells, style="bold" if is_winner else None)
    counts = result.counts
    title = f"Recipes on {result.model}: {counts['train']:,} texts to train on, {counts['held_out']:,} held out; self-retrieval, no labels"
    notes = [Text(f"not tried: {name}: {reason}") for name, reason in result.skipped.items()]
    about = "In brackets: 95% bootstrap interval" + (f"; labels: {result.verdict.figure}" if has_labels else "") + "; * is kept."
    return Lines(Text(title, style="bold"), table, *notes, Text(about))


def _figure(of: dict[str, Any], *, factor: int) -> str:
    low, high = of["interval"]
    return f"{factor * of['value']:.1f} \\[{factor * low:.1f} {factor * high:.1f}]"


def _behind(of: dict[str, Any], *, factor: int) -> str:
    if of["behind"] == 0:
        return "–"
    low, high = of["behind_interval"]
    return f"{-factor * of['behind']:+.1f} \\[{-factor * high:+.1f} {-factor * low:+.1f}]"
