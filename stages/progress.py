"""Show progress with an estimate on a terminal, or as plain lines in a log."""

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

#: Minimum time between lines in a log; whatever finishes sooner prints none.
_LOG_EVERY_SECONDS = 10.0


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` and show the progress; ``total`` is their number if they have no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    console = Console(stderr=True, emoji=False)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True
        ) as bar:
            yield from bar.track(items, total=total, description=description)
        return
    start = logged = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - logged >= _LOG_EVERY_SECONDS:
            logged = now
            left = f", {(now - start) / done * (total - done):.0f} s left" if total and done else ""
            print(f"{description}: {done}{f' of {total}' if total else ''}{left}", flush=True)
        yield item
