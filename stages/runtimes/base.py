"""The contract of a runtime: run an exported file and report how it ran."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stages.data.arrays import ImageFile


class RuntimeFailureError(Exception):
    """A runtime could not load or run a file; the message is the reason in the report."""


class Job(NamedTuple):
    """Images uint8 ``[N, H, W, 3]`` to run in batches of at most ``batch_size``."""

    images: ImageFile | npt.NDArray[np.uint8]
    batch_size: int

    def batches(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the images in order; the last batch may be smaller."""
        for start in range(0, len(self.images), self.batch_size):
            yield self.images[start : start + self.batch_size]


class Times(NamedTuple):
    """Times of each run of one image in ms, on the GPU alone and for the host."""

    gpu_ms: list[float]
    wall_ms: list[float]


@dataclass(frozen=True)
class Execution:
    """A run, as the runtime reports it."""

    logits: list[npt.NDArray[np.float32]]  # [N, K] for each job
    provider: str  # the device or execution provider
    dtypes: list[str]  # number formats in which weights were multiplied, sorted
    layers: dict[str, list[str]] | None = None
    """Names of the built layers by number format; None if not reported."""
    times: Times | None = None  # of a static model; None if the runtime is timed elsewhere


class Runtime(Protocol):
    """One way to run an exported model."""

    name: str
    precisions: tuple[str, ...]

    def version(self) -> str | None:
        """Return the version of the library; None if it is not installed."""

    def run(self, model: Path, jobs: Sequence[Job]) -> Execution:
        """Run every job on one loaded model; raises RuntimeFailureError if that fails."""
