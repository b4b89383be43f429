"""The contract of a device: take a folder of models, verify it and measure."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stages.devices.urls import DeviceUrl
from stages.progress import track
from stages.runtimes.exported import Exported
from stages.sections.export import Profile

Row = dict[str, Any]

#: Keys that only a finished measurement has.
UNMEASURED = (
    *("version", "provider", "init_ms", "first_ms", "n", "min_ms", "p50_ms", "p90_ms", "p99_ms"),
    *("mean_ms", "cv", "peak_rss_mb", "load_before", "load_after", "temperature_before"),
    *("temperature_after", "noisy", "golden"),
)


@dataclass(frozen=True)
class Measurement:
    """The results of one device."""

    device: str  # its URL, without secrets
    description: dict[str, Any]
    """``system``, ``machine``, ``cpu``, ``cores``, ``governor``, ``python`` and ``runtime`` of the
    device; each None if unknown."""
    rows: list[Row]  # as in ``results``, without the device and with ``samples_ms`` if measured

    @property
    def results(self) -> list[Row]:
        """The rows of ``reports/latency.json``; see ``docs/files.md``."""
        rows = [{"device": self.device, **row} for row in self.rows]
        for row in rows:
            row.pop("samples_ms", None)
        return rows

    @property
    def samples(self) -> dict[str, list[float]]:
        """Times in ms by ``<device>|<runtime>|<precision>|<threads>``."""
        return {
            f"{self.device}|{r['runtime']}|{r['precision']}|{r['threads']}": r.get("samples_ms", [])
            for r in self.rows
        }


class Device(ABC):
    """A place where models run; :func:`stages.devices.urls.open_device` opens one by its URL."""

    def __init__(self, url: DeviceUrl) -> None:
        self.url = url

    def settings(self, exported: Exported, profile: Profile) -> Iterator[tuple[str, int]]:
        """Yield each precision with each number of threads, and show progress."""
        threads = self.url.threads or profile.threads
        every = [*itertools.product(exported.precisions, threads)]
        return track(every, f"profile {self.url.text}")

    @abstractmethod
    def measure(self, exported: Exported, profile: Profile) -> Measurement:
        """Measure each precision's static model: latency at batch 1 and parity.

        Each precision and number of threads has a row, ``failed`` if it did not run. Raises
        InputError if the device is unreachable or lacks a program, or if it got an altered file.
        """


def unmeasured(
    entry: Mapping[str, Any],
    precision: str,
    threads: int,
    runtime: str,
    reason: str | None,
    status: str = "failed",
) -> Row:
    """Return a row without times for the model with the ``path`` and ``sha256`` of ``entry``."""
    return {
        "runtime": runtime,
        "precision": precision,
        "file": entry["path"],
        "model_sha256": entry["sha256"],
        "threads": threads,
        **dict.fromkeys(UNMEASURED),
        "status": status,
        "reason": reason,
    }
