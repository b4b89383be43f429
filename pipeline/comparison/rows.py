"""What was measured, as one flat list: tables, charts, CSV and the choice filter and group it."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.comparison.experiments import Experiment
from pipeline.summary_schema import Export, Row
from stages.formatting import threads

LITERT = "litert_"
"""Before the name of a precision that LiteRT runs."""
HERE = "local:"


class Device(NamedTuple):
    """The same URL may be another machine elsewhere."""

    url: str
    machine: str | None
    cpu: str | None

    @property
    def title(self) -> str:
        return f"{self.url} ({self.cpu or self.machine or 'an unnamed processor'})"


class Place(NamedTuple):
    """What a latency holds for."""

    device: Device
    threads: int

    @property
    def title(self) -> str:
        return f"{self.device.title}, {threads(self.threads)}"


class Measured(NamedTuple):
    """An export of an experiment, once by itself and once for each device that it was sent to.

    Attributes:
        status: of its validation.
        accuracy: of the exported model; None where it did not pass.
        size_mb: of the static file, in 10^6 bytes; None where none was made.
        place: None for the export by itself.
        p50_ms: None where it was not measured there, as p90_ms.
        noisy: whether the machine was while it was timed.
        reason: why there is no accuracy, or with a place no latency.
    """

    experiment: Experiment
    precision: str
    status: str
    accuracy: float | None
    size_mb: float | None
    place: Place | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    noisy: bool = False
    runtime: str | None = None
    reason: str | None = None


def devices_of(experiment: Experiment) -> list[Device]:
    devices = experiment.measured.devices
    return [Device(url, device.machine, device.cpu) for url, device in devices.items()]


def rows_of(experiment: Experiment) -> list[Measured]:
    """Of one that has results, each export before its devices.

    LiteRT's exports stand beside onnxruntime's; the machine that ran the chain times them.
    """
    results = experiment.measured
    exports: dict[str, Export] = {**results.exports}
    devices = {device.url: device for device in devices_of(experiment)}
    timed: list[tuple[str, Device, Row, str | None]] = [
        (precision, devices[url], row, of.runtime)
        for url, of in results.devices.items()
        for precision, row in of.exports.items()
    ]
    if results.litert is not None:
        runtime = f"LiteRT {results.litert.versions.runtime}"
        for name, export in results.litert.exports.items():
            exports[LITERT + name] = export
            if HERE in devices:
                timed.append((LITERT + name, devices[HERE], export, runtime))
    found = []
    for precision, of_it in exports.items():
        accuracy = of_it.accuracy if of_it.status == "passed" else None
        own = Measured(
            experiment, precision, of_it.status, accuracy, of_it.size_mb, reason=of_it.reason
        )
        found.append(own)
        found += [_timed(own, on, row, by) for name, on, row, by in timed if name == precision]
    return found


def _timed(own: Measured, device: Device, row: Row, runtime: str | None) -> Measured:
    there = own._replace(place=Place(device, row.threads), runtime=runtime)
    if row.status != "passed" or row.p50_ms is None or row.p90_ms is None:
        return there._replace(reason=row.reason or f"it has {row.status}")
    if own.status == "failed":
        return there._replace(reason=own.reason or "its export failed")
    return there._replace(p50_ms=row.p50_ms, p90_ms=row.p90_ms, noisy=bool(row.noisy), reason=None)
