"""A contender that needs no torch: each step takes a millisecond or two."""

import itertools
import time

from benchmarks.worker import Clock, Task


def train(task: Task, clock: Clock) -> None:
    print("what a contender prints is no reply")
    for size in clock.pace(itertools.repeat(task.batch_size), float):
        time.sleep(0.001 * size / task.batch_size)
        if task.options.get("fails"):
            raise RuntimeError("the fake is broken")
