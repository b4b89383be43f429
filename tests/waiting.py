"""Waits for other processes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(is_so: Callable[[], Any], what: str, within_s: float = 400.0) -> Any:
    """Wait until a condition is true, and return its value, even on a busy machine."""
    begun = time.monotonic()
    while not (found := is_so()):
        waited = time.monotonic() - begun
        assert waited < within_s, f"{what}: not within {within_s:g} s"
        time.sleep(min(0.05 + waited / 20, 0.5))  # asking often would slow down what it waits for
    return found


def wait_for(path: Path) -> None:
    wait_until(path.exists, str(path))
