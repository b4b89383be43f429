"""Runs the experiments of a plan on a cluster: what is shared is made once, and by one alone."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.sweep.cluster import Cluster
from pipeline.sweep.plan import Experiment, Plan
from pipeline.sweep.worker import Outcome, run_experiment
from stages.formatting import duration


def run(
    plan: Plan, done: Iterable[str], cluster: Cluster, report: Callable[[str], None]
) -> list[Outcome]:
    """Run all that is not ``done`` by name; a failure does not stop the others. Returns those.

    An experiment waits while another makes something that both need, such as their teacher or its
    logits: it would make it a second time. ``report`` takes a line for each start and each end.
    """
    ready = set(done)
    made = {key for item in plan.experiments if item.name in ready for key in item.shared}
    # The longest first: what one with fewer epochs needs of a teacher, it has left behind.
    pending = sorted(
        (item for item in plan.experiments if item.name not in ready),
        key=lambda item: -int(item.params["distill"]["epochs"]),
    )
    total, began = len(pending), time.monotonic()
    running: dict[Any, Experiment] = {}
    ended: queue.Queue[Any] = queue.Queue()
    outcomes: list[Outcome] = []
    while pending or running:
        slots = cluster.slots()
        for item in list(pending):
            if len(running) >= slots:
                break
            making = {key for other in running.values() for key in other.shared} - made
            if making & item.shared:
                continue
            pending.remove(item)
            report(f"{item.name}: started, {total - len(pending)} of {total}")
            future = cluster.client.submit(
                run_experiment,
                cluster.workshop,
                item.name,
                item.text,
                bool(item.shared - made),
                key=f"{item.name}-{cluster.workshop}",
            )
            running[future] = item
            future.add_done_callback(ended.put)
        future = ended.get()
        item = running.pop(future)
        outcome = _outcome(item.name, future)
        outcomes.append(outcome)
        if outcome.reason is None:
            made |= item.shared
        how = "done in" if outcome.reason is None else "failed after"
        where = f" on {outcome.where}" if outcome.where else ""
        reason = f": {outcome.reason}" if outcome.reason else ""
        left = _left(outcomes, total - len(outcomes), slots)
        report(
            f"{item.name}: {how} {duration(outcome.seconds)}{where}{reason};"
            f" {len(outcomes)} of {total}{left}"
        )
    failed = [outcome for outcome in outcomes if outcome.reason is not None]
    if total:
        took = duration(time.monotonic() - began)
        report(f"{plan.name}: {total - len(failed)} of {total} in {took}")
    return failed


def _outcome(name: str, future: Any) -> Outcome:
    if future.status == "finished":
        found: Outcome = future.result()
        return found
    if future.status == "error":
        error = future.exception()
        return Outcome(name, 0, f"{type(error).__name__}: {error}")
    return Outcome(name, 0, "Dask has given it up; is its scheduler alive?")


def _left(outcomes: list[Outcome], left: int, slots: int) -> str:
    seconds = [outcome.seconds for outcome in outcomes if outcome.reason is None]
    if not seconds or not left:
        return ""
    each = sum(seconds) / len(seconds)
    return f", about {duration(each * left / min(left, slots))} left"
