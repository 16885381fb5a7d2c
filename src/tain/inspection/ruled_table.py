"""Tables for a terminal, with nothing but a rule below the headings."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def ruled_table(*headings: str, gap: int = 1) -> "Table":
    """Begin a table: the first column to the left, numbers to the right, ``gap`` blanks between columns."""
    from rich.box import Box
    from rich.table import Table

    only_a_rule = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
    table = Table(box=only_a_rule, padding=(0, gap, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table
