"""Choose the device, and make its arithmetic deterministic."""

import os

import torch


def prepare_device() -> torch.device:
    """Return the GPU, or the CPU if there is none, and enable deterministic algorithms."""
    # cuBLAS is deterministic only with a fixed workspace, and reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling new memory with NaN, a debugging aid, would take a tenth of each step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
