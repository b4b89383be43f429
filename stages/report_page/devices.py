"""The devices that were measured: those of ``profile.devices``, and those of `ackd profile`."""

from __future__ import annotations

from typing import NamedTuple

from stages.report_page.measurements import Measurements, Record


class Measured(NamedTuple):
    """What is known of one device.

    Attributes:
        results: rows of ``reports/latency.json``, of these models alone.
        by_hand: whether `ackd profile` or `ackd probe` measured it, and not the chain.
    """

    url: str
    description: Record
    results: list[Record]
    by_hand: bool


def devices(measured: Measurements) -> list[Measured]:
    """The first is the one that goals and summary are about."""
    found = {
        device["device"]: Measured(device["device"], device, [], by_hand=False)
        for device in measured.latency["devices"]
    }
    for row in measured.latency["results"]:
        found[row["device"]].results.append(row)
    for file in measured.devices:
        rows, url = current_rows(file, measured.model["files"]), file["device"]
        if rows and url not in found:
            found[url] = Measured(url, file["description"], rows, by_hand=True)
    return list(found.values())


def current_rows(file: Record, models: Record) -> list[Record]:
    """What `ackd profile` measured of the very ``models``, the ``files`` of ``model.json``."""
    return [
        row
        for row in file["results"]
        if row["precision"] in models
        and row["model_sha256"] == models[row["precision"]]["static"]["sha256"]
    ]


def of_precisions(device: Measured) -> dict[str, Record]:
    """A row for each precision: one that passed, with the fewest threads."""
    rows: dict[str, Record] = {}
    for row in sorted(device.results, key=lambda r: (r["status"] != "passed", int(r["threads"]))):
        rows.setdefault(row["precision"], row)
    return rows
