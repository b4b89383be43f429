"""Lists and tables of the model card."""

from __future__ import annotations

import re
from collections.abc import Iterable


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """The first column to the left, figures to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def plain(text: str) -> str:
    """A name that somebody chose, so that no character of it means anything in a card."""
    escaped = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", escaped)
