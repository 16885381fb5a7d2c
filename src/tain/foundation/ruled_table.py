"""Terminal tables with only a rule below the headings."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def ruled(*, gap: int = 1) -> "Table":
    """Create a table without columns, with ``gap`` blanks between columns."""
    from rich.box import Box
    from rich.table import Table

    only_a_rule = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
    return Table(box=only_a_rule, padding=(0, gap, 0, 0), pad_edge=False, show_edge=False, header_style="bold")


def as_html(*parts: object) -> str:
    """Render what rich prints as HTML, for display in a notebook."""
    from io import StringIO

    from rich.console import Console

    console = Console(record=True, width=120, file=StringIO(), force_jupyter=False)
    for part in parts:
        console.print(part, markup=False)
    return console.export_html(inline_styles=True, code_format='<pre style="font-family: monospace; line-height: 1.3">{code}</pre>')


def ruled_table(*headings: str, gap: int = 1) -> "Table":
    """Create a table with columns: the first left-aligned, numbers right-aligned."""
    table = ruled(gap=gap)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table
