"""Render lists and tables as Markdown, for the model card, Prefect and comparisons."""

import re
from collections.abc import Iterable

from stages.tables import Table


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def table(shown: Table) -> str:
    """Render only the table, without caption, reading and notes."""
    rule = ["---:" if numeric else "---" for numeric in shown.numeric()]
    rows = [[plain(cell) for cell in row] for row in (shown.head, *shown.texts("not measured"))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def section(shown: Table) -> str:
    """Render the table with its reading and notes below."""
    return "\n\n".join([table(shown), *map(plain, shown.below())])


def plain(text: str) -> str:
    """Escape a user's text so that no character has a meaning in Markdown."""
    escaped = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    # An underscore within a word is not markup.
    return re.sub(r"([\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", escaped)
