"""Where a network runs, and how its arithmetic is made repeatable."""

from __future__ import annotations

import os

import torch


def prepare_device() -> torch.device:
    """The GPU where there is one, otherwise the CPU; deterministic algorithms on either."""
    # cuBLAS is repeatable only with a fixed workspace, and reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # It would also fill all new memory with NaN, a tenth of a step, to show who reads it unwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
