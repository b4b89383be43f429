"""All contenders of a pair of networks, round by round."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import Contender
from benchmarks.rows import Row, our_rows
from benchmarks.worker import Measured, Task
from models.errors import InputError
from stages.data.arrays import DataSet

PAIRS = ("resnet110-resnet20", "wrn_40_2-wrn_40_1")
BATCH_SIZE = 128
#: What a contender's part of a round takes, about, where the number of steps is not given.
_ROUND_SECONDS = 2.5


@dataclass(frozen=True)
class Pair:
    """A teacher and a student, written for all contenders.

    Attributes:
        teacher: its name.
        student: its name.
        data: the training images.
        folder: of the weights, and of the contenders' own folders.
        facts: what ``benchmarks.networks.write_pair`` says.
    """

    teacher: str
    student: str
    data: DataSet
    folder: Path
    facts: dict[str, Any]

    def start(self, key: str, row: Row) -> Contender:
        """A row's process."""
        own = self.folder / key
        own.mkdir()
        task = Task(
            module=row.module,
            teacher=self.teacher,
            student=self.student,
            data=str(self.data.folder.resolve()),
            weights=str(self.folder),
            classes=len(self.data.classes),
            batch_size=BATCH_SIZE,
            options=row.options,
        )
        # With a warm store the networks are those with a live teacher, compiled a row before.
        compiled = self.folder / f"compiled_{row.method}"
        return Contender(row.title, task, own, compiled, row.python)


def prepare_pair(name: str, data: DataSet, folder: Path) -> Pair:
    """Write the weights of a pair such as ``resnet110-resnet20`` into an empty folder.

    Raises:
        InputError: ``name`` is no pair of networks.
    """
    teacher, separator, student = name.partition("-")
    if not separator:
        raise InputError(f"--pairs: {name!r} is no pair; give teacher-student, such as {PAIRS[0]}")
    # In another process, so that this one stays small: a process's peak memory begins with that of
    # the one which started it.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        arguments = (teacher, student, str(data.folder), str(folder))
        facts = executor.submit(_write_pair, *arguments).result()
    return Pair(teacher, student, data, folder, facts)


def _write_pair(*arguments: str) -> dict[str, Any]:
    from benchmarks.networks import write_pair

    return write_pair(*arguments)


def measure_pair(
    pair: Pair, rows: Mapping[str, Row], rounds: int, steps: int | None
) -> tuple[dict[str, list[Measured]], dict[str, float]]:
    """Let every contender warm up, then let each take its steps in turn, round after round.

    Args:
        pair: the networks.
        rows: the contenders; those that have a reason not to be are left out.
        rounds: how many.
        steps: of each contender in a round; by default, as many as take about 2.5 seconds.

    Returns:
        What was measured, round by round, and the seconds that the warm-up took beyond its steps,
        both by the rows' keys.
    """
    measured: dict[str, list[Measured]] = {}
    warm_up: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        contenders = []
        for key, row in rows.items():
            if row.reason is not None:
                continue
            _say(f"{pair.teacher} to {pair.student}: {row.title} warms up")
            contender = stack.enter_context(pair.start(key, row))
            ready = contender.warm_up()
            warm_up[key], measured[key] = ready["warm_up_seconds"], []
            contenders.append((key, contender, steps or _steps(ready)))
        for number in range(1, rounds + 1):
            _say(f"{pair.teacher} to {pair.student}: round {number} of {rounds}")
            for key, contender, count in contenders:
                measured[key].append(contender.run(count))
    return measured, warm_up


def profile_pair(pair: Pair, steps: int | None) -> None:
    """Print where the time of our own contenders' steps goes, uncompiled, by operation."""
    for key, row in our_rows().items():
        if row.compiled:
            continue
        with pair.start(key, row) as contender:
            count = steps or _steps(contender.warm_up())
            measured = contender.run(count, profile=True)
        milliseconds = 1000 * measured["seconds"] / count
        feed = measured["waited_seconds"] / measured["seconds"]
        print(
            f"{pair.teacher} to {pair.student}: {row.title}, {count} steps of {milliseconds:.0f} ms"
            f" (profiled), {feed:.1%} of it in the feed\n{measured['profile']}",
            flush=True,
        )


def _steps(ready: Measured) -> int:
    seconds: float = ready["step_seconds"]
    return max(2, round(_ROUND_SECONDS / seconds))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
