"""A contender's process: train for some seconds after a warm-up and print the measurements.

Started as ``python -m benchmarks.worker TASK``, where TASK is JSON. The last line of stdout is JSON
as well. This module imports nothing else of the project, because a peer's checkout may have
packages of the same names.
"""

import dataclasses
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")

#: Uncounted steps, in which buffers are allocated, loaders filled and networks compiled.
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Task:
    """A training for a contender to run."""

    module: str  # such as benchmarks.contenders.ours
    teacher: str
    student: str
    data: str  # folder that prepare_data wrote
    weights: str  # folder of teacher.pt and student.pt, the same for all contenders
    classes: int
    batch_size: int  # images per step
    seconds: float  # minimum duration; at least two steps are run
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


class Clock:
    """Feeds batches to a training loop and measures the time from the first to the last.

    The loop needs no changes, because it has finished a step when it requests the next batch. On a
    GPU it has only launched the step, so the clock synchronizes before it reads the time.
    """

    measured: dict[str, float]  # once the loop has ended

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if (cuda := _cuda()) is not None:
            cuda.synchronize()

    def pace(self, batches: Iterable[Item], amount: Callable[[Item], float]) -> Iterator[Item]:
        """Yield warm-up batches, then measured ones; finally print the result and exit.

        ``amount`` returns the amount of work in a batch, such as its number of images.
        """
        source = iter(batches)
        warm_up = [time.perf_counter()]
        for _ in range(WARM_UP_STEPS):
            yield next(source)
            warm_up.append(time.perf_counter())
        total, waited, steps = 0.0, 0.0, 0
        self.wait()
        start = now = time.perf_counter()
        while steps < 2 or now < start + self.seconds:
            batch = next(source)
            waited += time.perf_counter() - now
            total += amount(batch)
            steps += 1
            yield batch
            now = time.perf_counter()
        self.wait()
        now = time.perf_counter()
        extra = warm_up[-1] - warm_up[0] - WARM_UP_STEPS * (warm_up[-1] - warm_up[-2])
        unit = 1 if sys.platform == "darwin" else 1024
        self.measured = {
            "steps": steps,
            "amount": total,
            "seconds": now - start,
            "waited_seconds": waited,
            "warm_up_seconds": max(0.0, extra),  # beyond the time of as many normal steps
            # Excludes loader workers; MB = 10^6 bytes.
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
        }
        if (cuda := _cuda()) is not None:
            self.measured["device_memory_mb"] = cuda.max_memory_allocated() / 1e6
        print(json.dumps(self.measured), flush=True)
        sys.exit()


def _cuda() -> Any:
    """Return ``torch.cuda`` if there is a GPU; not every contender uses torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    importlib.import_module(task.module).train(task, Clock(task.seconds))


if __name__ == "__main__":
    main()
