"""Tables of results on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from stages.tables import Table

# Of a cell: a space to either side, and a line.
_BORDER = 3


def print_table(console: Console, table: Table) -> None:
    """Print it with its notes, in parts where the terminal is too narrow for all columns."""
    rows, numeric = table.texts("-"), table.numeric()
    widths = _widths(table.head, rows)
    for number, part in enumerate(_parts(widths, console.width)):
        title = None if number else escape(table.caption)
        shown = RichTable(title=title, title_justify="left", title_style="bold")
        for column in part:
            shown.add_column(
                escape(table.head[column]),
                justify="right" if numeric[column] else "left",
                # Alone beside the first, a column may be wider than the terminal.
                width=widths[column] if len(part) > 2 else None,
            )
        for row in rows:
            shown.add_row(*(escape(row[column]) for column in part))
        console.print(shown)
    for note in table.notes:
        console.print(note, highlight=False, markup=False)


def _widths(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column; headings may be wrapped, other cells not."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in head)
    return [
        max(map(cell_len, ["", *title.split(), *cells]))
        for title, cells in zip(head, columns, strict=True)
    ]


def _parts(widths: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each part; the first stands in all of them."""
    parts = [[0]]
    for column in range(1, len(widths)):
        part = [*parts[-1], column]
        if len(part) > 2 and sum(widths[c] + _BORDER for c in part) + 1 > width:
            parts.append([0, column])
        else:
            parts[-1] = part
    return parts
