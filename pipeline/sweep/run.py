"""Runs the experiments of a plan on a cluster, computing each shared result once."""

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
    """Run the experiments not in ``done``, regardless of failures, and return the failed ones.

    An experiment waits while another one computes a result that both need, such as a teacher or its
    logits. ``report`` receives a line for each start and each end.
    """
    ready = set(done)
    made = {key for item in plan.experiments if item.name in ready for key in item.shared}
    # The longest first, because its stored logits cover all epochs of the shorter ones.
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
        text = f"{item.name}: {how} {duration(outcome.seconds)}{where}{reason}"
        left = _left(outcomes, total - len(outcomes), slots)
        report(f"{text}; {len(outcomes)} of {total}{left}")
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
    return Outcome(name, 0, "Dask gave it up; check that its scheduler is running")


def _left(outcomes: list[Outcome], left: int, slots: int) -> str:
    seconds = [outcome.seconds for outcome in outcomes if outcome.reason is None]
    if not seconds or not left:
        return ""
    each = sum(seconds) / len(seconds)
    return f", about {duration(each * left / min(left, slots))} left"
