"""What a person sees of a training: live on a terminal, one line an epoch in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """Progress of ``epochs`` of ``steps`` each; a context manager.

    Args:
        what: the name that it is shown under; None shows nothing.
        epochs: in all.
        steps: an epoch.
        done: steps that an earlier, interrupted run has made.
    """

    def __init__(self, what: str | None, epochs: int, steps: int, done: int = 0) -> None:
        self.what, self.epochs, self.steps = what, epochs, steps
        self.start, self.done_before = time.monotonic(), done / steps
        console = Console()
        self.bar: Progress | None = None
        if what is not None and console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self.task = self.bar.add_task(what, total=epochs * steps, completed=done, figures="")

    def __enter__(self) -> Display:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self) -> None:
        """One batch more is done."""
        if self.bar is not None:
            self.bar.advance(self.task)

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch is done; ``row`` is its line of the history."""
        number = int(row["epoch"])
        losses = " ".join(
            f"{name.removeprefix('loss/')} {value:.3f}"
            for name, value in row.items()
            if name.startswith("loss/")
        )
        figures = f"{losses}  val {row['val_accuracy']:.2%}  {row['images_per_second']:.0f} img/s"
        if self.what is None:
            return
        if self.bar is not None:
            description = f"{self.what} {number}/{self.epochs}"
            self.bar.update(self.task, description=description, figures=figures)
            return
        pace = (time.monotonic() - self.start) / (number - self.done_before)
        left = pace * (self.epochs - number)
        print(
            f"{self.what}: epoch {number}/{self.epochs}  {figures}  {left:.0f} s left", flush=True
        )
