"""Collect the measured devices: those of ``profile.devices``, and those of `ackd profile`."""

from typing import NamedTuple

from stages.report_page.measurements import Measurements, Record


class Measured(NamedTuple):
    """A measured device."""

    url: str
    description: Record
    results: list[Record]  # as in reports/latency.json, only of the current models
    by_hand: bool  # whether `ackd profile` or `ackd probe` measured it instead of the chain


def devices(measured: Measurements) -> list[Measured]:
    """Collect all devices; goals and summary use the first."""
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
    """Return the rows of `ackd profile` for ``models``, the ``files`` of ``model.json``."""
    return [
        row
        for row in file["results"]
        if row["precision"] in models
        and row["model_sha256"] == models[row["precision"]]["static"]["sha256"]
    ]


def of_precisions(device: Measured) -> dict[str, Record]:
    """Choose a row for each precision: passed if possible, then with the fewest threads."""
    rows: dict[str, Record] = {}
    for row in sorted(device.results, key=lambda r: (r["status"] != "passed", int(r["threads"]))):
        rows.setdefault(row["precision"], row)
    return rows
