"""Latency and parity on devices, kept for the report: `ackd profile` and `ackd probe`."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.errors import InputError
from stages.bundle.opening import open_bundle
from stages.devices.base import Measurement, Opening
from stages.devices.urls import open_device, parse_url
from stages.files import read_json, write_json
from stages.runtimes.exported import Exported, load_exported
from stages.sections.export import Profile

FOLDER = Path("reports/devices")


def measure(
    urls: Sequence[str],
    bundle: Path | None,
    profile: Profile,
    opening: Opening,
    key: Ed25519PublicKey | None = None,
) -> Iterator[tuple[Measurement, Path]]:
    """Measure on each device in turn, and keep each result as soon as it is there.

    Args:
        urls: of the devices.
        bundle: a bundle, the file or the folder; None takes ``artifacts/onnx``.
        profile: how long to measure.
        opening: what is allowed.
        key: whose signature the bundle must bear.

    Yields:
        The measurement of a device, and the file that it is kept in.

    Raises:
        InputError: a URL is wrong (before anything runs), or some devices could not be measured
            (after all the others were).
    """
    for url in urls:
        parse_url(url)
    problems = []
    if bundle is None and key is not None:
        raise InputError("--key: only a bundle is signed; name one by --bundle, or leave it out")
    with _models(bundle, key) as exported:
        for url in dict.fromkeys(urls):
            try:
                measured = open_device(url, opening).measure(exported, profile)
            except InputError as error:
                problems.append(str(error))
                continue
            yield measured, keep(measured)
    if problems:
        raise InputError("; ".join(problems))


def keep(measured: Measurement) -> Path:
    """Write ``reports/devices/<device>.json``, as ``docs/files.md`` describes it."""
    path = file_for(measured.device)
    kept = {"device": measured.device, "description": measured.description}
    write_json(path, {**kept, "results": measured.results})
    return path


def file_for(url: str) -> Path:
    """Where the measurements of a device are kept, by a name that a reader recognises."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-").lower()
    path = FOLDER / f"{name}.json"
    if path.exists() and read_json(path).get("device") != url:
        digest = hashlib.sha256(url.encode()).hexdigest()[:8]
        path = FOLDER / f"{name}-{digest}.json"
    return path


@contextlib.contextmanager
def _models(bundle: Path | None, key: Ed25519PublicKey | None) -> Iterator[Exported]:
    if bundle is None:
        yield load_exported()
        return
    with open_bundle(bundle, key) as opened:
        yield opened.exported
