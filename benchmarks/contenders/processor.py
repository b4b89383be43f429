"""The limit: the processor's throughput for large matrix products."""

from __future__ import annotations

import itertools

import torch

from benchmarks.worker import Clock, Task

_SIZE = 2048


def train(task: Task, clock: Clock) -> None:
    """Multiply square matrices of ``task.options["dtype"]``, counting floating-point operations."""
    dtype = getattr(torch, task.options["dtype"])
    torch.manual_seed(0)
    a, b = torch.randn(2, _SIZE, _SIZE).to(dtype)
    product = torch.empty_like(a)
    for _ in clock.pace(itertools.repeat(None), lambda _: 2.0 * _SIZE**3):
        torch.mm(a, b, out=product)
