"""A contender's own process: it trains as many steps as it is told to, then waits.

Started as ``python -m benchmarks.worker TASK``, where TASK is JSON. Requests come as lines of JSON
from stdin, replies go as lines of JSON to stdout. Nothing of the project is imported here: a peer's
checkout may have packages of the same names.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")
Measured = dict[str, Any]

#: Steps that count for nothing: buffers are allocated, loaders filled, networks compiled.
WARM_UP_STEPS = 3
_TOP_OPERATIONS = 25


@dataclass(frozen=True)
class Task:
    """What a contender is to train.

    Attributes:
        module: of the contender, for example ``benchmarks.contenders.ours``.
        teacher: the network's name; of the same parameters in every contender.
        student: likewise.
        data: the folder that ``prepare_data`` wrote.
        weights: the folder of ``teacher.pt`` and ``student.pt``, state dicts.
        classes: of the data.
        batch_size: images a step.
        options: what only this contender knows.
    """

    module: str
    teacher: str
    student: str
    data: str
    weights: str
    classes: int
    batch_size: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def train_images(self) -> Path:
        return Path(self.data, "train_images.npy")

    @property
    def train_labels(self) -> Path:
        return Path(self.data, "train_labels.npy")


class Clock:
    """Deals out a loop's batches, and measures the time between the first and the last.

    The loop that is measured stays as it is: whatever it does, it has done a step when it asks for
    the next batch.

    Args:
        requests: lines ``{"steps": n, "profile": false}``.
        replies: one line after the warm-up, and one for each request.
    """

    def __init__(self, requests: TextIO, replies: TextIO) -> None:
        self.requests, self.replies = requests, replies

    def pace(self, batches: Iterable[Item], amount: Callable[[Item], float]) -> Iterator[Item]:
        """The batches of the warm-up, then those of each request; ends the process after the last.

        Args:
            batches: without end.
            amount: what a batch counts for, such as its number of images.
        """
        source = iter(batches)
        warm_up = []
        for _ in range(WARM_UP_STEPS):
            measured = yield from self._run(source, amount, 1)
            warm_up.append(measured["seconds"])
        extra = sum(warm_up) - WARM_UP_STEPS * warm_up[-1]
        self._reply({"step_seconds": warm_up[-1], "warm_up_seconds": max(0.0, extra)})
        for line in self.requests:
            request = json.loads(line)
            run = self._profile if request["profile"] else self._run
            measured = yield from run(source, amount, request["steps"])
            self._reply(measured | {"peak_memory_mb": _peak_memory_mb()})
        sys.exit()

    def _run(
        self, source: Iterator[Item], amount: Callable[[Item], float], steps: int
    ) -> Generator[Item, None, Measured]:
        total, waited = 0.0, 0.0
        start = time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(source)
            waited += time.perf_counter() - asked
            total += amount(batch)
            yield batch
        seconds = time.perf_counter() - start
        return {"steps": steps, "amount": total, "seconds": seconds, "waited_seconds": waited}

    def _profile(
        self, source: Iterator[Item], amount: Callable[[Item], float], steps: int
    ) -> Generator[Item, None, Measured]:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            measured = yield from self._run(source, amount, steps)
        averages = profiler.key_averages()
        table = averages.table(sort_by="self_cpu_time_total", row_limit=_TOP_OPERATIONS)
        return measured | {"profile": table}

    def _reply(self, reply: Measured) -> None:
        print(json.dumps(reply), file=self.replies, flush=True)


def _peak_memory_mb() -> float:
    """Of this process without its loader's workers; MB = 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a contender prints goes to its log, before the error that ends it
    sys.stdout = sys.stderr
    importlib.import_module(task.module).train(task, Clock(sys.stdin, replies))


if __name__ == "__main__":
    main()
