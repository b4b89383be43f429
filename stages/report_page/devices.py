"""Devices beside each other: those of ``profile.devices``, and what `ackd profile` measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from stages.formatting import threads
from stages.report_page.charts import Point, accuracy_against_latency
from stages.report_page.curves import Titled
from stages.report_page.measurements import Measurements, Record


class Measured(NamedTuple):
    """What is known of one device.

    Attributes:
        url: the device's.
        description: who measured, as ``reports/latency.json`` says; empty where it does not.
        results: rows of ``reports/latency.json``, of these models alone.
        by_hand: whether `ackd profile` or `ackd probe` measured it, and not the chain.
    """

    url: str
    description: Record
    results: list[Record]
    by_hand: bool


def devices(measured: Measurements) -> list[Measured]:
    """The first is the one that goals and summary are about."""
    told = {device["device"]: device for device in measured.latency["devices"]}
    rows_of = {url: [r for r in measured.latency["results"] if r["device"] == url] for url in told}
    found = [
        Measured(url, description, rows_of[url], by_hand=False) for url, description in told.items()
    ]
    for file in measured.devices:
        rows = [row for row in file["results"] if _is_current(row, measured)]
        if rows and file["device"] not in told:
            found.append(Measured(file["device"], file["description"], rows, by_hand=True))
    return found


def missing(measured: Measurements) -> Iterator[tuple[str, str, str]]:
    """What of `ackd profile` is not shown or not measured, on which device, and why."""
    told = {device["device"] for device in measured.latency["devices"]}
    for file in measured.devices:
        url, what = file["device"], "latency by `ackd profile`"
        if url in told:
            yield what, url, "profile.devices has that device, whose newer measurement is shown"
            continue
        current = [row for row in file["results"] if _is_current(row, measured)]
        if len(current) < len(file["results"]):
            yield what, url, "some or all of it is of other models than these; measure again"
        for row in current:
            if row["status"] != "passed":
                at = f"{row['precision']} at {threads(row['threads'])}"
                yield f"latency of {at}", url, row["reason"]


def summary(measured: Measurements, exports: Record) -> Record:
    """``devices`` of ``reports/summary.json``; ``exports`` are those of the summary."""
    return {
        device.url: {
            **{key: device.description[key] for key in ("system", "machine", "cpu", "runtime")},
            "by_hand": device.by_hand,
            "exports": {
                precision: {
                    key: row[key]
                    for key in ("threads", "p50_ms", "p90_ms", "noisy", "status", "reason")
                }
                for precision, row in _foremost(device).items()
                if precision in exports
            },
        }
        for device in devices(measured)
    }


def trade_offs(summary: Record) -> list[Titled]:
    """A chart of accuracy against latency for each device after the first, which has its own."""
    charts = []
    for number, (url, device) in enumerate(list(summary["devices"].items())[1:], 1):
        points = [
            Point(name, place, row["p50_ms"], row["p90_ms"], export["accuracy"], row["noisy"])
            for place, (name, export) in enumerate(summary["exports"].items())
            if (row := device["exports"].get(name)) is not None
            and row["status"] == export["status"] == "passed"
        ]
        if not points:
            continue
        counts = sorted({row["threads"] for row in device["exports"].values()})
        at = " and ".join(threads(count) for count in counts)
        told = "; ".join(f"{p.name} {p.accuracy:.2%} at {p.p50_ms:.3g} ms" for p in points)
        chart = accuracy_against_latency(
            f"trade-off-{number}",
            points,
            summary["student"]["accuracy"],
            f"Accuracy against latency on {url}: {told}",
            at=at,
        )
        # Browsers tell the model of a phone at most.
        by = device["cpu"] or device["machine"] or "An unnamed processor"
        reading = f"{by}, {device['runtime']}."
        charts.append(Titled(f"Test accuracy and latency on {url}", chart, reading))
    return charts


def _foremost(device: Measured) -> dict[str, Record]:
    """A row for each precision: one that passed, with the fewest threads."""
    rows: dict[str, Record] = {}
    for row in sorted(device.results, key=lambda r: (r["status"] != "passed", int(r["threads"]))):
        rows.setdefault(row["precision"], row)
    return rows


def _is_current(row: Record, measured: Measurements) -> bool:
    entry = measured.model["files"].get(row["precision"])
    return entry is not None and bool(row["model_sha256"] == entry["static"]["sha256"])
