"""A contender's process: it trains for some seconds after a warm-up, and prints what was measured.

Started as ``python -m benchmarks.worker TASK``, where TASK is JSON; the last line of stdout is
JSON too. Nothing of the project is imported here: a peer's checkout may have packages of the same
names.
"""

from __future__ import annotations

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

#: Steps that count for nothing: buffers are allocated, loaders filled, networks compiled.
WARM_UP_STEPS = 3


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
        seconds: how long it trains, at least; two steps are the least.
        options: what only this contender knows.
    """

    module: str
    teacher: str
    student: str
    data: str
    weights: str
    classes: int
    batch_size: int
    seconds: float
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


class Clock:
    """Deals out a loop's batches, and measures the time between the first and the last.

    The loop that is measured stays as it is: whatever it does, it has done a step when it asks for
    the next batch. On a GPU it has asked for a step, so the clock waits there before it looks.

    Attributes:
        measured: what was, once the loop has ended.
    """

    measured: dict[str, float]

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if (cuda := _cuda()) is not None:
            cuda.synchronize()

    def pace(self, batches: Iterable[Item], amount: Callable[[Item], float]) -> Iterator[Item]:
        """The batches of the warm-up, then those that count; prints the result and exits.

        Args:
            batches: without end.
            amount: what a batch counts for, such as its number of images.
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
            "warm_up_seconds": max(0.0, extra),  # beyond as many steps
            # Of this process without its loader's workers; MB = 10^6 bytes.
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
        }
        if (cuda := _cuda()) is not None:
            self.measured["device_memory_mb"] = cuda.max_memory_allocated() / 1e6
        print(json.dumps(self.measured), flush=True)
        sys.exit()


def _cuda() -> Any:
    """``torch.cuda`` where there is a GPU; a contender need not have torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    importlib.import_module(task.module).train(task, Clock(task.seconds))


if __name__ == "__main__":
    main()
