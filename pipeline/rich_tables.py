"""Prints tables of results on a terminal."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from stages.tables import Table

# Columns that a cell adds to its text: a space on either side, and a line.
_BORDER = 3


def wide_console() -> Console:
    """Return a console as wide as the terminal, or of 200 columns if output is redirected."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=200, emoji=False)


def print_table(console: Console, table: Table) -> None:
    """Print a table with its notes, in parts if the terminal is too narrow for all columns."""
    rows, numeric = table.texts("-"), table.numeric()
    narrow = _widths([title.split() for title in table.head], rows)
    wide = _widths([[title] for title in table.head], rows)
    if table.caption:
        console.print(f"[bold]{escape(table.caption)}[/]", highlight=False)
    for part in _parts(narrow, console.width):
        widths = wide if _fits(part, wide, console.width) else narrow
        shown = RichTable()
        for column in part:
            shown.add_column(
                escape(table.head[column]),
                justify="right" if numeric[column] else "left",
                # A part of two columns may be wider than the terminal.
                width=widths[column] if len(part) > 2 else None,
            )
        for row in rows:
            shown.add_row(*(escape(row[column]) for column in part))
        console.print(shown)
    for note in table.notes:
        console.print(note, highlight=False, markup=False)


def _widths(heads: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the width of each column, given the lines that its heading may be broken into."""
    return [
        max(map(cell_len, ["", *lines, *(row[column] for row in rows)]))
        for column, lines in enumerate(heads)
    ]


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """Return the columns of each part; the first column is in all of them."""
    parts = [[0]]
    for column in range(1, len(widths)):
        part = [*parts[-1], column]
        if len(part) > 2 and not _fits(part, widths, room):
            parts.append([0, column])
        else:
            parts[-1] = part
    return parts


def _fits(part: Sequence[int], widths: Sequence[int], room: int) -> bool:
    return sum(widths[column] + _BORDER for column in part) + 1 <= room
