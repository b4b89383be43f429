"""Show the progress of a training: live on a terminal, one line per epoch in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

_TERMINAL_SECONDS, _LOG_SECONDS = 0.5, 60.0


class Display:
    """Shows progress over ``epochs`` of ``steps`` and ``images`` each; a context manager.

    ``what`` names the training; None shows nothing. ``done`` are the steps of an earlier,
    interrupted run.
    """

    def __init__(
        self, what: str | None, epochs: int, steps: int, images: int, done: int = 0
    ) -> None:
        self.what, self.epochs, self.steps, self.images = what, epochs, steps, images
        self.done = self.done_before = done
        self.start = self.shown = self.epoch_start = time.monotonic()
        self.steps_of_epoch = 0
        console = Console(emoji=False)
        self.live = what is not None and console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self.task = self.bar.add_task(what or "", total=epochs * steps, completed=done, figures="")

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, losses: Mapping[str, Tensor]) -> None:
        """Count a batch, and show its ``losses`` if the last update was long enough ago."""
        self.done += 1
        self.steps_of_epoch += 1
        self.bar.advance(self.task)
        now = time.monotonic()
        pause = _TERMINAL_SECONDS if self.live else _LOG_SECONDS
        if self.what is None or now - self.shown < pause:
            return
        images = self.steps_of_epoch * self.images / self.steps
        pace = f"{images / (now - self.epoch_start):.0f} img/s"
        terms = _terms({name: float(loss.detach()) for name, loss in losses.items()})
        step = (self.done - 1) % self.steps + 1
        self._show(f"{terms}  {pace}", "" if self.live else f", step {step} of {self.steps}")

    def epoch(self, row: Mapping[str, float]) -> None:
        """Show the end of an epoch; ``row`` is its line of the history."""
        if self.what is not None:
            prefix = "loss/"
            losses = {n.removeprefix(prefix): v for n, v in row.items() if n.startswith(prefix)}
            pace = f"{row['images_per_second']:.0f} img/s"
            self._show(f"{_terms(losses)}  val {row['val_accuracy']:.2%}  {pace}")
        self.epoch_start = time.monotonic()
        self.steps_of_epoch = 0

    def _show(self, figures: str, place: str = "") -> None:
        self.shown = time.monotonic()
        number = f"{(self.done - 1) // self.steps + 1}/{self.epochs}"
        if self.live:
            self.bar.update(self.task, description=f"{self.what} {number}", figures=figures)
            return
        pace = (self.shown - self.start) / (self.done - self.done_before)
        left = pace * (self.epochs * self.steps - self.done)
        print(f"{self.what}: epoch {number}{place}  {figures}  {left:.0f} s left", flush=True)


def _terms(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in losses.items())
