"""Measures latency and parity on devices, and keeps the results for the report."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.errors import InputError
from pipeline.bundles import open_bundle
from stages.devices.base import Measurement
from stages.devices.urls import open_device, parse_url
from stages.files import read_json, write_json
from stages.formatting import by_reason
from stages.runtimes.exported import load_exported
from stages.sections.export import Profile
from stages.tables import Table, of_records

FOLDER = Path("reports/devices")
_OF_GOLDEN = ("max_relative_error", "top1_agreement")


def measure(
    urls: Sequence[str],
    bundle: Path | None,
    profile: Profile,
    key: Ed25519PublicKey | None = None,
) -> Iterator[tuple[Measurement, Path]]:
    """Measure a bundle, or ``artifacts/onnx``, on each device; yield each result and its file.

    Raises:
        InputError: a URL is invalid (before anything runs), or some devices could not be measured
            (after all others were).
    """
    for url in urls:
        parse_url(url)
    if bundle is None and key is not None:
        raise InputError("--key: only bundles are signed; name one with --bundle, or omit --key")
    problems = []
    with contextlib.ExitStack() as stack:
        if bundle is None:
            exported = load_exported()
        else:
            exported = stack.enter_context(open_bundle(bundle, key)).exported
        for url in dict.fromkeys(urls):
            try:
                measured = open_device(url).measure(exported, profile)
            except InputError as error:
                problems.append(str(error))
                continue
            yield measured, keep(measured)
    if problems:
        raise InputError("; ".join(problems))


def keep(measured: Measurement) -> Path:
    """Write ``reports/devices/<device>.json``, which ``docs/files.md`` describes."""
    path = file_for(measured.device)
    kept = {"device": measured.device, "description": measured.description}
    write_json(path, {**kept, "results": measured.results})
    return path


def file_for(url: str) -> Path:
    """Return the file for the measurements of a device, with a recognisable name."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-").lower()
    path = FOLDER / f"{name}.json"
    if path.exists() and read_json(path).get("device") != url:
        digest = hashlib.sha256(url.encode()).hexdigest()[:8]
        path = FOLDER / f"{name}-{digest}.json"
    return path


def results(measured: Measurement) -> Table:
    """Build a table of a device's measurements for the terminal."""
    who = measured.description
    unknown = dict.fromkeys(_OF_GOLDEN)
    reasons = [
        {"what": f"{row['precision']} (threads: {row['threads']})", "reason": row["reason"]}
        for row in measured.results
        if row["reason"]
    ]
    return of_records(
        f"{measured.device}: {who['cpu'] or 'an unnamed processor'},"
        f" {who['runtime'] or 'nothing ran'}",
        ["precision", "provider"],
        (
            ([row["precision"], row["provider"]], row | (row["golden"] or unknown))
            for row in measured.results
        ),
        ["threads", "status", "p50_ms", "p90_ms", "n", *_OF_GOLDEN],
        notes=[
            *(f"{', '.join(rows)}: {why}." for why, rows in by_reason(reasons).items()),
            *_conditions(who),
        ],
    )


def _conditions(description: Mapping[str, Any]) -> Iterator[str]:
    """Yield the conditions of a phone's measurement."""
    if fixed := description.get("fixed_performance"):
        thermal = description["thermal"]
        speed = "Fixed performance" if fixed["on"] else f"No fixed performance ({fixed['reason']})"
        statuses = [thermal["status_before"], thermal["status_after"]]
        before_and_after = f"{statuses[0]} before and {statuses[1]} after"
        yield f"{speed}, thermal status {'unknown' if None in statuses else before_and_after}."
    browser = description.get("browser")
    if browser and not browser["isolated"]:
        yield f"Not isolated: one thread, a clock with steps of {browser['timer_ms']:g} ms."
