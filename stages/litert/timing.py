"""Time a LiteRT file like ``stages.devices.runner``."""

from pathlib import Path
from typing import Any

from stages.devices.rules import breach, outcome
from stages.devices.runner import time_model
from stages.runtimes.litert_runtime import Session
from stages.sections.export import Profile


def time_file(model: Path, golden: Path, threads: int, profile: Profile) -> dict[str, Any]:
    """Return times at batch 1 and parity; raises DeviceError or RuntimeFailureError."""
    _, timed = time_model(lambda: Session(model, threads), golden, profile)
    return {"threads": threads, **timed, **outcome(breach(model.stem, timed["golden"]))}
