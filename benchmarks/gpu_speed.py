"""Measure training speed on a GPU: the parts of ``benchmarks.gpu`` that need it exclusively."""

import contextlib
import dataclasses
import gc
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.nn import functional as F

from benchmarks.contenders import ours
from benchmarks.gpu_plan import Plan, attempt
from benchmarks.networks import load_pair, one_batch
from benchmarks.results import Json
from benchmarks.training import WORKERS, run_contender
from benchmarks.worker import Clock, Task
from models.errors import InputError
from stages.training.device import prepare_device
from stages.training.engine import compile_network

LIMIT = "the student alone, forward and backward"


def speed(plan: Plan, name: str, precision: str) -> Iterator[Json]:
    """Measure images per second for the student alone and for our trainings of a pair."""
    task = plan.task(name)
    for compiled in plan.compiled:
        how = {"precision": precision, "compile": compiled}
        yield attempt({"title": LIMIT} | how, _pace, alone, task, **how)
        for method, store in itertools.product(("kd", "ackd"), (False, True)):
            title = f"{method.upper()}, {'stored logits' if store else 'live teacher'}"
            options = how | {"method": method, "store": store}
            yield attempt({"title": title} | how, _pace, ours.train, task, **options)


def _pace(train: Callable[[Task, Clock], None], task: Task, **options: Any) -> Json:
    """Measure a contender's loop in this process."""
    torch._dynamo.reset()
    gc.collect()  # compiled networks are reference cycles
    if torch.cuda.is_available():
        torch.cuda.init()  # type: ignore[no-untyped-call]  # memory statistics need it
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(task.seconds)
    with contextlib.suppress(SystemExit):
        train(dataclasses.replace(task, options=task.options | options), clock)
    return _rate(clock.measured)


def _rate(found: Mapping[str, float]) -> Json:
    return {"images_per_second": found["amount"] / found["seconds"], **found}


def alone(task: Task, clock: Clock) -> None:
    """Run the student's forward and backward pass on one batch, without teacher or data loading.

    The option ``sgd`` adds the optimizer step; ``graph`` replays the step as a CUDA graph.
    """
    device, (_, student) = prepare_device(), load_pair(task)
    student.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = one_batch(task, device)
    if task.options["compile"]:
        compile_network(student)
    bf16, sgd = task.options["precision"] == "bf16", task.options.get("sgd", False)
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, bf16, cache_enabled=False):
            logits = student(images)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        if sgd:
            optimizer.step()

    again = _captured(step) if task.options.get("graph") else step
    for _ in clock.pace(itertools.repeat(task.batch_size), float):
        again()


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """Capture a step as a CUDA graph, after a warm-up on a side stream as torch requires."""
    if not torch.cuda.is_available():
        raise InputError("a CUDA graph needs a GPU")
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def idle(plan: Plan) -> Iterator[Json]:
    """Measure ways to keep a GPU busy with the first pair's KD with stored logits."""
    task, how = plan.task(plan.first), {"precision": plan.precisions[-1]}
    kd = how | {"method": "kd", "store": True}
    yield attempt({"title": "KD"}, _pace, ours.train, task, compile=False, **kd)
    options = kd | {"compile": False}
    longer = 4 * plan.seconds  # the processes do not start at the same time
    several = dataclasses.replace(task, module=ours.__name__, seconds=longer, options=options)
    for count in plan.students:
        yield attempt({"title": f"KD, {count} students at once"}, at_once, several, count)
    if True in plan.compiled:
        title = "KD, compiled with mode reduce-overhead"
        graphs = partial(torch.compile, mode="reduce-overhead")
        with mock.patch.object(torch, "compile", graphs):  # not available as a parameter
            yield attempt({"title": title}, _pace, ours.train, task, compile=True, **kd)
    # These come last, because a failed capture may leave the process unusable.
    for title, graph in (("", False), (", as one CUDA graph", True)):
        titles = {"title": f"the student alone, with SGD{title}"}
        yield attempt(titles, _pace, alone, task, compile=False, sgd=True, graph=graph, **how)


def at_once(task: Task, count: int) -> Json:
    """Train in ``count`` processes at once and return the sums of their measurements."""
    with ThreadPoolExecutor(count) as pool:
        rows = list(pool.map(lambda n: _contend(f"student {n}", task), range(1, count + 1)))
    summed = ("images_per_second", "steps", "device_memory_mb")
    return {key: sum(row[key] for row in rows) for key in summed if key in rows[0]}


def peer(plan: Plan) -> Iterator[Json]:
    """Measure RepDistiller's loop on the first pair, in processes that do not import our code."""
    if plan.repdistiller is None:
        raise InputError("pass a RepDistiller checkout with --repdistiller")
    task = plan.task(plan.first)
    for workers in WORKERS:
        options = {"checkout": plan.repdistiller, "workers": workers}
        module = "benchmarks.contenders.repdistiller"
        chosen = dataclasses.replace(task, module=module, options=options)
        title = f"RepDistiller, KD, live teacher, {workers} workers"
        yield attempt({"title": title}, _contend, title, chosen)


def _contend(title: str, task: Task) -> Json:
    return _rate(run_contender(title, task, Path("compiled"), gpu=True))
