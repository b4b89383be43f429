"""The contract of every runtime: load an exported file, run it, report what really ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stages.data.arrays import ImageFile


class RuntimeFailureError(Exception):
    """A runtime could not load or run a file; the message is the reason, for the report."""


class Job(NamedTuple):
    """Images uint8 ``[N, H, W, 3]``, to be run in batches of at most ``batch_size``."""

    images: ImageFile | npt.NDArray[np.uint8]
    batch_size: int

    def batches(self) -> Iterator[npt.NDArray[np.uint8]]:
        """The images in order; the last batch may be smaller."""
        for start in range(0, len(self.images), self.batch_size):
            yield self.images[start : start + self.batch_size]


class Times(NamedTuple):
    """Of each run of one batch of one image, in ms: on the GPU alone, and as the host sees it."""

    gpu_ms: list[float]
    wall_ms: list[float]


@dataclass(frozen=True)
class Execution:
    """What ran, as the runtime itself reports it.

    Attributes:
        logits: float32 ``[N, K]`` for each job.
        provider: the device or execution provider that the work was given to.
        dtypes: the number formats in which weights met activations, sorted.
        layers: the names of the layers that were built, by number format; None where the runtime
            does not report it.
        times: of a static model; None where the runtime is timed elsewhere.
    """

    logits: list[npt.NDArray[np.float32]]
    provider: str
    dtypes: list[str]
    layers: dict[str, list[str]] | None = None
    times: Times | None = None


class Runtime(Protocol):
    """One way to run an exported model.

    Attributes:
        name: as in the reports.
        precisions: those that it takes.
    """

    name: str
    precisions: tuple[str, ...]

    def version(self) -> str | None:
        """Of the installed library; None where it is not installed."""

    def unavailable(self) -> str | None:
        """Why it cannot run here; None where it can."""

    def run(self, model: Path, jobs: Sequence[Job]) -> Execution:
        """Run every job on one loaded model.

        Raises:
            RuntimeFailureError: the model was not loaded, or did not run to its end.
        """
