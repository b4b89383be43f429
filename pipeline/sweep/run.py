"""Runs the experiments of a plan on an engine: what is shared is made once, and by one alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from pipeline.sweep.clone import Order
from pipeline.sweep.commits import message
from pipeline.sweep.plan import Experiment, Plan


@dataclass(frozen=True)
class Outcome:
    """How an experiment ended.

    Attributes:
        name: of the experiment.
        seconds: that it took.
        reason: why it failed; None where it did not.
        where: the worker, or an empty text.
    """

    name: str
    seconds: float
    reason: str | None = None
    where: str = ""


class Engine(Protocol):
    """Where experiments run."""

    @property
    def slots(self) -> int:
        """How many at once; what is seen of them may change it."""

    def start(self, order: Order) -> None:
        """Begin an experiment and return."""

    def wait(self) -> Outcome:
        """The next one that ends."""


def run(
    plan: Plan, done: Iterable[str], engine: Engine, tell: Callable[[str], None]
) -> list[Outcome]:
    """Run all that is not done; a failure does not stop the others.

    An experiment waits while another makes something that both need, such as their teacher or its
    logits: it would make it a second time.

    Args:
        plan: the experiments.
        done: names of those that exist.
        engine: where they run.
        tell: takes a line for each start and each end.

    Returns:
        Those that failed.
    """
    ready = set(done)
    made = {key for item in plan.experiments if item.name in ready for key in item.shared}
    # The longest first: what one with fewer epochs needs of a teacher, it has left behind.
    pending = sorted(
        (item for item in plan.experiments if item.name not in ready), key=lambda e: -e.epochs
    )
    total, ended = len(pending), 0
    running: dict[str, Experiment] = {}
    making: dict[str, str] = {}
    seconds: list[float] = []
    failed: list[Outcome] = []
    began = time.monotonic()
    while pending or running:
        for item in list(pending):
            if len(running) >= engine.slots:
                break
            if any(key in making for key in item.shared):
                continue
            pending.remove(item)
            claimed = item.shared - made
            making.update(dict.fromkeys(claimed, item.name))
            running[item.name] = item
            tell(f"{item.name}: started, {total - len(pending)} of {total}")
            engine.start(
                Order(
                    name=item.name,
                    overrides=item.overrides,
                    until=plan.until,
                    message=message(plan.name, plan.until),
                    leads=bool(claimed),
                )
            )
        outcome = engine.wait()
        item = running.pop(outcome.name)
        ended += 1
        making = {key: name for key, name in making.items() if name != item.name}
        where = f" on {outcome.where}" if outcome.where else ""
        if outcome.reason is None:
            made |= item.shared
            seconds.append(outcome.seconds)
            what = f"done in {duration(outcome.seconds)}{where}"
        else:
            failed.append(outcome)
            what = f"failed after {duration(outcome.seconds)}{where}: {outcome.reason}"
        tell(f"{item.name}: {what}; {ended} of {total}{_left(seconds, total - ended, engine)}")
    if total:
        tell(f"{plan.name}: {total - len(failed)} of {total} in {_since(began)}")
    return failed


def duration(seconds: float) -> str:
    """Such as ``42 s``, ``7 min`` or ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def _since(began: float) -> str:
    return duration(time.monotonic() - began)


def _left(seconds: list[float], left: int, engine: Engine) -> str:
    if not seconds or not left:
        return ""
    each = sum(seconds) / len(seconds)
    return f", about {duration(each * left / min(left, engine.slots))} left"
