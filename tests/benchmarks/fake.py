"""A contender that needs no torch: each step takes a millisecond."""

import itertools
import time

from benchmarks.worker import Clock, Task


def train(task: Task, clock: Clock) -> None:
    print("what a contender prints is not the result")
    for _ in clock.pace(itertools.repeat(task.batch_size), float):
        time.sleep(0.001)
        if task.options.get("fails"):
            raise RuntimeError("the fake is broken")
